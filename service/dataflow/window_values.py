"""Windows as a flow names them: how long, how often, in words of time.

Flow: user's module -> [tumbling, sliding, session, given] -> `window(...)` -> [panes_of],
once the unit of the event time is known -> the stores of windows.
"""

from __future__ import annotations

from dataclasses import dataclass

from service.dataflow.event_time import Unit, in_unit
from service.durations import Duration
from service.errors import GraphError
from service.statestore.panes import Panes

#: Columns that say the window of a row, in what windows give and in what `given` reads.
START = "window_start"
END = "window_end"
#: Column of the one key under which sessions of all rows are kept; no stream of a user has it.
TOGETHER = "window.together"


@dataclass(frozen=True, slots=True)
class Regular:
    """Windows of `size` that begin at every multiple of `every` since 1970."""

    size: Duration
    every: Duration

    @property
    def described(self) -> str:
        """For people."""
        return f"of {self.size} every {self.every}"


@dataclass(frozen=True, slots=True)
class Given:
    """The windows that rows say themselves, in `window_start` and `window_end`."""

    @property
    def described(self) -> str:
        """For people."""
        return "that are given"


@dataclass(frozen=True, slots=True)
class Session:
    """Windows of rows that are less than `gap` apart, of each key or of all."""

    gap: Duration

    @property
    def described(self) -> str:
        """For people."""
        return f"of sessions, {self.gap} apart"


Window = Regular | Given | Session


def tumbling(size: Duration) -> Window:
    """Windows [start, start + size), one behind the other, aligned to 1970.

    Raises:
        GraphError: the size is no length of time, or zero.

    >>> tumbling("10s")
    Regular(size='10s', every='10s')
    """
    return sliding(size, every=size)


def sliding(size: Duration, *, every: Duration) -> Window:
    """Windows [start, start + size) for each start that is a multiple of `every` since 1970.

    Raises:
        GraphError: one is no length of time or zero, or windows would leave gaps.

    >>> sliding("10s", every="2s")
    Regular(size='10s', every='2s')
    """
    window = Regular(size, every)
    lengths = {what: in_unit(length, "ns", what) for what, length in _lengths(window).items()}
    for what, length in lengths.items():
        if not length:
            raise GraphError(
                f"the {what} of a window is {size if what == 'size' else every}; it must be longer"
            )
    if lengths["every"] > lengths["size"]:
        raise GraphError(
            f"windows of {size} every {every} would leave gaps, in which rows belong to none; "
            "make `every` at most the size"
        )
    return window


def given() -> Window:
    """The window that each row names in its columns `window_start` and `window_end`.

    So what windows gave can be computed with per window again: the greatest of counts, say.
    """
    return Given()


def session(gap: Duration) -> Window:
    """Of each key, windows from a row to `gap` after the last one that came before that.

    A row opens [its time, its time + gap); windows of a key that overlap become one. Where there
    is no key they are of all rows.

    Raises:
        GraphError: the gap is no length of time, or zero.

    >>> session("30s")
    Session(gap='30s')
    """
    if not in_unit(gap, "ns", "gap"):
        raise GraphError(f"the gap of sessions is {gap}; it must be longer")
    return Session(gap)


def require_window(user: str, window: object, lateness: Duration) -> None:
    """Refuse what is no window, or a lateness that is no length of time.

    Raises:
        GraphError: the text names the `user`.
    """
    if not isinstance(window, Window):
        raise GraphError(
            f"{user!r}: {window!r} is no window; use tumbling(...), sliding(...), "
            "session(...) or given()"
        )
    in_unit(lateness, "ns", f"allowed_lateness of {user!r}")


def panes_of(user: str, window: Regular | Given, lateness: Duration, unit: Unit) -> Panes:
    """The windows, in the unit of event times.

    Raises:
        GraphError: a length is no whole number of the unit; the text names the `user`.
    """
    longer = in_unit(lateness, unit, f"allowed_lateness of {user!r}")
    if isinstance(window, Given):
        return Panes.given(longer)
    lengths = {
        what: in_unit(length, unit, f"{what} of the windows of {user!r}")
        for what, length in _lengths(window).items()
    }
    return Panes.of(lengths["size"], lengths["every"], longer)


def _lengths(window: Regular) -> dict[str, Duration]:
    return {"size": window.size, "every": window.every}
