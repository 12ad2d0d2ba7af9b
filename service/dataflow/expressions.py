"""Expressions of Arrow and of Polars over the columns of a batch.

Flow: `filter`, `select`, `with_columns`, `branch` -> [expressions] -> functions of batches. Pure.

An Arrow expression (`pyarrow.compute.Expression`) runs as kernels if it can be read, else as a plan
of Arrow's engine, a Polars expression in Polars; all of them read the batch's memory as it is.
Columns that are only passed on are never touched.

Invariants
  EX1  An expression gives one value a row, whatever the batch: what is computed over a batch as a
       whole would depend on where batches are cut. Those that tell on an empty batch are refused.
  EX2  Text, bytes and lists that Polars makes have the types Arrow gives them, not its large ones.
Polars and the engine are imported when a flow first uses them: they take 0.1 s each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

import pyarrow as pa
import pyarrow.compute as pc

from service.dataflow.arrow_kernels import Values, kernels_of
from service.dataflow.row_vertices import BatchFunction, MaskFunction
from service.errors import GraphError

if TYPE_CHECKING:
    import polars as pl

#: Columns that an expression makes of a batch, with their names.
_Made = list[tuple[str, pa.Array]]
_Maker = Callable[[pa.RecordBatch], _Made]

_USUAL: dict[pa.DataType, pa.DataType] = {
    pa.large_string(): pa.string(),
    pa.string_view(): pa.string(),
    pa.large_binary(): pa.binary(),
    pa.binary_view(): pa.binary(),
}


def is_polars(found: object) -> TypeGuard[pl.Expr]:
    """Whether `found` is a Polars expression; Polars is not imported to know."""
    return type(found).__module__.partition(".")[0] == "polars" and hasattr(found, "meta")


def mask_of(name: str, condition: object) -> MaskFunction:
    """A mask from a function of batches, or from an Arrow or Polars expression.

    Raises:
        GraphError: it is none of these.
    """
    if isinstance(condition, pc.Expression):
        values = _arrow([("mask", condition)])
    elif is_polars(condition):
        values = _polars([(None, condition)])
    elif callable(condition):
        return condition
    else:
        raise GraphError(
            f"{name!r} needs a function of batches or an Arrow or Polars expression, "
            f"not {condition!r}"
        )

    def mask(rows: pa.RecordBatch) -> pa.Array:
        ((_, found),) = values(rows)
        return found

    return mask


class _Item(NamedTuple):
    """One thing that `select` was given: its name, if that is known, and what makes it."""

    maker: Callable[[list[tuple[Any, Any]]], _Maker]
    name: str | None
    value: Any


@dataclass(frozen=True)
class Projection:
    """Columns by name and by expression."""

    makers: Sequence[_Maker]
    #: Names of the results in order; None if a Polars expression stands for several columns.
    names: tuple[str, ...] | None
    #: Names of the columns it reads by name only.
    needs: frozenset[str]
    #: Whether there is nothing but columns under their own names.
    plain: bool

    @classmethod
    def of(cls, name: str, columns: Sequence[object], named: dict[str, object]) -> Projection:
        """From what `select` and `with_columns` were given.

        Raises:
            GraphError: something is no column, or an Arrow expression has no name.
        """
        flat: list[tuple[str | None, object]] = []
        for each in columns:
            flat += [(None, one) for one in (each if isinstance(each, list | tuple) else [each])]
        items = [_item(name, alias, each) for alias, each in (*flat, *named.items())]
        if not items:
            raise GraphError(f"{name!r} names no columns")
        known = [item.name for item in items if item.name is not None]
        if len(set(known)) != len(known):
            raise GraphError(f"{name!r} makes a column twice: {known}")
        # Neighbours of one kind are computed in one go.
        makers = [
            maker([(item.name, item.value) for item in run])
            for maker, run in groupby(items, lambda item: item.maker)
        ]
        needs = frozenset(item.value for item in items if item.maker is _columns)
        plain = all(item.maker is _columns and item.name == item.value for item in items)
        return cls(makers, tuple(known) if len(known) == len(items) else None, needs, plain)

    def select(self) -> BatchFunction:
        """These columns and no others."""
        makers, names = self.makers, self.names
        if names is not None and self.plain:
            # 1 us instead of 5.
            kept = list(names)
            return lambda rows: rows.select(kept)

        def project(rows: pa.RecordBatch) -> pa.RecordBatch:
            made = [each for maker in makers for each in maker(rows)]
            return pa.RecordBatch.from_arrays([a for _, a in made], [n for n, _ in made])

        return project

    def add(self) -> BatchFunction:
        """These columns beside those there are, in the place of any of the same name."""
        makers = self.makers

        def extend(rows: pa.RecordBatch) -> pa.RecordBatch:
            result = rows
            for maker in makers:
                for name, values in maker(rows):
                    place = result.schema.get_field_index(name)
                    if place < 0:
                        result = result.append_column(name, values)
                    else:
                        result = result.set_column(place, name, values)
            return result

        return extend


def on_frames(function: Callable[[pl.DataFrame], pl.DataFrame]) -> BatchFunction:
    """A function of Polars frames as a function of batches."""
    import polars

    def apply(rows: pa.RecordBatch) -> pa.RecordBatch:
        frame = function(polars.DataFrame(rows))
        if not isinstance(frame, polars.DataFrame):
            raise TypeError(f"it must return a polars.DataFrame, not {type(frame).__name__}")
        return pa.RecordBatch.from_arrays(
            [_normal(series.to_arrow()) for series in frame.get_columns()], frame.columns
        )

    return apply


def _item(user: str, alias: str | None, value: object) -> _Item:
    if isinstance(value, str):
        return _Item(_columns, alias or value, value)
    if is_polars(value):
        value = value if alias is None else value.alias(alias)
        name = alias or value.meta.output_name(raise_if_undetermined=False)
        return _Item(_polars, name, value)
    if not isinstance(value, pc.Expression):
        raise GraphError(f"{user!r}: {value!r} is neither the name of a column nor an expression")
    if alias is None:
        raise GraphError(f"{user!r}: give the Arrow expression {value} a name: name=...")
    return _Item(_arrow, alias, value)


def _columns(named: list[tuple[str, str]]) -> _Maker:
    def make(rows: pa.RecordBatch) -> _Made:
        return [(name, rows.column(column)) for name, column in named]

    return make


def _arrow(named: list[tuple[str, pc.Expression]]) -> _Maker:
    plan = _arrow_plan(named)
    kernels = [(name, kernels_of(expression)) for name, expression in named]
    calls = [(name, values) for name, values in kernels if values is not None]
    if len(calls) < len(kernels):
        return plan
    #: Whether kernels do as well; known from the first batch.
    alike: bool | None = None

    def make(rows: pa.RecordBatch) -> _Made:
        nonlocal alike
        if alike is None:
            alike = _alike(rows.slice(0, 0), plan, calls)
        return [(name, values(rows)) for name, values in calls] if alike else plan(rows)

    return make


def _alike(empty: pa.RecordBatch, plan: _Maker, calls: list[tuple[str, Values]]) -> bool:
    """Whether kernels give columns, and of the types that the plan gives.

    They do not where the plan takes a literal for the type of a column that is narrower.
    """
    expected = [(name, found.type) for name, found in plan(empty)]
    try:
        found = [(name, values(empty)) for name, values in calls]
    except (pa.ArrowException, LookupError, TypeError):
        return False
    return all(isinstance(each, pa.Array) for _, each in found) and expected == [
        (name, each.type) for name, each in found
    ]


def _arrow_plan(named: list[tuple[str, pc.Expression]]) -> _Maker:
    from pyarrow import acero

    names = [name for name, _ in named]
    project = acero.ProjectNodeOptions([expression for _, expression in named], names)

    def make(rows: pa.RecordBatch) -> _Made:
        source = acero.TableSourceNodeOptions(pa.Table.from_batches([rows]))
        plan = acero.Declaration("project", project, [acero.Declaration("table_source", source)])
        made = plan.to_table(use_threads=False)
        return [(name, _whole(column)) for name, column in zip(names, made.columns, strict=True)]

    return make


def _polars(named: list[tuple[str | None, pl.Expr]]) -> _Maker:
    import polars

    expressions = [expression for _, expression in named]
    several = any(each.meta.has_multiple_outputs() for each in expressions)
    roots = sorted({root for each in expressions for root in each.meta.root_names()})
    computed = [each for each in expressions if not each.meta.is_literal(allow_aliasing=True)]
    #: A frame of the columns that are read, or of all where that cannot be known.
    narrow = bool(roots) and not several

    def make(rows: pa.RecordBatch) -> _Made:
        frame = polars.DataFrame(rows.select(roots) if narrow else rows)
        if not computed:
            # Beside no column a constant would be one row.
            frame = frame.with_columns(expressions).select(
                each.meta.output_name() for each in expressions
            )
        else:
            if not rows.num_rows:
                _check_lengths(frame, computed)
            frame = frame.select(expressions)
        return [(series.name, _normal(series.to_arrow())) for series in frame.get_columns()]

    return make


def _check_lengths(empty: pl.DataFrame, expressions: list[pl.Expr]) -> None:
    """EX1: what gives a row for none is computed over the batch as a whole."""
    for each in expressions:
        if empty.select(each).height:
            raise ValueError(
                f"{each} gives one value for a whole batch; it must give one for each row, since "
                "where batches are cut says nothing. Use key_by(...).aggregate(...)"
            )


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _normal(values: pa.Array) -> pa.Array:
    """EX2. Cost: 1 us where nothing is to do."""
    usual = _usual(values.type)
    return values if usual == values.type else values.cast(usual)


def _usual(given: pa.DataType) -> pa.DataType:
    """The type that Arrow itself gives such values; `given` if it is that."""
    if given.num_fields == 0:
        return _USUAL.get(given, given)
    if pa.types.is_large_list(given):
        return pa.list_(_usual(given.value_type))
    if pa.types.is_struct(given):
        return pa.struct([(each.name, _usual(each.type)) for each in given])
    return given
