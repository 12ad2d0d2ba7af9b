"""What SIGTERM, Ctrl-C and SIGUSR1 mean: a plain stop; a second of the first two: the end.

Flow: operating system -> [StopSignals] -> the loop, which looks at `asked` in each turn.

Invariants
  SS1  The first signal only sets a flag: a handler runs between any two instructions, so it must
       not touch sockets or clients that the loop may be in the middle of using.
  SS2  The second raises `Interrupted` wherever the process is, and so ends every wait.
  SS3  SIGUSR1 is the voice of whoever started the process and only ever asks, however often: it may
       come beside a signal of a user, which it must not turn into an interruption.
  SS4  Behind the block the process is at its end, and signals no longer concern it.
"""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Self

from service.errors import MegaphoneError

#: Of a user: the second one interrupts.
_OF_USERS = (signal.SIGTERM, signal.SIGINT)
#: Of the launcher (SS3); unlike SIGHUP it means nothing to terminals and to nohup.
ASKS_PLAINLY = signal.SIGUSR1


class Interrupted(MegaphoneError):
    """A second signal came before the plain stop was over."""


class StopSignals:
    """Takes the stop signals for the length of a `with` block, the last thing a process does."""

    def __init__(self) -> None:
        """Handle nothing yet."""
        self._count = 0
        self._launcher_asked = False

    @property
    def asked(self) -> bool:
        """Whether a plain stop was asked for."""
        return self._launcher_asked or self._count > 0

    def __enter__(self) -> Self:
        """Take the signals over; to be called in the main thread."""
        for number in _OF_USERS:
            signal.signal(number, self._on_signal)
        signal.signal(ASKS_PLAINLY, self._on_launcher)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ignore them from here on (SS4)."""
        for number in (*_OF_USERS, ASKS_PLAINLY):
            signal.signal(number, signal.SIG_IGN)

    def _on_launcher(self, number: int, _: FrameType | None) -> None:
        self._launcher_asked = True

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self._count += 1
        if self._count > 1:
            raise Interrupted(
                "interrupted by a second signal before the stop was over; what was not in the last "
                "checkpoint will be read and computed again"
            )
