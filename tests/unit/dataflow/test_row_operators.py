"""Error streams, branches, flat maps and inspection, each operator on its own."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from service.dataflow.operators import (
    BranchOperator,
    FlatMapOperator,
    InspectOperator,
    MapOperator,
    error_schema,
)
from service.dataflow.record_functions import MapRows
from service.errors import GraphError, UserFunctionError
from tests.fakes.ports import Ports

SCHEMA = pa.schema([("a", pa.int64())])


def rows(*values: int | None) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(values, pa.int64())], schema=SCHEMA)


def values(batch: pa.RecordBatch) -> list[int | None]:
    return batch.column("a").to_pylist()


def picky(batch: pa.RecordBatch) -> pa.RecordBatch:
    if 0 in values(batch):
        raise KeyError("nought")
    return batch


def opened(logic, outputs: int = 1) -> Ports:
    paths = [(0, output) for output in range(outputs)]
    return Ports(logic, inputs=1, outputs=outputs, paths=paths)


# Errors ---------------------------------------------------------------------------------------


def test_a_batch_a_function_raises_on_leaves_whole_by_the_side() -> None:
    ports = opened(MapOperator("picky", picky, SCHEMA, errors=True), outputs=2)
    ports.put(0, 20, rows(1))
    ports.put(0, 21, rows(2, 0))
    ports.put(0, 22, rows(3))
    good, bad, after = ports.step()
    assert [(s.output, s.time, values(s.payload)) for s in (good, after)] == [
        (0, (20,), [1]),
        (0, (22,), [3]),
    ]
    assert (bad.output, bad.time) == (1, (21,))
    assert bad.payload.schema.equals(error_schema(SCHEMA))
    text = "'picky' at (21,): KeyError: 'nought'"
    assert bad.payload.to_pydict() == {"a": [2, 0], "error": [text, text]}


def test_of_a_record_function_only_the_records_it_raises_on_leave_by_the_side() -> None:
    function = MapRows(lambda record: {"a": 60 // record["a"]}, SCHEMA)
    ports = opened(MapOperator("inverse", function, SCHEMA, errors=True), outputs=2)
    ports.put(0, 20, rows(1, 0, 3, 0))
    bad, good = ports.step()
    assert (good.output, good.time, values(good.payload)) == (0, (20,), [60, 20])
    assert (bad.output, bad.time, values(bad.payload)) == (1, (20,), [0, 0])
    assert set(bad.payload.column("error").to_pylist()) == {
        "'inverse' at (20,): ZeroDivisionError: integer division or modulo by zero"
    }


def test_a_record_function_that_raises_ends_the_job_where_nobody_asks_for_errors() -> None:
    function = MapRows(lambda record: {"a": 60 // record["a"]}, SCHEMA)
    ports = opened(MapOperator("inverse", function, SCHEMA))
    ports.put(0, 20, rows(1, 0))
    with pytest.raises(UserFunctionError, match="'inverse' raised ZeroDivisionError"):
        ports.step()


def test_nothing_is_taken_while_the_side_has_no_room() -> None:
    ports = opened(MapOperator("picky", picky, SCHEMA, errors=True), outputs=2)
    ports.full.add(1)
    ports.put(0, 20, rows(1))
    assert ports.step() == []
    ports.full.clear()
    assert len(ports.step()) == 1


def test_wrong_columns_are_an_error_although_errors_are_asked_for() -> None:
    logic = MapOperator("odd", lambda batch: batch.rename_columns(["b"]), SCHEMA, errors=True)
    ports = opened(logic, outputs=2)
    ports.put(0, 20, rows(1))
    with pytest.raises(GraphError, match="'odd' returned columns"):
        ports.step()


# Branch ---------------------------------------------------------------------------------------


def test_a_branch_parts_rows_and_asks_its_mask_once() -> None:
    asked = []

    def even(batch: pa.RecordBatch) -> pa.Array:
        asked.append(batch.num_rows)
        return pc.equal(pc.bit_wise_and(batch["a"], 1), 0)

    ports = opened(BranchOperator("even", even), outputs=2)
    for epoch, batch in ((20, rows(1, 2, None, 4)), (21, rows(2, 4)), (22, rows(1, None))):
        ports.put(0, epoch, batch)
    sent = [(s.output, s.time[0], values(s.payload)) for s in ports.step()]
    # A null is not true.
    assert sent == [(0, 20, [2, 4]), (1, 20, [1, None]), (0, 21, [2, 4]), (1, 22, [1, None])]
    assert asked == [4, 2, 2]


def test_a_mask_that_raises_or_does_not_fit_names_vertex_and_batch() -> None:
    for mask in (lambda batch: pa.array([True]), lambda batch: batch["b"]):
        ports = opened(BranchOperator("even", mask), outputs=2)
        ports.put(0, 20, rows(1, 2))
        with pytest.raises(UserFunctionError, match=r"'even' raised .*\(20,\) has 2 rows"):
            ports.step()
        caught = opened(BranchOperator("even", mask, errors=True), outputs=3)
        caught.put(0, 20, rows(1, 2))
        assert [(s.output, s.payload.num_rows) for s in caught.step()] == [(2, 2)]


# Flat map -------------------------------------------------------------------------------------


def singles(batch: pa.RecordBatch):
    for row in range(batch.num_rows):
        yield batch.slice(row, 1)


def test_a_flat_map_sends_what_it_is_given_one_after_the_other() -> None:
    ports = opened(FlatMapOperator("singles", singles, SCHEMA))
    ports.put(0, 20, rows(1, 2))
    ports.put(0, 15, rows(3))
    assert [(s.time[0], values(s.payload)) for s in ports.step()] == [
        (20, [1]),
        (20, [2]),
        (15, [3]),
    ]
    assert ports.rights(0) == []


def test_the_rest_of_a_batch_waits_under_a_capability_and_no_longer() -> None:
    asked = []

    def one_each(batch: pa.RecordBatch):
        for row in range(batch.num_rows):
            asked.append(row)
            ports.full.add(0)
            yield batch.slice(row, 1)

    ports = opened(FlatMapOperator("one each", one_each, SCHEMA))
    ports.put(0, 20, rows(1, 2))
    assert len(ports.step()) == 1
    assert asked == [0]
    assert ports.rights(0) == [(20,)]
    assert ports.step() == []
    ports.full.clear()
    assert len(ports.step()) == 1
    ports.full.clear()
    assert ports.step() == []
    assert asked == [0, 1]
    assert ports.rights(0) == []


def test_a_generator_that_raises_halfway_names_vertex_and_batch() -> None:
    def halfway(batch: pa.RecordBatch):
        yield batch
        raise OSError("no more")

    ports = opened(FlatMapOperator("halfway", halfway, SCHEMA))
    ports.put(0, 20, rows(1, 2))
    with pytest.raises(UserFunctionError, match=r"'halfway' raised OSError.*\(20,\) has 2 rows"):
        ports.step()


def test_with_an_error_stream_a_batch_leaves_by_one_of_the_two() -> None:
    def halfway(batch: pa.RecordBatch):
        yield batch
        if 0 in values(batch):
            raise OSError("no more")

    ports = opened(FlatMapOperator("halfway", halfway, SCHEMA, errors=True), outputs=2)
    ports.put(0, 20, rows(0))
    ports.put(0, 21, rows(1))
    assert [(s.output, s.time[0]) for s in ports.step()] == [(1, 20), (0, 21)]


@pytest.mark.parametrize("part", [None, [1], rows(1).rename_columns(["b"])])
def test_a_part_that_is_no_batch_of_the_declared_columns_is_refused(part) -> None:
    ports = opened(FlatMapOperator("wrong", lambda batch: [part], SCHEMA))
    ports.put(0, 20, rows(1))
    with pytest.raises(GraphError, match="'wrong' (must return|returned columns)"):
        ports.step()


# Inspect --------------------------------------------------------------------------------------


def test_inspection_sees_epochs_and_batches_and_changes_nothing() -> None:
    seen = []
    ports = opened(InspectOperator("look", lambda epoch, batch: seen.append((epoch, batch))))
    batch = rows(1, 2)
    ports.put(0, 20, batch)
    (sent,) = ports.step()
    assert seen == [(20, batch)]
    assert (sent.time, sent.payload) == ((20,), batch)
    assert sent.payload is batch


def test_an_inspection_that_raises_ends_the_job() -> None:
    ports = opened(InspectOperator("look", lambda epoch, batch: 1 // 0))
    ports.put(0, 20, rows(1))
    with pytest.raises(UserFunctionError, match="'look' raised ZeroDivisionError"):
        ports.step()
