"""The only place of the load generator that reads clocks.

Intended and measured times are wall time, because they are compared between processes. Pure parts
take times as arguments; shells hold a `Clock`, so that tests can hold another.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What a shell may ask about time."""

    def wall_us(self) -> int:
        """Microseconds since 1970; may jump."""
        ...

    def cpu_us(self) -> int:
        """Microseconds of processor time this process has used, all threads."""
        ...

    def sleep_us(self, duration_us: int) -> None:
        """Wait for a time > 0."""
        ...


class SystemClock:
    """The clock of the machine."""

    def wall_us(self) -> int:
        """Microseconds since 1970."""
        return time.time_ns() // 1000

    def cpu_us(self) -> int:
        """Microseconds of processor time of this process."""
        return time.process_time_ns() // 1000

    def sleep_us(self, duration_us: int) -> None:
        """Sleep."""
        time.sleep(duration_us / 1e6)
