"""Delay: rows leave at their later time, once it has come, and never go back."""

from __future__ import annotations

import pyarrow as pa
import pytest

from service.dataflow.delaying import EPOCH_END, DelayOperator, Rounding
from service.errors import GraphError, UserFunctionError
from tests.fakes.ports import Ports

SCHEMA = pa.schema([("a", pa.int64())])


def rows(*values: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(values, pa.int64())], schema=SCHEMA)


TENS = Rounding(10)


def delayed(until=TENS) -> Ports:
    return Ports(DelayOperator("late", until), inputs=1, outputs=1, paths=[(0, 0)])


def sent(ports: Ports) -> list[tuple[int, list[int]]]:
    return [(s.time[0], s.payload.column("a").to_pylist()) for s in ports.step()]


def test_epochs_are_rounded_up_to_a_multiple() -> None:
    assert [Rounding(10)(epoch) for epoch in (0, 1, 9, 10, 11)] == [0, 10, 10, 10, 20]


def test_rows_wait_under_a_capability_until_their_time_has_come() -> None:
    ports = delayed()
    ports.put(0, 1, rows(1), sender=3)
    ports.put(0, 12, rows(2))
    ports.put(0, 7, rows(3))
    assert sent(ports) == []
    # One right for each time, however many batches; credit is returned.
    assert ports.rights(0) == [(10,), (20,)]
    assert ports.credited == [(3, 64)]
    ports.reach({0: 10})
    assert sent(ports) == []
    ports.reach({0: 11})
    assert sent(ports) == [(10, [1]), (10, [3])]
    assert ports.rights(0) == [(20,)]
    ports.reach({0: None})
    assert sent(ports) == [(20, [2])]
    assert ports.rights(0) == []


def test_held_bytes_are_those_of_what_waits() -> None:
    logic = DelayOperator("late", Rounding(10))
    ports = Ports(logic, inputs=1, outputs=1, paths=[(0, 0)])
    ports.put(0, 1, rows(*range(100)))
    ports.step()
    assert logic.held_bytes >= 800
    ports.reach({0: 11})
    ports.step()
    assert logic.held_bytes == 0


def test_what_is_due_waits_for_room() -> None:
    ports = delayed()
    for value in range(3):
        ports.put(0, 1, rows(value))
    ports.step()
    ports.reach({0: 50})
    ports.full.add(0)
    assert sent(ports) == []
    assert ports.rights(0) == [(10,)]
    ports.full.clear()
    assert sent(ports) == [(10, [0]), (10, [1]), (10, [2])]
    assert ports.rights(0) == []


def test_a_function_may_put_off_and_may_leave_alone() -> None:
    ports = delayed(lambda epoch: epoch + 5 if epoch % 2 else epoch)
    ports.put(0, 3, rows(1))
    ports.put(0, 4, rows(2))
    ports.step()
    ports.reach({0: 5})
    assert sent(ports) == [(4, [2])]
    ports.reach({0: 9})
    assert sent(ports) == [(8, [1])]


@pytest.mark.parametrize(
    ("until", "text"),
    [
        (lambda epoch: epoch - 1, "'late' put epoch 20 off to 19; it must lie at or after 20"),
        (lambda epoch: -1, "'late' put epoch 20 off to -1"),
        (lambda epoch: EPOCH_END, f"'late' put epoch 20 off to {EPOCH_END}; .* and below"),
        (lambda epoch: 20.0, r"'late' put epoch 20 off to 20\.0; it must return a whole number"),
        (lambda epoch: None, "'late' put epoch 20 off to None"),
        (lambda epoch: True, "'late' put epoch 20 off to True"),
    ],
)
def test_a_time_that_leads_back_or_is_none_ends_the_job_and_both_are_named(until, text) -> None:
    ports = delayed(until)
    ports.put(0, 20, rows(1))
    with pytest.raises(GraphError, match=text):
        ports.step()


def test_a_function_that_raises_names_vertex_and_batch() -> None:
    ports = delayed(lambda epoch: 1 // 0)
    ports.put(0, 20, rows(1))
    with pytest.raises(UserFunctionError, match=r"'late' raised ZeroDivisionError.*\(20,\)"):
        ports.step()


@pytest.mark.parametrize("marked_first", [True, False])
def test_rows_put_off_across_a_marked_cut_are_seen(marked_first) -> None:
    logic = DelayOperator("late", Rounding(10))
    ports = Ports(logic, inputs=1, outputs=1, paths=[(0, 0)])
    cuts = {11: False, 15: True, 20: True, 21: False}
    if marked_first:
        for cut in cuts:
            logic.mark(cut)
    # To 10 and to 20, and what comes behind all cuts to 30.
    for epoch in (3, 14, 25):
        ports.put(0, epoch, rows(epoch))
    ports.step()
    if not marked_first:
        for cut in cuts:
            logic.mark(cut)
    assert {cut: logic.holds_across(cut) for cut in cuts} == cuts
    ports.reach({0: 15})
    assert [logic.has_passed(cut) for cut in cuts] == [True, True, False, False]
    ports.reach({0: None})
    ports.step()
    # What has gone on since changes no answer, and a cut marked now has nothing to see.
    assert {cut: logic.holds_across(cut) for cut in cuts} == cuts
    logic.forget(15)
    logic.mark(15)
    assert not logic.holds_across(15)
