"""Options that go together, and those that do not."""

import pytest

from vertebra.backbones import InputError
from vertebra.tools.ways import Way, check_ways

WAYS = (Way("a RUN", ("RUN",), ("--best", "--data")), Way("A with B", ("--a", "--b"), ("--data",)))


@pytest.mark.parametrize("options", [["RUN"], ["RUN", "--data", "--best"], ["--b", "--a"], ["--data", "--a", "--b"]])
def test_options_of_one_way(options: list[str]) -> None:
    check_ways(WAYS, options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "name a RUN, or A with B"),
        (["--a", "--data"], "name a RUN, or A with B; only --a, --data came"),
        (["--a", "--b", "--best"], "--best cannot go with A with B; --best goes with a RUN"),
        (["RUN", "--a"], "--a cannot go with a RUN"),
    ],
)
def test_options_of_none(options: list[str], message: str) -> None:
    with pytest.raises(InputError) as refused:
        check_ways(WAYS, options)
    assert str(refused.value) == message
