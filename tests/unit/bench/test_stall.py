"""The stall probe: what it keeps, and that it comes and goes with its block.

Cannot catch: a probe that is itself the cause of stalls; its cost is stated, not tested.
"""

from __future__ import annotations

import os

import pytest

from service.bench.stall import StallProbe, largest_stall_ns
from service.errors import MegaphoneError

_MS = 1_000_000


class _Clock:
    """Readings of a script; at its end, something stands in the pipe."""

    def __init__(self, readings: list[int], pipe: int) -> None:
        self._readings = readings
        self._pipe = pipe

    def monotonic_ns(self) -> int:
        reading = self._readings.pop(0)
        if len(self._readings) == 0:
            os.write(self._pipe, b".")
        return reading

    def wall_us(self) -> int:
        raise AssertionError("stalls are measured on the monotonic clock")


@pytest.mark.parametrize(
    ("readings", "stall"),
    [
        ([0], 0),
        ([0, _MS, _MS], 0),
        ([0, 4 * _MS, 4 * _MS, 5 * _MS, 5 * _MS], 3 * _MS),
        ([0, 2 * _MS, 9 * _MS, 12 * _MS, 12 * _MS], 2 * _MS),
    ],
)
def test_a_stall_is_what_a_wake_up_comes_late_and_the_largest_is_kept(readings, stall):
    ours, theirs = os.pipe()
    try:
        assert largest_stall_ns(_Clock(readings, theirs), ours) == stall
    finally:
        os.close(ours)
        os.close(theirs)


def test_the_probe_answers_when_its_block_ends():
    with StallProbe() as probe:
        assert probe.stall_ms == 0.0
    assert probe.stall_ms >= 0.0


def test_a_probe_that_ended_by_itself_is_an_error_unless_the_block_failed():
    probe = StallProbe()
    with pytest.raises(MegaphoneError, match="no answer"), probe:
        probe.end()
    with pytest.raises(KeyError):
        _fail_beside_a_probe_that_ended()


def _fail_beside_a_probe_that_ended() -> None:
    with StallProbe() as probe:
        probe.end()
        raise KeyError
