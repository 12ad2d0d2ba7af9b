"""Engines whose ordered vertices, gathering or object stores lack one rule, each caught by a seed.

What this cannot show: that every wrong engine is caught.
"""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pytest

from service.dataflow.operator import InputPort, Message
from service.dataflow.progress.antichain import Antichain
from service.migration.control_source import ControlSource
from service.migration.held import HeldRows
from service.migration.ordered import OrderedRows
from tests.simulation.flows import FlowUnderTest
from tests.simulation.keyed_flows import in_order, remembering
from tests.simulation.test_mutants import OUTPUTS, Mutant, expect_caught
from tests.simulation.world import Shape

TAKE = OrderedRows.take


def _unsorted(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    return pa.concat_batches(batches)


def _impatient(rows: OrderedRows, frontier: Antichain) -> HeldRows | None:
    """`OrderedRows.take` that does not wait until nothing more can come."""
    return TAKE(rows, Antichain())


def _gathers_all(
    port: InputPort, first: Message, control: ControlSource, rows_max: int
) -> tuple[Message, pa.RecordBatch]:
    """`gather` that looks at no cut and no horizon."""
    batches, latest = [], first
    message: Message | None = first
    while message is not None:
        assert isinstance(message.payload, pa.RecordBatch)
        batches.append(message.payload)
        latest = max(latest, message, key=lambda each: each.time)
        message = port.pull()
    return latest, pa.concat_batches(batches)


def shape(flow: Callable[[], FlowUnderTest]) -> Callable[[], Shape]:
    return lambda: Shape(flow=flow())


GATHER = "service.migration.state_host.gather"
STORE = "service.statestore.object_store.ObjectStore"

MUTANTS = {
    "rows of a time are not sorted": Mutant(
        [("service.migration.ordered.sorted_rows", _unsorted)], OUTPUTS, shape(in_order)
    ),
    "a time is applied before it is complete": Mutant(
        [("service.migration.ordered.OrderedRows.take", _impatient)],
        f"{OUTPUTS}|S1",
        shape(in_order),
    ),
    "batches are gathered across cuts": Mutant([(GATHER, _gathers_all)], "WO|HR1|RT3", Shape),
    "objects that left leave a copy": Mutant(
        [(f"{STORE}.delete", lambda *_: None)], "WO4", shape(remembering)
    ),
    "a bin's keys are not kept": Mutant(
        [(f"{STORE}._note_members", lambda store: store._objects.came.clear())],
        OUTPUTS,
        shape(remembering),
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_some_seed_catches_an_engine_in_which(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the engine as it is passes under the very seed that caught the other one."""
    expect_caught(MUTANTS[name], monkeypatch)
