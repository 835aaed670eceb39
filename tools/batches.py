"""Images on their way through a model: read ahead of it, and brought together by size."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Out = TypeVar("Out")

# So many batches wait for images of their sizes.
WINDOW = 4


def ahead(read: Callable[[Item], Out], items: Iterable[Item], depth: int) -> Generator[Out, None, None]:
    """Yield what `read` gives of each item, in order; a thread reads up to `depth` of them ahead of the caller.

    Close it to end the thread early.
    """
    waiting: deque[Future[Out]] = deque()
    pool = ThreadPoolExecutor(1, "reading")
    try:
        for item in items:
            waiting.append(pool.submit(read, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def batches(items: Iterable[Item], key: Callable[[Item], Hashable], most: int) -> Iterator[list[Item]]:
    """Yield lists of up to `most` items of the same key, such as a size.

    The item that has waited longest is always in the next list, so that it waits for no more than `WINDOW * most`.
    """
    waiting: list[Item] = []
    for item in items:
        waiting.append(item)
        if len(waiting) >= WINDOW * most or sum(key(each) == key(waiting[0]) for each in waiting) >= most:
            yield _taken(waiting, key, most)
    while waiting:
        yield _taken(waiting, key, most)


def _taken(waiting: list[Item], key: Callable[[Item], Hashable], most: int) -> list[Item]:
    """Take the first item out of those that wait, and others of its key."""
    chosen = [i for i, item in enumerate(waiting) if key(item) == key(waiting[0])][:most]
    return [waiting.pop(i) for i in reversed(chosen)][::-1]


def in_order(numbered: Iterable[tuple[int, Out]]) -> Iterator[Out]:
    """Yield items, which come with their numbers 0, 1, 2, … in any order, in the order of these."""
    early: dict[int, Out] = {}
    expected = 0
    for number, item in numbered:
        early[number] = item
        while expected in early:
            yield early.pop(expected)
            expected += 1
