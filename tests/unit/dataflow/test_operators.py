"""Operators without state: what passes, what does not, and what a wrong function is told."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pytest

from service.dataflow.operators import ConcatOperator, MapOperator
from service.errors import GraphError, UserFunctionError
from tests.fakes.ports import Ports

SCHEMA = pa.schema([("a", pa.int64())])


def rows(*values: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(values, pa.int64())], schema=SCHEMA)


def mapped(function: Callable[[pa.RecordBatch], pa.RecordBatch]) -> Ports:
    return Ports(MapOperator("double", function, SCHEMA), inputs=1, outputs=1, paths=[(0, 0)])


def test_a_batch_is_transformed_at_its_own_time() -> None:
    ports = mapped(lambda batch: rows(*(2 * v for v in batch.column("a").to_pylist())))
    ports.put(0, 20, rows(1, 2))
    ports.put(0, 15, rows(3))
    assert [(sent.time, sent.payload) for sent in ports.step()] == [
        ((20,), rows(2, 4)),
        ((15,), rows(6)),
    ]
    assert ports.inputs[0].bytes == 0


def test_an_empty_result_is_not_sent_and_leaves_no_count() -> None:
    ports = mapped(lambda batch: batch.slice(0, 0))
    ports.put(0, 20, rows(1, 2))
    assert ports.step() == []
    assert dict(ports.ledger.items()) == {}


def test_without_room_nothing_is_transformed() -> None:
    seen: list[int] = []

    def note(batch: pa.RecordBatch) -> pa.RecordBatch:
        seen.append(batch.num_rows)
        return batch

    ports = mapped(note)
    ports.full.add(0)
    ports.put(0, 20, rows(1))
    assert ports.step() == []
    assert seen == []
    ports.full.clear()
    assert len(ports.step()) == 1


def test_a_function_that_raises_names_vertex_time_and_batch() -> None:
    def fail(batch: pa.RecordBatch) -> pa.RecordBatch:
        raise KeyError("price")

    ports = mapped(fail)
    ports.put(0, 20, rows(1, 2))
    with pytest.raises(UserFunctionError) as caught:
        ports.step()
    assert str(caught.value).startswith(
        "the function of 'double' raised KeyError: 'price'; "
        "the batch at (20,) has 2 rows of {'a': 'int64'}"
    )
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.exit_status == 1


def test_other_columns_than_for_the_empty_batch_are_refused_by_name() -> None:
    ports = mapped(lambda batch: batch.rename_columns(["b"]))
    ports.put(0, 20, rows(1))
    with pytest.raises(GraphError, match=r"'double' returned columns .*'b'.* but .*'a': 'int64'"):
        ports.step()


def test_another_type_than_for_the_empty_batch_is_refused() -> None:
    ports = mapped(lambda _: pa.RecordBatch.from_pydict({"a": [1.5]}))
    ports.put(0, 20, rows(1))
    with pytest.raises(GraphError, match="'double'.*'a': 'double'.*'a': 'int64'"):
        ports.step()


def test_metadata_and_nullability_may_differ() -> None:
    other = pa.schema([pa.field("a", pa.int64(), nullable=False)], metadata={"x": "y"})
    ports = mapped(lambda batch: pa.RecordBatch.from_arrays(batch.columns, schema=other))
    ports.put(0, 20, rows(1))
    assert len(ports.step()) == 1


def test_something_else_than_a_record_batch_is_refused() -> None:
    ports = mapped(lambda batch: batch.to_pylist())
    ports.put(0, 20, rows(1))
    with pytest.raises(GraphError, match="'double' must return a pyarrow.RecordBatch, not list"):
        ports.step()


def test_concat_passes_the_batches_of_all_its_inputs_on() -> None:
    ports = Ports(ConcatOperator(), inputs=2, outputs=1, paths=[(0, 0), (1, 0)])
    batches = [rows(1), rows(2), rows(3)]
    ports.put(0, 20, batches[0])
    ports.put(1, 15, batches[1])
    ports.put(0, 21, batches[2])
    sent = ports.step()
    assert [message.time[0] for message in sent] == [20, 21, 15]
    assert [message.payload for message in sent] == [batches[0], batches[2], batches[1]]


def test_concat_waits_for_room() -> None:
    ports = Ports(ConcatOperator(), inputs=2, outputs=1, paths=[(0, 0), (1, 0)])
    ports.full.add(0)
    ports.put(1, 15, rows(1))
    assert ports.step() == []
    ports.full.clear()
    assert len(ports.step()) == 1
