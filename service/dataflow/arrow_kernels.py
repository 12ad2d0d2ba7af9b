"""Arrow expressions as calls of Arrow's kernels.

Flow: `service.dataflow.expressions` -> [kernels_of] -> a function of batches, or None.

Arrow runs an expression as a plan of its engine, which takes 30 us to set up for each batch; its
kernels take 5 us each. Arrow lets nobody look into an expression, but it prints it: the text is
read here, and the expression built anew from what was read has to be equal to the one given.

Invariants
  AK1  What was read is what was given: Arrow's own `equals` says so, or nothing is returned.
  AK2  Only the kernels are called that the expression names, without options and with literals of
       the types given. Whether they give the type that the plan gives is for the caller to see.
  AK3  They are called in the order written, in every process; the engine may reorder sums and
       products, whose last binary digit may then differ from it.
"""

from __future__ import annotations

import re
from ast import literal_eval
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

Values = Callable[[pa.RecordBatch], Any]

_TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[(),]|[^\s(),"]+)')
_INFIX = {
    "==": "equal",
    "!=": "not_equal",
    "<": "less",
    "<=": "less_equal",
    ">": "greater",
    ">=": "greater_equal",
    "and": "and_kleene",
    "or": "or_kleene",
}
_NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?")


class _Read(NamedTuple):
    """A part of an expression: built anew, and what computes it."""

    expression: pc.Expression
    values: Values


class _Unreadable(Exception):
    """The text is beyond this reader."""


def kernels_of(expression: pc.Expression) -> Values | None:
    """What computes `expression` by kernels; None if that is not known to be the same (AK1)."""
    text = str(expression)
    if "{" in text:
        # Options of a function.
        return None
    tokens = iter(_TOKEN.findall(text))
    try:
        read = _read(next(tokens), tokens)
    except (_Unreadable, StopIteration, AttributeError, TypeError, ValueError, pa.ArrowException):
        return None
    whole = next(tokens, None) is None and read.expression.equals(expression)
    return read.values if whole else None


def _read(word: str, tokens: Iterator[str]) -> _Read:
    if word == "(":
        left = _read(next(tokens), tokens)
        name = _INFIX.get(next(tokens))
        right = _read(next(tokens), tokens)
        if name is None or next(tokens) != ")":
            raise _Unreadable
        return _call(name, [left, right])
    if word.startswith('"'):
        return _literal(literal_eval(word))
    if word in ("true", "false"):
        return _literal(word == "true")
    if _NUMBER.fullmatch(word):
        return _literal(literal_eval(word))
    if hasattr(pc, word):
        return _call(word, _arguments(tokens))
    return _Read(pc.field(word), lambda rows: rows.column(word))


def _arguments(tokens: Iterator[str]) -> list[_Read]:
    if next(tokens) != "(":
        # A column that is called like a function.
        raise _Unreadable
    found = []
    word = next(tokens)
    while word != ")":
        found.append(_read(word, tokens))
        word = next(tokens)
        if word == ",":
            word = next(tokens)
    return found


def _literal(value: object) -> _Read:
    scalar = pa.scalar(value)
    return _Read(pc.scalar(scalar), lambda _: scalar)


def _call(name: str, arguments: list[_Read]) -> _Read:
    built = getattr(pc, name)(*(each.expression for each in arguments))
    if not isinstance(built, pc.Expression):
        raise _Unreadable
    function = pc.get_function(name)
    match [each.values for each in arguments]:
        case [one]:
            return _Read(built, lambda rows: function.call([one(rows)]))
        case [one, two]:
            return _Read(built, lambda rows: function.call([one(rows), two(rows)]))
        case several:
            return _Read(built, lambda rows: function.call([each(rows) for each in several]))
