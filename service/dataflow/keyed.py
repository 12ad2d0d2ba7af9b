"""What a stream grouped by a key can do: the users' API, and its checks.

Flow: user's module -> `KeyedStream` of `service.dataflow.flow`, which is these methods on its own
streams -> vertices. Nothing is computed here.

Invariants
  KE1  A column that is known to be missing, a name that stands for two columns, and an argument of
       a wrong kind are refused when the flow is written.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, Self, TypeVar

import pyarrow as pa

from service.dataflow.event_time import EventTime
from service.dataflow.vertices import (
    AggregateVertex,
    DistinctVertex,
    JoinVertex,
    Order,
    StatefulMapVertex,
    Vertex,
)
from service.errors import GraphError, NotYetSupported
from service.statestore.aggregate import Aggregate
from service.statestore.object_rows import OBJECTS, StateCodec
from service.statestore.stateful_map import RowForm, StateFunction

#: The stream that a vertex gives.
StreamT = TypeVar("StreamT")


class KeyedOperators(ABC, Generic[StreamT]):
    """Operators with state per key; the stream they stand on is told by four small methods."""

    _key: str

    @abstractmethod
    def _upstream(self) -> int:
        """Number of the vertex that is grouped."""

    @abstractmethod
    def _columns(self) -> tuple[str, ...] | None:
        """Its columns; None if a user's function decides them."""

    @abstractmethod
    def _need(self, column: str, user: str) -> None:
        """Refuse a column that is known to be missing."""

    @abstractmethod
    def _need_event_time(self, user: str) -> EventTime:
        """The event time of the stream, which `user` needs; refuse a stream without one."""

    @abstractmethod
    def _add(self, vertex: Vertex, columns: tuple[str, ...] | None) -> StreamT:
        """Add a vertex that gives `columns`."""

    @abstractmethod
    def _same_flow(self, other: Self) -> None:
        """Refuse a stream of another flow."""

    def aggregate(
        self, name: str, *, order: Order = Order.EAGER, **aggregates: Aggregate
    ) -> StreamT:
        """Keep `aggregates` per key and emit them on change.

        The output has one row for each key a batch changed, with the key and the aggregates' new
        values as columns. It is a changelog: how many inputs one row absorbs depends on the load,
        the last row of each key does not. With `Order.ORDERED` it has exactly one row for each key
        and time, and its rows wait until their time is complete.

        Raises:
            GraphError: no aggregates, something else than an aggregate, an unknown column, or a
                name equal to the key.
        """
        if not aggregates:
            raise GraphError(f"aggregate {name!r} has nothing to compute")
        if self._key in aggregates:
            raise GraphError(f"aggregate {name!r}: an output is named like the key {self._key!r}")
        for output, aggregate in aggregates.items():
            if not isinstance(aggregate, Aggregate):
                raise GraphError(
                    f"aggregate {name!r}: {output!r} is {aggregate!r}; use count(), total(...), "
                    "highest(...), lowest(...), mean(...) or oldest(...)"
                )
            if aggregate.column is not None:
                self._need(aggregate.column, name)
        vertex = AggregateVertex(name, self._key, dict(aggregates), self._upstream(), order)
        return self._add(vertex, (self._key, *aggregates))

    def stateful_map(
        self,
        name: str,
        function: StateFunction,
        *,
        schema: Mapping[str, pa.DataType],
        value: str | Sequence[str] | None = None,
        initial: Callable[[], Any] | None = None,
        codec: StateCodec = OBJECTS,
        order: Order = Order.EAGER,
    ) -> StreamT:
        """Call `function(state, row)` for each row, with any Python object as its key's state.

        It returns the new state and the row's output. A state of None is forgotten; an output of
        None is left out. The state is what a key's last call returned, wherever its bin has moved
        meanwhile, and it may be changed in place. Plain values, the containers of Python, dates,
        NumPy arrays, dataclasses and objects of classes that a module defines can be states; for
        others give a codec.

        Args:
            name: of the vertex; the state is found under it after a restart.
            function: called for the rows of a key one after the other; it must depend on nothing
                but its arguments, and not keep what it is given of other calls.
            schema: names and types of the output's columns beside the key. With one column an
                output is its value; with several it is a tuple in their order, or a dict.
            value: what of a row the function is given: a column's name for its value, which is the
                fastest form, several for a tuple, None for a dict of all columns.
            initial: makes the state of a key that has none, as `list` or `Counter` do; by default
                the function is given None.
            codec: turns a state into bytes and back where it moves or is stored.
            order: `Order.ORDERED` applies rows in the order of time, and within one time in that
                of the key and then of the columns in `value`.

        Raises:
            GraphError: an unknown column, no output column, or one named like the key.

        Cost: 0.25 us a row and what the function takes; a dict instead of `value` 0.4 us more.

        Example:
            The mean price of each auction, after every bid:

            >>> import pyarrow as pa
            >>> from service.dataflow.flow import Flow
            >>> from service.dataflow.vertices import KafkaSource
            >>> flow = Flow("means")
            >>> bids = flow.source("bids", KafkaSource(["events"], "bid", ["auction", "price"]))
            >>> def mean(state, price):
            ...     bids, total = state or (0, 0)
            ...     state = bids + 1, total + price
            ...     return state, state[1] / state[0]
            >>> means = bids.key_by("auction").stateful_map(
            ...     "means", mean, value="price", schema={"mean": pa.float64()}
            ... )
            >>> means.columns
            ('auction', 'mean')
        """
        return self._stateful(name, function, schema, value, initial, codec, order, flat=False)

    def stateful_flat_map(
        self,
        name: str,
        function: StateFunction,
        *,
        schema: Mapping[str, pa.DataType],
        value: str | Sequence[str] | None = None,
        initial: Callable[[], Any] | None = None,
        codec: StateCodec = OBJECTS,
        order: Order = Order.EAGER,
    ) -> StreamT:
        """`stateful_map` whose function returns the new state and any number of outputs.

        The outputs may be a list, a generator, or None for none.

        Raises:
            GraphError: as `stateful_map`.

        Cost: 0.2 us a row more than `stateful_map`.

        Example:
            Sessions of three clicks, each told when it is full:

            >>> import pyarrow as pa
            >>> from service.dataflow.flow import Flow
            >>> from service.dataflow.vertices import KafkaSource
            >>> flow = Flow("sessions")
            >>> clicks = flow.source("clicks", KafkaSource(["clicks"], "click", ["user", "page"]))
            >>> def threes(pages, page):
            ...     pages.append(page)
            ...     return ([], [tuple(pages)]) if len(pages) == 3 else (pages, [])
            >>> full = clicks.key_by("user").stateful_flat_map(
            ...     "full",
            ...     threes,
            ...     value="page",
            ...     initial=list,
            ...     schema={"one": pa.int64(), "two": pa.int64(), "three": pa.int64()},
            ... )
            >>> full.columns
            ('user', 'one', 'two', 'three')
        """
        return self._stateful(name, function, schema, value, initial, codec, order, flat=True)

    def distinct(self, name: str, *, order: Order = Order.EAGER) -> StreamT:
        """The first row of each key, whole; later ones of the key are dropped, for ever.

        Which of two rows is the first is decided by arrival; with `Order.ORDERED` it is the one of
        the earliest time, and within one time the least by its columns.

        Cost: as an aggregate; 24 bytes a key, which stay.

        Example:
            >>> from service.dataflow.flow import Flow
            >>> from service.dataflow.vertices import KafkaSource
            >>> flow = Flow("first")
            >>> bids = flow.source("bids", KafkaSource(["events"], "bid", ["auction", "price"]))
            >>> bids.key_by("auction").distinct("first").columns
            ('auction', 'price')
        """
        return self._add(DistinctVertex(name, self._key, self._upstream(), order), self._columns())

    def join(
        self,
        name: str,
        right: Self,
        *,
        how: str = "inner",
        suffix: str = "_right",
        order: Order = Order.EAGER,
    ) -> StreamT:
        """Every pair of a row of this stream and one of `right` with the same key, each once.

        A pair leaves when its later row has come, whichever side that is. The output has the key
        under this stream's name, this stream's other columns, and then those of `right`.

        Args:
            name: of the vertex.
            right: the other stream, grouped by its key.
            how: "inner" only.
            suffix: added to names of `right`'s columns that this stream has as well.
            order: `Order.ORDERED` makes the order of the pairs that of time.

        Raises:
            GraphError: streams of different flows, or two output columns of one name.
            NotYetSupported: another `how`.

        Cost: about 0.5 us a row and 0.05 us a pair; 4 us a row where a column is a list of any
            length, a struct, a map or dictionary-encoded. All rows of both sides are kept, for
            ever: join streams that end, or that `distinct` or a filter keeps small.

        Example:
            >>> from service.dataflow.flow import Flow
            >>> from service.dataflow.vertices import KafkaSource
            >>> flow = Flow("sellers")
            >>> bids = flow.source("bids", KafkaSource(["bids"], "bid", ["auction", "price"]))
            >>> auctions = flow.source(
            ...     "auctions", KafkaSource(["auctions"], "auction", ["id", "seller", "price"])
            ... )
            >>> sold = bids.key_by("auction").join("sold", auctions.key_by("id"))
            >>> sold.columns
            ('auction', 'price', 'seller', 'price_right')
        """
        if how != "inner":
            raise NotYetSupported(f"how={how!r} of join {name!r}", 'use how="inner"')
        self._same_flow(right)
        keys = (self._key, right._key)
        vertex = JoinVertex(name, keys, (self._upstream(), right._upstream()), suffix, order)
        left_columns, right_columns = self._columns(), right._columns()
        if left_columns is None or right_columns is None:
            return self._add(vertex, None)
        return self._add(vertex, joined_names(vertex, left_columns, right_columns))

    def _stateful(
        self,
        name: str,
        function: StateFunction,
        schema: Mapping[str, pa.DataType],
        value: str | Sequence[str] | None,
        initial: Callable[[], Any] | None,
        codec: StateCodec,
        order: Order,
        *,
        flat: bool,
    ) -> StreamT:
        if not callable(function):
            raise GraphError(f"{name!r}: {function!r} is no function")
        form, outputs = self._forms(name, schema, value, initial)
        vertex = StatefulMapVertex(
            name, self._key, function, form, outputs, initial, codec, flat, self._upstream(), order
        )
        return self._add(vertex, (self._key, *outputs.names))

    def _forms(
        self,
        name: str,
        schema: Mapping[str, pa.DataType],
        value: str | Sequence[str] | None,
        initial: Callable[[], Any] | None,
    ) -> tuple[RowForm, pa.Schema]:
        """What a function of the user is given of a row, and the columns it makes."""
        if initial is not None and not callable(initial):
            raise GraphError(
                f"{name!r}: initial is {initial!r}, which cannot be called; give a function that "
                "makes a state, as `list` or `lambda: 0` do"
            )
        outputs = _schema_of(name, schema)
        if self._key in outputs.names:
            raise GraphError(f"{name!r}: an output is named like the key {self._key!r}")
        form = value if value is None or isinstance(value, str) else tuple(value)
        if form == ():
            raise GraphError(f"{name!r}: value names no column; leave it out for a dict of all")
        for column in (form,) if isinstance(form, str) else form or ():
            self._need(column, name)
        return form, outputs


