"""The simulator must be able to fail: engines with one rule taken out, each caught by some seed.

A mutant is a small subclass or a replaced method. It counts as caught when a check of the world, or
one of the engine's own, ends the run; which one is part of the claim.

What this cannot show: that every wrong engine is caught.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from service.dataflow.graph import Dataflow
from service.dataflow.holdings import Holdings
from service.dataflow.loops import FeedbackOperator
from service.dataflow.operator import Capability, CapabilityError, InputPort, Message
from service.dataflow.worker import WorkerLimits
from service.egress.sink import SinkOperator
from service.errors import MegaphoneError
from service.hashing import bins_of
from service.member import Member
from service.migration.control_source import ControlSource
from service.migration.horizon import TickClock
from service.migration.records import Move
from service.migration.router import Router
from service.migration.state_host import StateHost
from service.migration.waiting import NEVER
from tests.simulation.flows import branches, exchanged, relayed, two_stages
from tests.simulation.loop_flows import bounded, nested
from tests.simulation.test_cluster import TIGHT
from tests.simulation.world import Shape, World

#: Seeds after which a mutant that was not caught fails its test.
SEEDS = int(os.environ.get("MEGAPHONE_MUTANT_SEEDS", "12"))

HOST = "service.migration.lowering.StateHost"
ROUTER = "service.migration.lowering.Router"
CONTROL = "service.member.ControlSource"
HOLDINGS = "service.dataflow.holdings.Holdings"


class Unsettled(StateHost):
    """Extracts a bin as soon as both inputs have reached the cut."""

    def _unsettled(self, cut: int) -> NDArray[np.bool_]:
        return np.zeros(len(self.installed), dtype=np.bool_)


class InstalledIsEnough(StateHost):
    """Extracts a bin that is here although rows of it still wait."""

    def _unsettled(self, cut: int) -> NDArray[np.bool_]:
        return ~self.installed


class Hasty(StateHost):
    """Extracts a bin while rows below the cut may still arrive."""

    def _inputs_reached(self, cut: int) -> bool:
        return True


class Ungated(StateHost):
    """Lets rows go although what was emitted may be on its way through an exchange."""

    def _gate_open(self, cut: int) -> bool:
        return True


class Rash(StateHost):
    """Tells new owners that all has passed, whatever is under way to the sink beside it."""

    def _passed_here(self, cut: int) -> bool:
        return True


class NotWaiting(StateHost):
    """Applies rows of a bin that has not arrived."""

    def _plan(self, move: Move, right: Capability) -> None:
        super()._plan(move, right)
        self.waiting.hold_from[:] = NEVER
        self.waiting.hold_min = NEVER


class Presuming(StateHost):
    """Applies rows beyond the horizon it has read."""

    def _horizon(self) -> int:
        return NEVER


class Clinging(StateHost):
    """Leaves rows that must wait in the queue, credit, count and all."""

    def _take_rows(self) -> None:
        while self._output.ready() and self._data.queue and not self._must_wait():
            message = self._data.pull()
            assert message is not None
            rows = message.payload
            assert isinstance(rows, pa.RecordBatch)
            self._output.forward(0, message, self._apply(rows, message.time))

    def _must_wait(self) -> bool:
        message = self._data.queue[0]
        rows = message.payload
        assert isinstance(rows, pa.RecordBatch)
        if message.time[0] >= self._horizon():
            self._control.at_next_horizon(self._context.activate)
            return True
        bins = bins_of(self._keys(rows), self.store.bin_bits)
        return bool((self.waiting.hold_from[bins] <= message.time[0]).any())


class Latest(Router):
    """Routes by the newest owners it knows, whatever the time of the rows."""

    def _split(self, rows: pa.RecordBatch, epoch: int) -> list[tuple[pa.RecordBatch, int]]:
        table = self._control.table
        return super()._split(rows, max(epoch, min(table.last_cut, table.horizon - 1)))


class Unbounded(Router):
    """Routes what it is given, at and beyond the horizon too."""

    def step(self) -> None:
        while self._commands.pull() is not None:
            pass
        while self._output.ready() and (message := self._data.pull()) is not None:
            assert isinstance(message.payload, pa.RecordBatch)
            for part, peer in self._split(message.payload, message.time[0]):
                self._output.forward(0, message, part, peer)


class Overpromising(ControlSource):
    """Lowers its capability further than it has read."""

    def step(self) -> None:
        super().step()
        for capability in self._capabilities:
            if capability.time[0] < self._ahead():
                capability.downgrade((self._ahead(), *capability.time[1:]))

    def _ahead(self) -> int:
        return self.follower.horizon + 1_000


def _acknowledge_at_once(sink: SinkOperator) -> None:
    """`SinkOperator.step` that gives the capability up at submission."""
    while sink._producer.has_room() and (message := sink._input.pull()) is not None:
        assert isinstance(message.payload, pa.RecordBatch)
        sink._producer.submit(message.payload, sink._activate)


def _pull_without_returning(port: InputPort) -> Message | None:
    """`InputPort.pull` that keeps the sender's credit."""
    if not port.queue:
        return None
    message = port.queue.popleft()
    message.turn = port._ledger.turn
    port.bytes -= message.size
    port._ledger.update(port.location, message.time, -1)
    return message


