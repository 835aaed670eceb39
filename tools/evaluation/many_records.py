"""Making millions of records without Python's search for cycles, of which there are none among them."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def many_records() -> Iterator[None]:
    """Pause the collection of cycles; also a decorator of functions.

    It looks through all that is there each time that there is a quarter more, which took half of the time to read
    500,000 masks.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
