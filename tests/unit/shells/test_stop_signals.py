"""The first signal is noted, the second raises, and behind the block none matters."""

from __future__ import annotations

import os
import signal

import pytest

from service.stop_signals import Interrupted, StopSignals

SIGNALS = [signal.SIGTERM, signal.SIGINT]


@pytest.fixture(autouse=True)
def _handlers_come_back():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_only_asks(number):
    with StopSignals() as signals:
        assert not signals.asked
        os.kill(os.getpid(), number)
        assert signals.asked


@pytest.mark.parametrize("second", SIGNALS)
def test_the_second_interrupts(second):
    with StopSignals():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Interrupted, match="second signal"):
            os.kill(os.getpid(), second)


def test_behind_the_block_signals_do_not_concern_the_process():
    with StopSignals() as signals:
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    assert not signals.asked