def _tick_in_spite_of_a_stop(member: Member, monotonic_us: int) -> bool:
    epoch = member.ticks.next(monotonic_us, member.follower.horizon)
    if epoch is None:
        return False
    for source in member.sources.values():
        source.tick(epoch)
    return True


def _tick_beyond(clock: TickClock, monotonic_us: int, horizon: int) -> int:
    clock.last = max(clock.last + 1, horizon + 500)
    return clock.last


_connect = Dataflow.connect


def _connect_with_a_bound(
    graph: Dataflow, source: tuple[int, int], target: tuple[int, int], *args: Any, **kwargs: Any
) -> None:
    """`Dataflow.connect` that knows no channel without a bound (G4)."""
    _connect(graph, source, target, *args, **{**kwargs, "bounded": True})


def _without_a_bound(feedback: FeedbackOperator, _: int | None) -> None:
    feedback._rounds_max = None


Patch = tuple[str, object]


def _record_and_forget(self: Holdings) -> set[int]:
    self._sender.record(self._ledger.drain())
    return set()


@dataclass(frozen=True)
class Mutant:
    """Replacements by dotted name, what must be said of them, and where they are run."""

    patches: Iterable[Patch]
    #: Pattern of what catches it.
    caught_by: str
    shape: Callable[[], Shape] = Shape
    judge: Callable[[World], object] = World.check


def _results(world: World) -> None:
    """Outputs and owners only: ticks beyond the horizon break WO6 whatever F does."""
    world.shape.flow.check(world.outputs, world.stamped)
    world.check_ownership()


def tight() -> Shape:
    return Shape(limits=TIGHT, held_budget=512)


def two_sinks() -> Shape:
    return Shape(flow=branches(), limits=TIGHT, held_budget=4096)


def looped() -> Shape:
    one_message = WorkerLimits(data_window=4096, state_window=2048, local_queue=1)
    return Shape(flow=nested(), rows=200, waves=10, limits=one_message, held_budget=512)


def bounded_loop() -> Shape:
    return Shape(flow=bounded(), rows=50, waves=5)


def away() -> Shape:
    return Shape(flow=exchanged(), limits=TIGHT, held_budget=4096)


def relay() -> Shape:
    return Shape(flow=relayed(), limits=TIGHT, held_budget=4096)


def staged() -> Shape:
    return Shape(flow=two_stages())


OUTPUTS = "WO[123]"

