"""Reading ahead, and bringing together what is of one size."""

import threading
import time
from collections.abc import Iterator

import pytest

from vertebra.tools.batches import WINDOW, ahead, batches, in_order


def test_all_are_read_in_order_and_only_so_far_ahead() -> None:
    begun: list[int] = []

    def read(item: int) -> int:
        begun.append(item)
        return item * item

    reading = ahead(read, range(50), 4)
    assert next(reading) == 0
    time.sleep(0.05)
    assert len(begun) <= 5
    assert list(reading) == [i * i for i in range(1, 50)]
    assert begun == list(range(50))


def test_reading_goes_on_while_the_caller_works() -> None:
    """The second item is read although the caller, who has the first, does nothing."""
    second = threading.Event()

    def read(item: int) -> int:
        if item == 1:
            second.set()
        return item

    reading = ahead(read, range(3), 2)
    assert next(reading) == 0
    assert second.wait(timeout=10)
    reading.close()


def test_errors_of_reading_and_an_early_end() -> None:
    def read(item: int) -> float:
        return 1 / item

    with pytest.raises(ZeroDivisionError):
        list(ahead(read, [1, 0, 2], 1))
    before = threading.active_count()
    reading = ahead(lambda item: item, range(100), 3)
    next(reading)
    reading.close()
    assert threading.active_count() <= before


def test_batches_are_of_one_key() -> None:
    items = "aabacaaabb"
    found = list(batches(enumerate(items), lambda item: item[1], 2))
    assert all(len({key for _, key in batch}) == 1 and len(batch) <= 2 for batch in found)
    assert sorted(number for batch in found for number, _ in batch) == list(range(10))
    assert len(found) == 6  # six a, three b, one c
    assert list(in_order((number, key) for batch in found for number, key in batch)) == list(items)


def test_one_at_a_time_keeps_the_order() -> None:
    assert list(batches("abca", str, 1)) == [["a"], ["b"], ["c"], ["a"]]


def test_no_item_waits_for_long() -> None:
    taken = 0

    def items() -> Iterator[str]:
        nonlocal taken
        for item in ["odd"] + ["common"] * 1000:
            taken += 1
            yield item

    found = batches(items(), str, 4)
    assert next(found) == ["odd"]
    assert taken == WINDOW * 4
    assert next(found) == ["common"] * 4
