"""Functions of the user, tried while the graph is built.

Flow: lowering -> [tried] -> columns of the results, or an error before anything runs (L2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import pyarrow as pa

from service.dataflow.delaying import postponed
from service.dataflow.row_vertices import BatchFunction, DelayVertex, FlatFunction
from service.errors import GraphError

#: An epoch of our days, for functions that may not like another.
_SOME_EPOCH = 1_700_000_000_000_000
_T = TypeVar("_T")


def tried(name: str, given: pa.Schema, function: BatchFunction) -> pa.RecordBatch:
    """What `function` makes of an empty batch of the columns `given`.

    Raises:
        GraphError: it raises, or returns no batch; with the vertex's `name`.
    """
    return _batch(name, _called(name, given, function))


def tried_all(name: str, given: pa.Schema, function: FlatFunction) -> Sequence[pa.RecordBatch]:
    """What `function` gives for an empty batch; raises as `tried`."""
    found = _called(name, given, lambda rows: list(function(rows)))
    return [_batch(name, each) for each in found]


def tried_delay(vertex: DelayVertex) -> None:
    """Ask a delay for some epoch.

    Raises:
        GraphError: it raises, leads back, or gives no epoch.
    """
    try:
        postponed(vertex.name, vertex.until, _SOME_EPOCH)
    except GraphError:
        raise
    except Exception as error:  # a function of a user may raise anything
        raise GraphError(
            f"the function of delay {vertex.name!r} failed on the epoch {_SOME_EPOCH}: "
            f"{type(error).__name__}: {error}"
        ) from error


def _called(name: str, given: pa.Schema, function: Callable[[pa.RecordBatch], _T]) -> _T:
    try:
        return function(pa.RecordBatch.from_pylist([], schema=given))
    except Exception as error:  # a function of a user may raise anything
        raise GraphError(
            f"the function of {name!r} failed on an empty batch with columns "
            f"{given.names}: {type(error).__name__}: {error}"
        ) from error


def _batch(name: str, found: object) -> pa.RecordBatch:
    if not isinstance(found, pa.RecordBatch):
        raise GraphError(
            f"the function of {name!r} must return a pyarrow.RecordBatch, "
            f"not {type(found).__name__}"
        )
    return found
