"""Plans in files: our JSON document, and the lines that Megaphone's own benchmarks read.

Flow: `megaphone migrate plan` -> [text_of] -> file -> [read_plan] -> `megaphone migrate apply`.
Pure: texts in, values out.

    {"format": "megaphone-plan", "version": 1, "waves": [{"after_us": 0, "moves": [[bin, worker]]}]}

    M <time in ns> <worker of bin 0> <worker of bin 1> ...     a whole table
    D <time in ns> <bin> <worker> [<bin> <worker>] ...         some bins

Times count from the plan's beginning. A wave that says where a bin already is moves nothing; which
ones do is known when the plan is made.

Invariants
  PF1  A text gives a plan with at least one wave or one sentence that says where it is wrong: the
       line, or in JSON the path to the value.
  PF2  What `text_of` writes, `read_plan` reads back equal, in either form.
  PF3  Times never go back, no bin is named twice in a wave, and no wave is empty.
Source: the plan files of github.com/strymon-system/megaphone, read as its `tools.rs` reads them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

import msgspec

from service.errors import UsageError
from service.migration.records import MAX_EPOCH
from service.migration.strategy import Moves

#: The document's own name and version.
FORMAT, VERSION = "megaphone-plan", 1
_NS_PER_US = 1_000

_Number = Annotated[int, msgspec.Meta(ge=0, le=MAX_EPOCH)]


class PlanForm(StrEnum):
    """How a plan is written down."""

    JSON = "json"
    LINES = "lines"


@dataclass(frozen=True, slots=True)
class TimedWave:
    """Moves of one cut, which comes no earlier than `after_us` after the plan's beginning."""

    after_us: int
    moves: Moves


@dataclass(frozen=True, slots=True)
class PlanFile:
    """Waves in the order in which they happen (PF3)."""

    waves: tuple[TimedWave, ...]


class _Wave(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    moves: list[tuple[_Number, _Number]]
    after_us: _Number = 0


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: str
    version: int
    waves: list[_Wave]


def read_plan(text: str, name: str) -> PlanFile:
    """Read a plan in either form; a text that begins with `{` is JSON.

    Args:
        text: of the file.
        name: of the file, for errors.

    Raises:
        UsageError: PF1.

    >>> read_plan("D 0 7 1", "one").waves
    (TimedWave(after_us=0, moves=((7, 1),)),)
    """
    waves = _read_json(text, name) if text.lstrip().startswith("{") else _read_lines(text, name)
    checked: list[TimedWave] = []
    for where, wave in waves:
        if checked and wave.after_us < checked[-1].after_us:
            raise UsageError(
                f"{name}, {where}: time {wave.after_us:,} µs is before that of the wave above, "
                f"{checked[-1].after_us:,} µs; put the waves in the order in which they happen"
            )
        if not wave.moves:
            raise UsageError(f"{name}, {where}: a wave without moves; name a bin and a worker")
        seen: set[int] = set()
        for bin_, _ in wave.moves:
            if bin_ in seen:
                raise UsageError(
                    f"{name}, {where}: bin {bin_} is named twice; one wave moves a bin once"
                )
            seen.add(bin_)
        checked.append(wave)
    if not checked:
        raise UsageError(f"{name} holds no wave; write lines 'D <ns> <bin> <worker>', or JSON")
    return PlanFile(tuple(checked))


def text_of(plan: PlanFile, form: PlanForm = PlanForm.JSON) -> str:
    r"""The text of a plan, which ends with a newline (PF2).

    >>> text_of(PlanFile((TimedWave(5, ((7, 1), (3, 0))),)), PlanForm.LINES)
    'D 5000 7 1 3 0\n'
    """
    if form is PlanForm.JSON:
        document = _Document(
            FORMAT, VERSION, [_Wave(list(wave.moves), wave.after_us) for wave in plan.waves]
        )
        return msgspec.json.encode(document).decode() + "\n"
    return "".join(f"{_line_of(wave)}\n" for wave in plan.waves)


def _line_of(wave: TimedWave) -> str:
    ns = wave.after_us * _NS_PER_US
    return f"D {ns} " + " ".join(f"{bin_} {worker}" for bin_, worker in wave.moves)


def _read_json(text: str, name: str) -> Iterator[tuple[str, TimedWave]]:
    try:
        body: object = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        says = getattr(error, "msg", "nested too deeply")
        raise UsageError(f"{name}, line {line}: this is not JSON: {says}") from error
    try:
        document = msgspec.convert(body, _Document)
    except msgspec.ValidationError as error:
        raise UsageError(
            f"{name} is no plan: {error}; see docs/contracts/plan.schema.json"
        ) from error
    if (document.format, document.version) != (FORMAT, VERSION):
        raise UsageError(
            f"{name} is {document.format!r} of version {document.version}; this version reads "
            f"{FORMAT!r} of version {VERSION}"
        )
    for place, wave in enumerate(document.waves):
        yield f"waves[{place}]", TimedWave(wave.after_us, tuple(wave.moves))


def _read_lines(text: str, name: str) -> Iterator[tuple[str, TimedWave]]:
    bins: int | None = None
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        where = f"{name}, line {number}"
        letter, values = words[0], [_number(word, where) for word in words[1:]]
        if letter not in ("M", "D"):
            raise UsageError(f"{where}: unknown letter {letter!r}; a line begins with M or D")
        if not values:
            raise UsageError(f"{where}: no time; after {letter} comes a time in nanoseconds")
        after_us, rest = values[0] // _NS_PER_US, values[1:]
        if letter == "M":
            if bins is not None and len(rest) != bins:
                raise UsageError(
                    f"{where}: {len(rest)} workers, but {bins} in an M line above; a table names "
                    "the worker of every bin"
                )
            bins = len(rest)
            moves = tuple(enumerate(rest))
        else:
            if len(rest) % 2:
                raise UsageError(f"{where}: bin {rest[-1]} without a worker; D lines hold pairs")
            moves = tuple(zip(rest[::2], rest[1::2], strict=True))
        yield f"line {number}", TimedWave(after_us, moves)


def _number(word: str, where: str) -> int:
    # `int` would also take signs, underscores and digits of other scripts.
    if not (word.isascii() and word.isdigit()) or int(word[:20]) > MAX_EPOCH or len(word) > 20:
        raise UsageError(f"{where}: {word[:60]!r} is no whole number from 0 to {MAX_EPOCH}")
    return int(word)
