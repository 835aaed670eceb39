"""The pause of Python's search for cycles ends as it began, also after an error."""

import gc

import pytest

from vertebra.tools.evaluation.many_records import many_records


@many_records()
def fail() -> None:
    raise KeyError("while it paused" if not gc.isenabled() else "")


@pytest.mark.parametrize("enabled", [True, False])
def test_collection_is_as_it_was(enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(KeyError, match="while it paused"):
            fail()
        assert gc.isenabled() == enabled
    finally:
        gc.enable()
