"""Arrow expressions as calls of Arrow's kernels.

Flow: `service.dataflow.expressions` -> [kernels_of] -> a function of batches, or None.

Arrow runs an expression as a plan of its engine, which takes 30 us to set up for each batch; its
kernels take 5 us each. Arrow lets nobody look into an expression, but it prints it: the text is
read here, and the expression built anew from what was read has to be equal to the one given.

Invariants
  AK1  What was read is what was given: Arrow's own `equals` says so, or nothing is returned.
  AK2  Only the kernels are called that the expression names, with its options and with literals of
       the types given. Whether they give the type that the plan gives is for the caller to see.
  AK3  They are called in the order written, in every process; the engine may reorder sums and
       products, whose last binary digit may then differ from it.
"""

from __future__ import annotations

import re
from ast import literal_eval
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

Values = Callable[[pa.RecordBatch], Any]

_TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|\{[^{}]*\}|[(),]|[^\s(),"{}]+)')
_CAST = re.compile(r"\{to_type=([^,{}]+), (?:allow_\w+=(true|false)(?:, )?)+\}")
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
_WHOLE = re.compile(r"-?\d+")
_FRACTION = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?")
#: Whole numbers in one expression whose kinds are tried out: 64 readings at most.
_WHOLES_MAX = 6


class _Read(NamedTuple):
    """A part of an expression: built anew, and what computes it."""

    expression: pc.Expression
    values: Values


class _Unreadable(Exception):
    """The text is beyond this reader."""


#: What reading may raise where the text is no expression that can be built anew.
_REFUSALS = (
    _Unreadable,
    StopIteration,
    AttributeError,
    TypeError,
    ValueError,
    pa.ArrowException,
)


def kernels_of(expression: pc.Expression) -> Values | None:
    """What computes `expression` by kernels; None if that is not known to be the same (AK1)."""
    tokens: list[str] = _TOKEN.findall(str(expression))
    wholes = sum(1 for token in tokens if _WHOLE.fullmatch(token))
    # 1e6 is printed like 1000000, so each whole number may be of either kind.
    kinds = product((int, float), repeat=wholes) if wholes <= _WHOLES_MAX else [(int,) * wholes]
    for each in kinds:
        left = iter(tokens)
        try:
            read = _Reader(left, iter(each)).read(next(left))
        except _REFUSALS:
            return None
        if next(left, None) is None and read.expression.equals(expression):
            return read.values
    return None


class _Reader:
    """Reads the tokens of one text, its whole numbers as of these `kinds`, one after the other."""

    def __init__(self, tokens: Iterator[str], kinds: Iterator[type[int] | type[float]]) -> None:
        self._tokens = tokens
        self._kinds = kinds

    def read(self, word: str) -> _Read:
        """The part that begins with `word`."""
        if word == "(":
            left = self._next()
            name = _INFIX.get(next(self._tokens))
            right = self._next()
            if name is None or next(self._tokens) != ")":
                raise _Unreadable
            return _call(name, [left, right])
        if word.startswith('"'):
            return _literal(literal_eval(word))
        if word in ("true", "false"):
            return _literal(word == "true")
        if _WHOLE.fullmatch(word):
            return _literal(next(self._kinds)(word))
        if _FRACTION.fullmatch(word):
            return _literal(float(word))
        if hasattr(pc, word):
            if next(self._tokens) != "(":
                # A column that is called like a function.
                raise _Unreadable
            return self._cast() if word == "cast" else _call(word, self._arguments())
        return _Read(pc.field(word), lambda rows: rows.column(word))

    def _next(self) -> _Read:
        return self.read(next(self._tokens))

    def _arguments(self) -> list[_Read]:
        found = []
        word = next(self._tokens)
        while word != ")":
            found.append(self.read(word))
            word = next(self._tokens)
            if word == ",":
                word = next(self._tokens)
        return found

    def _cast(self) -> _Read:
        """A cast that is safe in all respects or in none."""
        given, comma, said, end = self._next(), *(next(self._tokens) for _ in range(3))
        options = _CAST.fullmatch(said)
        if options is None or (comma, end) != (",", ")"):
            raise _Unreadable
        target, safe = pa.type_for_alias(options[1]), options[2] == "false"
        how = pc.CastOptions.safe(target) if safe else pc.CastOptions.unsafe(target)
        function, values = pc.get_function("cast"), given.values
        return _Read(
            given.expression.cast(target, safe=safe),
            lambda rows: function.call([values(rows)], how),
        )


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
