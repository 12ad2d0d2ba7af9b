"""Places at which a process can be told to die, for tests of what is left behind.

Flow: MEGAPHONE_FAIL_AT=<slot>/<point>[/<nth>] -> [arm] -> the process of that slot kills itself
when it comes to the point for the nth time. Tests of whole jobs in one process use [at] with an
action of their own.

The engine has no such places in its code: a point is a method of it that is wrapped when asked for.

Invariants
  FP1  Without the variable nothing is wrapped; with it, and without MEGAPHONE_FAILING_ALLOWED=1,
       the process refuses to start: nobody loses a process to a variable left behind.
  FP2  A process dies by SIGKILL, at once: nothing is flushed, closed or told.
"""

from __future__ import annotations

import importlib
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from service.errors import UsageError

VARIABLE = "MEGAPHONE_FAIL_AT"
ALLOWED = "MEGAPHONE_FAILING_ALLOWED"


@dataclass(frozen=True, slots=True)
class FailPoint:
    """A call of the engine, and whether the point lies before or behind it."""

    module: str
    #: Attributes that lead to the function: a class and its method, or a function.
    path: tuple[str, ...]
    behind: bool
    #: Roles that come to it.
    by: tuple[str, ...]


def _point(target: str, by: str, *, behind: bool = True) -> FailPoint:
    module, _, path = target.partition(":")
    return FailPoint(module, tuple(path.split(".")), behind, tuple(by.split()))


#: Steps of a bin's copy ahead of its move (pre-copy), of its way from one worker to another, and of
#: a checkpoint's way to its manifest. Those of tiers are of a plain stop of a worker with a memory
#: budget, which writes no copies but what its database lacks.
FAIL_POINTS: Mapping[str, FailPoint] = {
    "copy.announced": _point("service.migration.copies:Copies.announced", "worker"),
    "copy.begun": _point("service.migration.copies:Copies._enter", "worker"),
    "copy.staged": _point("service.statestore.copying:BinCopier.stage", "worker"),
    "copy.round": _point("service.migration.copies:Copies._turn", "worker"),
    "copy.heard": _point("service.migration.precopy:PreCopying.report", "controller"),
    "copy.issued": _point("service.migration.precopy:PreCopying.moved", "controller"),
    "copy.claimed": _point("service.migration.copies:Copies.moved", "worker"),
    "copy.left": _point("service.migration.copies:Copies.left", "worker"),
    "copy.adopted": _point("service.statestore.copying:BinCopier._require_told", "worker"),
    "move.read": _point("service.migration.departures:Departures.add", "worker"),
    "move.extracted": _point("service.migration.departures:Departures._begin", "worker"),
    "move.arriving": _point("service.migration.arrivals:Arrivals.receive", "worker", behind=False),
    "move.received": _point("service.migration.arrivals:Arrivals.receive", "worker"),
    "move.released": _point("service.migration.arrivals:Arrivals._report", "worker"),
    "checkpoint.read": _point("service.migration.cutting:Cutting.add", "worker"),
    "checkpoint.ticked": _point("service.cuts:CheckpointParts.before_tick", "gateway"),
    "checkpoint.copying": _point("service.statestore.frozen:Freezing.copy", "worker"),
    "checkpoint.copied": _point("service.cuts:CheckpointParts.take_frozen", "gateway worker"),
    "checkpoint.writing": _point(
        "service.statestore.checkpoint:write_entries", "worker", behind=False
    ),
    "checkpoint.half-written": _point(
        "service.statestore._rocks:write_checkpoint_folder", "worker"
    ),
    "checkpoint.unnamed": _point("service.statestore.checkpoint:_free_name", "worker"),
    "checkpoint.written": _point("service.statestore.checkpoint:write_entries", "worker"),
    "checkpoint.passed": _point(
        "service.cuts:CheckpointParts.read_below", "gateway worker", behind=False
    ),
    "checkpoint.told": _point("service.cuts:CheckpointParts.done", "gateway worker"),
    "tiers.writing": _point("service.slot_folder:write_tiered", "worker", behind=False),
    "tiers.ingested": _point(
        "service.statestore._rocks:LiveDatabase.checkpoint", "worker", behind=False
    ),
    "tiers.half-written": _point(
        "service.statestore.slot_database:SlotDatabase.checkpoint", "worker"
    ),
    "tiers.written": _point("service.slot_folder:write_tiered", "worker"),
    "manifest.due": _point(
        "service.controller_process:ControllerProcess._record", "controller", behind=False
    ),
    "manifest.written": _point(
        "service.controller_process:ControllerProcess._record", "controller"
    ),
}


def arm(slot: str, environment: Mapping[str, str]) -> None:
    """Wrap the point that the environment names, if it is one of this slot's (FP1, FP2).

    Raises:
        UsageError: the variable is malformed, names no point, or is not allowed.
    """
    asked = environment.get(VARIABLE)
    if asked is None:
        return
    if environment.get(ALLOWED) != "1":
        raise UsageError(
            f"{VARIABLE} asks a process to kill itself, which is for tests; unset it, or set "
            f"{ALLOWED}=1"
        )
    name, point, nth = _read(asked)
    if name == slot:
        _wrap(FAIL_POINTS[point], nth, _die)


@contextmanager
def at(point: str, nth: int, action: Callable[[], None]) -> Iterator[None]:
    """Call `action` when this process comes to the point for the nth time, and within only."""
    undo = _wrap(FAIL_POINTS[point], nth, action)
    try:
        yield
    finally:
        undo()


def _read(asked: str) -> tuple[str, str, int]:
    parts = asked.split("/")
    if len(parts) == 2:
        parts.append("1")
    if len(parts) != 3 or parts[1] not in FAIL_POINTS or not parts[2].isdecimal():
        raise UsageError(
            f"{VARIABLE}={asked}: write <slot>/<point>[/<nth>]; points are {', '.join(FAIL_POINTS)}"
        )
    return parts[0], parts[1], int(parts[2])


def _wrap(point: FailPoint, nth: int, action: Callable[[], None]) -> Callable[[], None]:
    """Put the action before or behind the nth call; returns what takes it away again."""
    holder: Any = importlib.import_module(point.module)
    *owners, name = point.path
    for owner in owners:
        holder = getattr(holder, owner)
    original = getattr(holder, name)
    left = nth

    def wrapped(*arguments: Any, **named: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0 and not point.behind:
            action()
        result = original(*arguments, **named)
        if left == 0 and point.behind:
            action()
        return result

    setattr(holder, name, wrapped)
    return lambda: setattr(holder, name, original)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
