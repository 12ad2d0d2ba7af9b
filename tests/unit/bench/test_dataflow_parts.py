"""Parts of the dataflow benchmark that can be wrong without anybody seeing it in a figure.

Cannot catch: a measurement that is wrong. That is for people, who compare docs/benchmarks.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from service.bench.barrier import BarrierOptions, Rounds, loop_of
from service.bench.components import (
    ComponentsOptions,
    Labels,
    components_by_union,
    random_edges,
)
from service.bench.dataflow import Part, Sizes, _parameters
from service.bench.peers import Peer, environment
from service.bench.running_mean import digest_of, records_of, running_mean
from service.bench.steps import IDLE_OPERATORS, Line, StepOptions, idle_figures, one_row, ten_maps
from service.clock import SystemClock
from service.dataflow.transport.memory import MemoryNetwork
from service.dataflow.worker import Speaking, Worker
from service.errors import MegaphoneError, UsageError


def run(workers: list[Worker]) -> None:
    while not all(worker.complete for worker in workers):
        for worker in workers:
            worker.step()


@pytest.mark.parametrize("speaking", Speaking)
def test_no_process_is_told_of_a_round_before_all_have_given_up_the_one_before(speaking) -> None:
    network, clock = MemoryNetwork(2), SystemClock()
    rounds = [Rounds(20, clock) for _ in range(2)]
    workers = [
        Worker(loop_of(each), peer, 2, (1,), network.transport(peer), speaking=speaking)
        for peer, each in enumerate(rounds)
    ]
    while not all(worker.complete for worker in workers):
        for worker in workers:
            worker.step()
            told = [len(each.over_ns) for each in rounds]
            assert abs(told[0] - told[1]) <= 1
    assert told == [20, 20]


def test_a_round_costs_each_process_one_batch() -> None:
    network, clock = MemoryNetwork(2), SystemClock()
    sent = []
    for count in (10, 30):
        network = MemoryNetwork(2)
        workers = [
            Worker(loop_of(Rounds(count, clock)), peer, 2, (1,), network.transport(peer))
            for peer in range(2)
        ]
        run(workers)
        sent.append([worker.progress_batches_sent for worker in workers])
    assert [after - before for before, after in zip(*sent, strict=True)] == [20, 20]


def test_components_by_union_of_a_graph_drawn_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    options = ComponentsOptions(nodes=7, edges=4)
    edges = np.array([[5, 4], [4, 1], [2, 6], [2, 2]])
    monkeypatch.setattr("service.bench.components.random_edges", lambda _: edges)
    assert components_by_union(options) == [0, 1, 2, 3, 1, 1, 2]


def test_edges_are_the_same_for_everybody_and_lie_within_the_graph() -> None:
    options = ComponentsOptions(nodes=50, edges=200)
    edges = random_edges(options)
    assert edges.shape == (200, 2)
    assert (edges == random_edges(options)).all()
    assert edges.min() >= 0
    assert edges.max() < 50


def test_a_label_that_falls_is_sent_along_every_edge_and_one_that_does_not_along_none() -> None:
    labels = Labels(6)
    labels._fresh.append(np.array([[4, 5], [4, 2], [5, 4], [2, 4]]))
    fallen = labels._fallen(np.array([4, 4]), np.array([3, 1]))
    assert sorted(map(tuple, fallen.tolist())) == [(2, 1), (5, 1)]
    assert len(labels._fallen(np.array([4]), np.array([2]))) == 0
    labels._fresh.append(np.array([[4, 0]]))
    fallen = labels._fallen(np.array([4]), np.array([0]))
    assert sorted(map(tuple, fallen.tolist())) == [(0, 0), (2, 0), (5, 0)]


def test_the_row_reaches_the_sink_through_ten_operators_beside_idle_ones() -> None:
    line = Line(one_row(), ten_maps(), idle=3)
    for step in range(1, 4):
        line.step(all_epochs=step == 2)
        assert line.sink.rows == step


def test_each_of_the_ten_functions_does_something() -> None:
    batch = one_row()
    for function in ten_maps():
        after = function(batch)
        assert isinstance(after, pa.RecordBatch)
        assert after.num_rows == 1
        batch = after
    assert batch.schema.names == ["auction", "euro", "bidder"]
    assert batch["bidder"].to_pylist() == [4]


def test_idle_operators_are_measured_beside_none() -> None:
    figures = {figure.name: figure for figure in idle_figures(1, StepOptions(5, 1))}
    held = figures[f"idle: share of a step that {IDLE_OPERATORS:,} operators add"]
    assert (held.bound, held.runs) == (0.05, 1)
    assert figures["idle: what they add if their epoch closes with it"].median > 0


def test_running_mean_and_its_digest() -> None:
    state, outputs = None, []
    for value in (4, 6, 2):
        state, mean = running_mean(state, value)
        outputs.append((7, mean))
    assert outputs == [(7, 4.0), (7, 5.0), (7, 4.0)]
    other = [(3, 1.0), (3, 2.0)]
    assert digest_of(outputs + other) == digest_of(other + outputs)
    assert digest_of(outputs) != digest_of(outputs[::-1] + outputs[:1])
    assert digest_of(outputs) != digest_of([(8, mean) for _, mean in outputs])
    assert digest_of([(3, 1.0), (3, 2.0)]) != digest_of([(3, 2.0), (3, 1.0)])


def test_records_are_of_every_key_alike() -> None:
    records = records_of(20_000, 10)
    counts = np.bincount([key for key, _ in records])
    assert len(counts) == 10
    assert counts.min() > 1500
    assert {value for _, value in records} <= set(range(1000))
    assert records == records_of(20_000, 10)


def test_a_small_scale_still_measures_something() -> None:
    sizes = Sizes.scaled(0.001)
    assert sizes.barrier == BarrierOptions(rounds=5, warm_up=1)
    assert sizes.exchange.batches == 1
    assert sizes.records.batch == 10
    assert Sizes.scaled(1.0).steps == StepOptions()


def test_parameters_are_those_of_the_parts_that_were_measured() -> None:
    sizes = Sizes.scaled(1.0)
    fields = _parameters([Part.BARRIER, Part.STATEFUL_MAP], 5, sizes)
    assert fields == {
        "runs": 5,
        "barrier_rounds": 5000,
        "barrier_warm_up": 500,
        "stateful_map_records": 500_000,
        "stateful_map_keys": 1000,
        "stateful_map_batch": 10_000,
    }


def test_a_peer_without_its_lock_is_a_usage_error(tmp_path) -> None:
    with pytest.raises(UsageError, match=r"bytewax\.txt; run --peer bytewax in a checkout"):
        environment(Peer.BYTEWAX, tmp_path)


def test_an_environment_is_made_from_its_lock_and_made_anew_when_that_changes(tmp_path) -> None:
    lock = tmp_path / "requirements" / "peers" / "bytewax.txt"
    lock.parent.mkdir(parents=True)
    lock.write_text("# nothing is needed\n", encoding="utf-8")
    python = environment(Peer.BYTEWAX, tmp_path)
    assert python == tmp_path / ".venv-peers" / "bytewax" / "bin" / "python"
    assert python.exists()
    left = python.parents[1] / "left"
    left.touch()
    assert environment(Peer.BYTEWAX, tmp_path) == python
    assert left.exists()
    lock.write_text("no-requirement ==\n", encoding="utf-8")
    with pytest.raises(MegaphoneError, match="environment of bytewax could not be made"):
        environment(Peer.BYTEWAX, tmp_path)
    assert not left.exists()
