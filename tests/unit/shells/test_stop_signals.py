"""The first signal is noted, the second raises, and behind the block none matters."""

from __future__ import annotations

import os
import signal

import pytest

from service.stop_signals import ASKS_PLAINLY, Interrupted, StopSignals

SIGNALS = [signal.SIGTERM, signal.SIGINT]


@pytest.fixture(autouse=True)
def _handlers_come_back():
    before = {number: signal.getsignal(number) for number in (*SIGNALS, ASKS_PLAINLY)}
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


@pytest.mark.parametrize("first", [*SIGNALS, ASKS_PLAINLY])
def test_who_started_it_asks_and_never_interrupts(first):
    with StopSignals() as signals:
        os.kill(os.getpid(), first)
        assert signals.asked
        os.kill(os.getpid(), ASKS_PLAINLY)
        os.kill(os.getpid(), ASKS_PLAINLY)
        assert signals.asked


def test_a_user_interrupts_what_the_launcher_has_asked_for_with_two_signals():
    with StopSignals():
        os.kill(os.getpid(), ASKS_PLAINLY)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGTERM)


def test_behind_the_block_signals_do_not_concern_the_process():
    with StopSignals() as signals:
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), ASKS_PLAINLY)
    assert not signals.asked
