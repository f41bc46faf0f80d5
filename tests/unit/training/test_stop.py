"""The signals that ask a run to save and end."""

import signal

import pytest

from openddpm.training.stop import StopRequest


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_signal_is_remembered(name: str) -> None:
    """The first signal is kept for whoever asks, and the handler of before is put back."""
    sent = getattr(signal, name)
    before = signal.signal(sent, signal.default_int_handler)
    try:
        with StopRequest() as stop:
            signal.raise_signal(sent)
            signal.raise_signal(signal.SIGTERM)
            assert stop.signal == sent
        assert signal.getsignal(sent) is signal.default_int_handler
    finally:
        signal.signal(sent, before)
