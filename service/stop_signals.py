"""What SIGTERM and Ctrl-C mean: the first asks for a plain stop, the second ends at once.

Flow: operating system -> [StopSignals] -> the loop, which looks at `asked` in each turn.

Invariants
  SS1  The first signal only sets a flag: a handler runs between any two instructions, so it must
       not touch sockets or clients that the loop may be in the middle of using.
  SS2  The second raises `Interrupted` wherever the process is, and so ends every wait.
  SS3  Behind the block the process is at its end, and signals no longer concern it.
"""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Self

from service.errors import MegaphoneError

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(MegaphoneError):
    """A second signal came before the plain stop was over."""


class StopSignals:
    """Counts stop signals for the length of a `with` block, the last thing a process does."""

    def __init__(self) -> None:
        """Handle nothing yet."""
        self._count = 0

    @property
    def asked(self) -> bool:
        """Whether a plain stop was asked for."""
        return self._count > 0

    def __enter__(self) -> Self:
        """Take the signals over; to be called in the main thread."""
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ignore them from here on (SS3)."""
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self._count += 1
        if self._count > 1:
            raise Interrupted(
                "interrupted by a second signal before the stop was over; what was not in the last "
                "checkpoint will be read and computed again"
            )
