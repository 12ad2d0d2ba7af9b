"""The only place that reads clocks.

Pure parts take times as arguments; shells hold a `Clock` and pass its readings in. Times are
integers: microseconds since 1970 for wall time, nanoseconds for monotonic time.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What a shell may ask about time."""

    def wall_us(self) -> int:
        """Microseconds since 1970; may jump."""
        ...

    def monotonic_ns(self) -> int:
        """Nanoseconds since an arbitrary start; never goes back."""
        ...


class SystemClock:
    """The clock of the machine."""

    def wall_us(self) -> int:
        """Microseconds since 1970."""
        return time.time_ns() // 1000

    def monotonic_ns(self) -> int:
        """Nanoseconds of the monotonic clock."""
        return time.monotonic_ns()


def sleep(seconds: float) -> None:
    """Do nothing for a time, to the kernel's precision (about 60 us), deaf to everything."""
    time.sleep(seconds)
