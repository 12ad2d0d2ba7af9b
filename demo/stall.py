"""Measures how long the machine keeps a process that wants to run from running.

Flow: `python -m demo.stall` beside a run -> one JSON document when its stdin ends or on SIGTERM.

The probe asks for a wake-up every two milliseconds and notes by how much each comes late: what the
kernel, the hypervisor or a busy neighbour takes from everybody. It sleeps in between, as a spinning
probe would take one of two cores from the job. It keeps the worst of each window, so that stalls
can be told apart by time.

Cost: 1 to 2 % of a core.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import sys
from types import FrameType

from loadgen.clock import SystemClock

WINDOW_US = 100_000
_PERIOD_US = 2_000
_LOOK_EVERY = 50
#: A window whose worst wake-up came this little late is not worth a line in the result.
_NOTED_US = 1_000


def main() -> None:
    """Probe until told to stop, then print the windows as [start µs, worst lateness µs]."""
    gc.disable()
    stopping: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        stopping.append(number)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    windows = _probe(stopping)
    sys.stdout.write(json.dumps({"kind": "stalls", "window_us": WINDOW_US, "windows": windows}))
    sys.stdout.write("\n")


def _probe(stopping: list[int]) -> list[tuple[int, int]]:
    clock = SystemClock()
    windows: list[tuple[int, int]] = []
    start = clock.wall_us() // WINDOW_US * WINDOW_US
    worst = turns = 0
    while not stopping:
        before = clock.wall_us()
        clock.sleep_us(_PERIOD_US)
        worst = max(worst, clock.wall_us() - before - _PERIOD_US)
        if before >= start + WINDOW_US:
            if worst >= _NOTED_US:
                windows.append((start, worst))
            start, worst = before // WINDOW_US * WINDOW_US, 0
        turns += 1
        if turns % _LOOK_EVERY == 0 and _stdin_ended():
            break
    return windows


def _stdin_ended() -> bool:
    readable, _, _ = select.select([sys.stdin], [], [], 0)
    return bool(readable) and not os.read(sys.stdin.fileno(), 4096)


if __name__ == "__main__":
    main()