MUTANTS = {
    "a bin leaves unsettled": Mutant([(HOST, Unsettled)], OUTPUTS, away),
    "a bin leaves before its rows were applied": Mutant([(HOST, InstalledIsEnough)], OUTPUTS, away),
    "a bin leaves before the frontier": Mutant([(HOST, Hasty)], f"{OUTPUTS}|no move names it"),
    "there is no gate behind an exchange": Mutant([(HOST, Ungated)], "WO1", away),
    "there is no gate in front of a second stage": Mutant([(HOST, Ungated)], "WO1", relay),
    "an old owner does not wait for the sink beside it": Mutant([(HOST, Rash)], "WO1"),
    "an old owner does not wait for the sink beside a second stage": Mutant(
        [(HOST, Rash)], "WO1", staged
    ),
    "rows that wait in front of a sink count as passed": Mutant(
        [(f"{HOLDINGS}._is_queued", lambda *_: False)], OUTPUTS, two_sinks
    ),
    "rows that a sink has not stored count as passed": Mutant(
        [(f"{HOLDINGS}._is_held", lambda *_: False)], "WO1"
    ),
    "an old owner is not asked again": Mutant([(f"{HOLDINGS}.record", _record_and_forget)], "WO5"),
    "rows do not wait for their bin": Mutant([(HOST, NotWaiting)], OUTPUTS),
    "s applies rows beyond its horizon": Mutant([(HOST, Presuming)], f"{OUTPUTS}|RT3"),
    "credit is kept by rows that wait": Mutant([(HOST, Clinging)], "WO5"),
    "f routes by the newest owners": Mutant([(ROUTER, Latest)], OUTPUTS),
    "f routes beyond its horizon": Mutant(
        [
            (ROUTER, Unbounded),
            ("service.migration.horizon.TickClock.next", _tick_beyond),
            ("service.migration.routing_table.RoutingTable._check", lambda *_: None),
        ],
        OUTPUTS,
        judge=_results,
    ),
    "a process promises what it has not read": Mutant([(CONTROL, Overpromising)], "not allow"),
    "a sink acknowledges what is not stored": Mutant(
        [("service.egress.sink.SinkOperator.step", _acknowledge_at_once)], OUTPUTS
    ),
    "a bin that left leaves a copy": Mutant(
        [("service.statestore.vertex_store.VertexStore.delete", lambda *_: None)], "WO4"
    ),
    "credit is never returned": Mutant(
        [("service.dataflow.operator.InputPort.pull", _pull_without_returning)], "WO5", tight
    ),
    "a tick follows the stop": Mutant(
        [("service.member.Member.tick", _tick_in_spite_of_a_stop)], "WO6"
    ),
    "a sink is not told of room": Mutant(
        [("service.egress.sink.SinkOperator.retry", lambda _: None)], "WO5", two_sinks
    ),
    "a feedback waits for room": Mutant(
        [("service.dataflow.graph.Dataflow.connect", _connect_with_a_bound)], "WO5", looped
    ),
    "a loop forgets its bound": Mutant(
        [
            ("service.dataflow.loops.FeedbackOperator.__init__", _without_a_bound),
            # Twice what the sound one takes: it would go on for ever.
            ("tests.simulation.world.TURNS_MAX", 3_000),
        ],
        "WO5",
        bounded_loop,
    ),
    "rows that wait mix across cuts": Mutant(
        [("service.migration.routing_table.RoutingTable.interval_start", lambda *_: 1)], "WO"
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_some_seed_catches_an_engine_in_which(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the engine as it is passes under the very seed that caught the other one."""
    expect_caught(MUTANTS[name], monkeypatch)


def expect_caught(mutant: Mutant, monkeypatch: pytest.MonkeyPatch, seeds: int = SEEDS) -> None:
    """Some schedule catches the mutant, and the engine as it is passes under that very seed."""
    with monkeypatch.context() as patched:
        for target, replacement in mutant.patches:
            patched.setattr(target, replacement)
        findings = ((_finding(mutant, seed), seed) for seed in range(seeds))
        nothing = (f"nothing in {seeds} schedules", 0)
        found, seed = next((each for each in findings if each[0]), nothing)
        assert re.search(mutant.caught_by, str(found)), found
    assert _finding(mutant, seed) is None


def _finding(mutant: Mutant, seed: int) -> str | None:
    """What ended the run under `seed`, or None if nothing did."""
    world = World(seed, mutant.shape())
    try:
        world.run()
        mutant.judge(world)
    except (AssertionError, MegaphoneError, CapabilityError) as caught:
        return str(caught)
    return None


@pytest.mark.parametrize("seed", range(4))
def test_f_keeps_results_exact_although_gateways_tick_beyond_the_horizon(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other half of "f routes beyond its horizon": it is F's rule that the mutant lacks."""
    monkeypatch.setattr(TickClock, "next", _tick_beyond)
    world = World(seed, Shape())
    world.run()
    _results(world)