class Joining(Protocol):
    """What a vertex that joins two streams says of the names of its output."""

    @property
    def name(self) -> str:
        """Name of the vertex."""
        ...

    @property
    def keys(self) -> tuple[str, ...]:
        """Key columns of both streams."""
        ...

    @property
    def suffix(self) -> str:
        """Added to names of the right stream's columns that the left one has too."""
        ...


def joined_names(vertex: Joining, left: Sequence[str], right: Sequence[str]) -> tuple[str, ...]:
    """Names of a join's output columns: the key, left's others, right's others.

    Raises:
        GraphError: two of them would be equal.
    """
    left_key, right_key = vertex.keys
    names = [left_key, *(name for name in left if name != left_key)]
    taken = frozenset(names)
    names += [
        f"{name}{vertex.suffix}" if name in taken else name for name in right if name != right_key
    ]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise GraphError(
            f"join {vertex.name!r} would have two columns {twice[0]!r}; choose another suffix than "
            f"{vertex.suffix!r}, or rename a column before"
        )
    return tuple(names)


def _schema_of(name: str, schema: Mapping[str, pa.DataType]) -> pa.Schema:
    if not schema:
        raise GraphError(f"{name!r} has no output column; name at least one in `schema`")
    for column, kind in schema.items():
        if not isinstance(kind, pa.DataType):
            raise GraphError(
                f"{name!r}: column {column!r} has type {kind!r}; use a pyarrow type, as pa.int64()"
            )
    return pa.schema(list(schema.items()))
