"""Requests of users: what a record on the control topic asks for, or why it asks for nothing.

Flow: `<app>.control` -> [parse] -> Request -> plan -> controller; a `Rejected` goes to
`<app>.status`. Pure. What needs no knowledge of the job is judged here; bins, workers and times are
judged against the job by `plan` and `controller`.

Invariants
  Q1  Any bytes give a Request or a Rejected; nothing is guessed, no field is ignored.
  Q2  A Rejected carries the request's own id if it has a usable one, else `invalid@<offset>`, so
      that its status has a key that no request can choose by accident.
  Q3  The reason is a sentence that says what is wrong, with the value, and what would be right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Never

import msgspec

from service.errors import NotYetSupported, UsageError
from service.migration.json_words import kind_of, shown
from service.migration.records import DECODE_ERRORS, MAX_EPOCH
from service.migration.strategy import Assignment, Moves, Strategy, strategy_named

#: Kafka's own default limit of a record; nothing larger is looked at.
RECORD_BYTES_MAX = 1 << 20
#: An id is a Kafka key and is shown to people.
ID_CHARS_MAX = 200
#: 65,536 pairs fit one log record below RECORD_BYTES_MAX at 12 bytes a pair.
MOVES_MAX = 1 << 16
#: A wave may be put off by as much as the first cut.
AFTER_US_MAX = 3_600_000_000
#: A rebalance leaves a worker alone that has up to a tenth more than the mean.
THRESHOLD_DEFAULT = 0.1
THRESHOLD_MAX = 1_000


class Kind(StrEnum):
    """What a request asks for."""

    MOVE = "move"
    RESCALE = "rescale"
    REBALANCE = "rebalance"
    PAUSE = "pause"
    RESUME = "resume"
    ABORT = "abort"
    CHECKPOINT = "checkpoint"


#: Kinds that the design names and this version refuses: what they are, what to do instead.
_LATER = {
    "admit": ("a worker joining a running job", "stop the job and start it with more --workers"),
    "retire": ("a worker leaving a running job", "move its bins away and let it run empty"),
    "stop": ("stopping by request", "send SIGTERM to the controller"),
    "move-partitions": ("moving source partitions", "they are dealt out again at each start"),
    "move-sinks": ("moving sink groups", "they are dealt out again at each start"),
}
_PLANNED = ("strategy", "batch", "at", "precopy", "queue", "dry_run")
#: The fields of each kind, beside id and kind; the first is what it cannot do without, if any.
_FIELDS_OF: Mapping[Kind, tuple[str, ...]] = {
    Kind.MOVE: ("moves", "waves", "after_us", *_PLANNED),
    Kind.RESCALE: ("workers", *_PLANNED),
    Kind.REBALANCE: ("threshold", "by", *_PLANNED),
    Kind.PAUSE: ("plan",),
    Kind.RESUME: ("plan",),
    Kind.ABORT: ("plan",),
    Kind.CHECKPOINT: (),
}
_FIELDS = ("id", "kind", *dict.fromkeys(name for names in _FIELDS_OF.values() for name in names))
#: A request that has none of these lacks what it is about.
_NEEDS: Mapping[Kind, tuple[tuple[str, ...], str]] = {
    Kind.MOVE: (("moves", "waves"), "moves: a list of [bin, worker] pairs"),
    Kind.RESCALE: (("workers",), "workers: the number of workers to spread the bins over"),
}


class LoadKind(StrEnum):
    """What a rebalance evens out."""

    UPDATES = "updates"
    BYTES = "bytes"
    ROWS = "rows"


@dataclass(frozen=True, slots=True)
class Request:
    """A well formed request; whether the job can do it is not known yet."""

    id: str
    kind: Kind
    strategy: Strategy = Strategy.BATCHED
    #: (bin, worker) in the order asked for, bins distinct; for `move` without waves of its own.
    moves: Moves = ()
    #: Waves of a `move` as asked for, bins distinct in each; then the strategy counts for nothing.
    waves: tuple[Moves, ...] = ()
    #: Of each wave, earliest time after the plan's beginning, µs; empty: as soon as may be.
    after_us: tuple[int, ...] = ()
    #: Number of workers to spread over; 0 but for `rescale`.
    workers: int = 0
    #: How far above the mean a worker may stay, and in what, for `rebalance`.
    threshold: float = THRESHOLD_DEFAULT
    by: LoadKind = LoadKind.UPDATES
    #: Bins a wave for `batched`, a pair for `optimized`; None: chosen by the plan.
    batch: int | None = None
    #: First cut, µs; None: the earliest possible.
    at: int | None = None
    #: Copy bins to their next owners before they move.
    precopy: bool = False
    #: Wait for the plan under way, if there is one, and not be rejected.
    queue: bool = False
    #: Say what it would do, and do nothing.
    dry_run: bool = False
    #: Id of the plan that is to pause, go on or end; None: the one under way.
    plan: str | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """A request that has no effect, and why."""

    id: str
    reason: str


class _InvalidField(Exception):
    """Ends the reading of one request; never leaves this module."""


def parse(value: bytes, offset: int) -> Request | Rejected:
    """Read the value of a control record; b"" stands for a record without a value.

    Cost: linear in the bytes; nothing over RECORD_BYTES_MAX is parsed.
    """
    unknown = f"invalid@{offset}"
    if len(value) > RECORD_BYTES_MAX:
        limit = f"{RECORD_BYTES_MAX:,} bytes are allowed"
        return Rejected(unknown, f"the record has {len(value):,} bytes; {limit}")
    if not value:
        return Rejected(unknown, "the record is empty")
    try:
        body: object = msgspec.json.decode(value)
    except DECODE_ERRORS as error:
        return Rejected(unknown, f"the record is not JSON: {error}")
    if not isinstance(body, dict):
        return Rejected(unknown, f"the record is {kind_of(body)}, not a JSON object")
    try:
        identity = _identity(body)
    except _InvalidField as error:
        return Rejected(unknown, str(error))
    try:
        return _request(identity, body)
    except _InvalidField as error:
        return Rejected(identity, str(error))


def _request(identity: str, body: Mapping[str, object]) -> Request:
    for name in body:
        if name not in _FIELDS:
            _refuse(f"unknown field {shown(name)}; known are {', '.join(_FIELDS)}")
    kind = _kind(body.get("kind"))
    values = {name: _READ[name](name, body.get(name)) for name in _FIELDS if name in _READ}
    values = {name: value for name, value in values.items() if value is not None}
    needed, what = _NEEDS.get(kind, ((), ""))
    if needed and not any(name in values for name in needed):
        _refuse(f"kind '{kind}' needs {what}")
    for name, value in values.items():
        says_nothing = value is False or value == ()
        if name not in _FIELDS_OF[kind] and not says_nothing:
            others = " and ".join(f"'{k}'" for k, names in _FIELDS_OF.items() if name in names)
            _refuse(f"{name} belongs to kind {others}; kind '{kind}' must not have it")
    if "waves" in values:
        _check_waves(values)
    elif "after_us" in values:
        _refuse("after_us needs waves: a list of lists of [bin, worker] pairs")
    own = {name: value for name, value in values.items() if name in _FIELDS_OF[kind]}
    return Request(identity, kind, **own)  # type: ignore[arg-type]  # _READ gives each its type


def _check_waves(values: Mapping[str, object]) -> None:
    """Waves say everything there is to say about their order."""
    for name in ("moves", "strategy", "batch"):
        if name in values:
            _refuse(f"{name} and waves exclude each other; waves are moved as they are")
    after, waves = values.get("after_us"), values["waves"]
    assert isinstance(waves, tuple), "_READ gives a tuple"
    if isinstance(after, tuple) and len(after) != len(waves):
        _refuse(f"after_us has {len(after)} times for {len(waves)} waves")


def _identity(body: Mapping[str, object]) -> str:
    if "id" not in body:
        _refuse("the request has no id")
    identity = body["id"]
    if not isinstance(identity, str):
        _refuse(f"id is {kind_of(identity)}, not a string")
    if not identity:
        _refuse("id is an empty string")
    if len(identity) > ID_CHARS_MAX:
        _refuse(f"id has {len(identity)} characters; {ID_CHARS_MAX} are allowed")
    if not identity.isprintable():
        _refuse(f"id {shown(identity)} holds characters that cannot be printed")
    return identity


def _kind(value: object) -> Kind:
    known = f"one of {', '.join(Kind)}"
    if value is None:
        _refuse(f"the request has no kind; it must be {known}")
    if isinstance(value, str) and value in _LATER:
        _refuse(str(NotYetSupported(*_LATER[value])))
    if not isinstance(value, str) or value not in list(Kind):
        _refuse(f"unknown kind {shown(value)}; it must be {known}")
    return Kind(value)


def _strategy(_: str, value: object) -> Strategy | None:
    if value is None:
        return None
    if not isinstance(value, str):
        _refuse(f"strategy is {kind_of(value)}, not a string")
    try:
        return strategy_named(value)
    except UsageError as error:
        raise _InvalidField(str(error)) from error


def _integer(name: str, value: object, least: int, most: int) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        _refuse(f"{name} is {kind_of(value)}, not an integer")
    if not least <= value <= most:
        _refuse(f"{name} is {shown(value)}; it must be from {least} to {most}")
    return value


def _part(name: str, value: object) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool):
        _refuse(f"{name} is {kind_of(value)}, not a number")
    if not 0 <= value <= THRESHOLD_MAX:
        _refuse(f"{name} is {shown(value)}; it must be from 0 to {THRESHOLD_MAX}")
    return float(value)


def _load_kind(name: str, value: object) -> LoadKind | None:
    if value is None:
        return None
    if not isinstance(value, str) or value not in list(LoadKind):
        _refuse(f"{name} is {shown(value)}; it must be one of {', '.join(LoadKind)}")
    return LoadKind(value)


def _flag(name: str, value: object) -> bool | None:
    if value is not None and not isinstance(value, bool):
        _refuse(f"{name} is {kind_of(value)}, not a boolean")
    return value


def _plan(name: str, value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        _refuse(f"{name} is {kind_of(value)}, not a string: the id of the request that began it")
    return value


def _waves(name: str, value: object) -> tuple[Moves, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        _refuse(f"{name} is {kind_of(value)}, not a list of waves")
    waves = []
    for index, wave in enumerate(value):
        moves = _moves(f"{name}[{index}]", wave)
        if not moves:
            _refuse(f"{name}[{index}] is {shown(wave)}; a wave names at least one bin")
        waves.append(moves)
    if sum(map(len, waves)) > MOVES_MAX:
        _refuse(f"{name} has over {MOVES_MAX:,} pairs; more are not allowed in one request")
    return tuple(waves)


def _after_us(name: str, value: object) -> tuple[int, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        _refuse(f"{name} is {kind_of(value)}, not a list of times")
    times: list[int] = []
    for index, time in enumerate(value):
        read = _integer(f"{name}[{index}]", time, times[-1] if times else 0, AFTER_US_MAX)
        if read is None:
            _refuse(f"{name}[{index}] is null, not an integer")
        times.append(read)
    return tuple(times)


def _moves(name: str, value: object) -> Moves | None:
    if value is None:
        return None
    if not isinstance(value, list):
        _refuse(f"{name} is {kind_of(value)}, not a list of [bin, worker] pairs")
    if len(value) > MOVES_MAX:
        _refuse(f"{name} has {len(value):,} pairs; {MOVES_MAX:,} are allowed in one request")
    moves: list[Assignment] = []
    seen: set[int] = set()
    for index, pair in enumerate(value):
        if not isinstance(pair, list) or len(pair) != 2:
            _refuse(f"{name}[{index}] is {shown(pair)}, not a pair [bin, worker]")
        bin_, worker = pair
        for what, number in (("bin", bin_), ("worker", worker)):
            if not isinstance(number, int) or isinstance(number, bool):
                _refuse(f"{name}[{index}]: {what} {shown(number)} is not an integer")
            if not 0 <= number <= MAX_EPOCH:
                _refuse(f"{name}[{index}]: unknown {what} {shown(number)}")
        if bin_ in seen:
            _refuse(f"{name}[{index}]: bin {shown(bin_)} is named twice")
        seen.add(bin_)
        moves.append((bin_, worker))
    return tuple(moves)


def _refuse(reason: str) -> Never:
    raise _InvalidField(reason)


#: How each field is read: its value, None where it says nothing.
_READ: Mapping[str, Callable[[str, object], object]] = {
    "moves": _moves,
    "waves": _waves,
    "after_us": _after_us,
    "workers": partial(_integer, least=1, most=MAX_EPOCH),
    "threshold": _part,
    "by": _load_kind,
    "strategy": _strategy,
    "batch": partial(_integer, least=1, most=MOVES_MAX),
    "at": partial(_integer, least=0, most=MAX_EPOCH),
    "precopy": _flag,
    "queue": _flag,
    "dry_run": _flag,
    "plan": _plan,
}
