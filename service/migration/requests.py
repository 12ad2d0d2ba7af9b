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

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Never

import msgspec

from service.errors import NotYetSupported, UsageError
from service.migration.records import DECODE_ERRORS, MAX_EPOCH
from service.migration.strategy import Assignment, Strategy, strategy_named

#: Kafka's own default limit of a record; nothing larger is looked at.
RECORD_BYTES_MAX = 1 << 20
#: An id is a Kafka key and is shown to people.
ID_CHARS_MAX = 200
#: 65,536 pairs fit one log record below RECORD_BYTES_MAX at 12 bytes a pair.
MOVES_MAX = 1 << 16
#: Waves of a batched plan whose request does not say how many bins a wave has.
WAVES_DEFAULT = 16
#: Values are shown in a reason up to this length.
_SHOWN_CHARS = 60


class Kind(StrEnum):
    """What a request asks for."""

    MOVE = "move"
    RESCALE = "rescale"


#: Kinds that the design names and this version refuses: what they are, what to do instead.
_LATER = {
    "admit": ("a worker joining a running job", "stop the job and start it with more --workers"),
    "retire": ("a worker leaving a running job", "move its bins away and let it run empty"),
    "checkpoint": ("a checkpoint while the job goes on", "a plain stop writes one"),
    "stop": ("stopping by request", "send SIGTERM to the controller"),
    "pause": ("pausing a plan", "ask for fewer bins at a time"),
    "abort": ("aborting a plan", "move the bins back when it has completed"),
    "move-partitions": ("moving source partitions", "they are dealt out again at each start"),
    "move-sinks": ("moving sink groups", "they are dealt out again at each start"),
}
_FIELDS = ("id", "kind", "moves", "workers", "strategy", "batch", "at")


@dataclass(frozen=True, slots=True)
class Request:
    """A well formed request; whether the job can do it is not known yet."""

    id: str
    kind: Kind
    strategy: Strategy
    #: (bin, worker) in the order asked for, bins distinct; empty for `rescale`.
    moves: tuple[Assignment, ...] = ()
    #: Number of workers to spread over; 0 for `move`.
    workers: int = 0
    #: Bins a wave for `batched`; None: chosen by the plan.
    batch: int | None = None
    #: First cut, µs; None: the earliest possible.
    at: int | None = None


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
        return Rejected(unknown, f"the record is {_kind_of(body)}, not a JSON object")
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
            _refuse(f"unknown field {_shown(name)}; known are {', '.join(_FIELDS)}")
    kind = _kind(body.get("kind"))
    batch = _integer(body, "batch", 1, MOVES_MAX)
    strategy = _strategy(body.get("strategy"))
    at = _integer(body, "at", 0, MAX_EPOCH)
    moves = _moves(body.get("moves"))
    workers = _integer(body, "workers", 1, MAX_EPOCH)
    if kind is Kind.MOVE:
        if moves is None:
            _refuse("kind 'move' needs moves: a list of [bin, worker] pairs")
        if workers is not None:
            _refuse("workers belongs to kind 'rescale'; kind 'move' must not have it")
        return Request(identity, kind, strategy, moves=moves, batch=batch, at=at)
    if workers is None:
        _refuse("kind 'rescale' needs workers: the number of workers to spread the bins over")
    if moves:
        _refuse("moves belongs to kind 'move'; kind 'rescale' must not have it")
    return Request(identity, kind, strategy, workers=workers, batch=batch, at=at)


def _identity(body: Mapping[str, object]) -> str:
    if "id" not in body:
        _refuse("the request has no id")
    identity = body["id"]
    if not isinstance(identity, str):
        _refuse(f"id is {_kind_of(identity)}, not a string")
    if not identity:
        _refuse("id is an empty string")
    if len(identity) > ID_CHARS_MAX:
        _refuse(f"id has {len(identity)} characters; {ID_CHARS_MAX} are allowed")
    if not identity.isprintable():
        _refuse(f"id {_shown(identity)} holds characters that cannot be printed")
    return identity


def _kind(value: object) -> Kind:
    known = " or ".join(f"'{kind}'" for kind in Kind)
    if value is None:
        _refuse(f"the request has no kind; it must be {known}")
    if isinstance(value, str) and value in _LATER:
        _refuse(str(NotYetSupported(*_LATER[value])))
    if not isinstance(value, str) or value not in list(Kind):
        _refuse(f"unknown kind {_shown(value)}; it must be {known}")
    return Kind(value)


def _strategy(value: object) -> Strategy:
    if value is None:
        return Strategy.BATCHED
    if not isinstance(value, str):
        _refuse(f"strategy is {_kind_of(value)}, not a string")
    try:
        return strategy_named(value)
    except UsageError as error:
        raise _InvalidField(str(error)) from error


def _integer(body: Mapping[str, object], name: str, least: int, most: int) -> int | None:
    value = body.get(name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool):
        _refuse(f"{name} is {_kind_of(value)}, not an integer")
    if not least <= value <= most:
        _refuse(f"{name} is {_shown(value)}; it must be from {least} to {most}")
    return value


def _moves(value: object) -> tuple[Assignment, ...] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        _refuse(f"moves is {_kind_of(value)}, not a list of [bin, worker] pairs")
    if len(value) > MOVES_MAX:
        _refuse(f"moves has {len(value):,} pairs; {MOVES_MAX:,} are allowed in one request")
    moves: list[Assignment] = []
    seen: set[int] = set()
    for index, pair in enumerate(value):
        if not isinstance(pair, list) or len(pair) != 2:
            _refuse(f"moves[{index}] is {_shown(pair)}, not a pair [bin, worker]")
        bin_, worker = pair
        for what, number in (("bin", bin_), ("worker", worker)):
            if not isinstance(number, int) or isinstance(number, bool):
                _refuse(f"moves[{index}]: {what} {_shown(number)} is not an integer")
            if not 0 <= number <= MAX_EPOCH:
                _refuse(f"moves[{index}]: unknown {what} {_shown(number)}")
        if bin_ in seen:
            _refuse(f"moves[{index}]: bin {_shown(bin_)} is named twice")
        seen.add(bin_)
        moves.append((bin_, worker))
    return tuple(moves)


def _refuse(reason: str) -> Never:
    raise _InvalidField(reason)


def _kind_of(value: object) -> str:
    """What a JSON value is, in JSON's own words."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case str():
            return "a string"
        case list():
            return "an array"
        case dict():
            return "an object"
        case float():
            return f"the number {value:g}, which has a fraction or an exponent"
        case _:
            return "a number"


def _shown(value: object) -> str:
    """A value for a person, cut short."""
    # msgspec writes integers up to 64 bits only.
    is_number = isinstance(value, int) and not isinstance(value, bool)
    text = str(value) if is_number else msgspec.json.encode(value).decode()
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"
