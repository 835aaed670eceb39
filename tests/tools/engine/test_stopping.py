"""What a signal to stop does: during a step, between steps, and twice."""

import signal

import pytest

from vertebra.tools.engine.stopping import SIGNALS, Interrupted, Stopping


@pytest.fixture(autouse=True)
def handled() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell ignores it


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_while_a_step_is_under_way(number: signal.Signals) -> None:
    with Stopping("stopped") as stopping:
        with stopping.noting():
            signal.raise_signal(number)
        assert stopping.asked == number


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)])
def test_a_signal_raises_otherwise(number: signal.Signals, status: int) -> None:
    """The status is what a shell gives a process that the signal has ended: 128 and its number."""
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="continue so") as raised, Stopping("continue so"):
        signal.raise_signal(number)
    assert raised.value.status == status
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_acts_at_once() -> None:
    with Stopping("stopped") as stopping, stopping.noting():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_slurm_may_repeat_itself() -> None:
    with Stopping("stopped") as stopping, stopping.noting():
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    assert stopping.asked == signal.SIGTERM
