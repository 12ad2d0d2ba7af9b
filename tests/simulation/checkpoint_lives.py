"""Checkpoints at random times of a job under a seed, and the lives that go on from each of them.

A job of 3 workers and 2 gateways reads what a seed sends it, while bins move and checkpoints are
asked for; the order of everything is the seed's (`Cluster(schedule=...)`). From every manifest that
was written the job is then begun again, and must end as a job that never stopped.

Checked for each life
  CL1  Final results are those of Python over all inputs.
  CL2  State of every key is what its inputs say, in the bin of its hash and nowhere else.
  CL3  At the cut, positions and state are of the same rows: the state of each key counts exactly
       the inputs before the positions.
What it cannot catch: anything in the shells; rows of an aggregate in the wrong order.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

import megaphone as mp
from megaphone.testing import Cluster
from service.hashing import bins_of
from service.ids import Role, Slot
from service.migration.records import ManifestRecord, RequestState, decode_manifest
from service.slot_folder import files_of
from service.statestore.contents import contents
from service.statestore.stored_kinds import value_of

BINS = 8
KEYS = 25
STEPS = 60


def aggregated() -> mp.Flow:
    """Rows of each key, counted; the price says which row of its key it is."""
    return _sunk(_source(mp.Flow("one")).aggregate("state", n=mp.count(), last=mp.highest("price")))


def delayed() -> mp.Flow:
    """The first one with rows that wait before the state and behind it: 6 ms from cut to cut."""
    flow = mp.Flow("delayed")
    connector = mp.KafkaSource(["bids"], record="bid", fields=["auction", "price"])
    late = flow.source("bids", connector).delay("before", step=2_000).key_by("auction")
    state = late.aggregate("state", n=mp.count(), last=mp.highest("price"))
    return _sunk(state.delay("behind", step=3_000))


def two_stages() -> mp.Flow:
    """The same, and the highest count of each group of keys behind it."""
    flow = mp.Flow("two")
    first = _source(flow).aggregate("state", n=mp.count(), last=mp.highest("price"))
    grouped = first.map_batches("group", _group, columns=["auction", "n", "last"])
    second = grouped.key_by("auction").aggregate(
        "second", n=mp.highest("n"), last=mp.highest("last")
    )
    return _sunk(second)


def mapped() -> mp.Flow:
    """A Python object per key, eager."""
    return _sunk(_mapped(mp.Flow("mapped"), mp.Order.EAGER))


def ordered() -> mp.Flow:
    """The same, in the order of time."""
    return _sunk(_mapped(mp.Flow("ordered"), mp.Order.ORDERED))


def _source(flow: mp.Flow) -> mp.KeyedStream:
    connector = mp.KafkaSource(["bids"], record="bid", fields=["auction", "price"])
    return flow.source("bids", connector).key_by("auction")


def _mapped(flow: mp.Flow, order: mp.Order) -> mp.Stream:
    def step(seen: tuple[int, int] | None, price: int) -> tuple[object, object]:
        count, last = seen or (0, -1)
        after = (count + 1, max(last, price))
        return after, after

    schema = {"n": pa.int64(), "last": pa.int64()}
    return _source(flow).stateful_map("state", step, value="price", schema=schema, order=order)


def _sunk(stream: mp.Stream) -> mp.Flow:
    return stream.sink("out", mp.KafkaSink("stats", key="auction", schema=9))


def _group(rows: pa.RecordBatch) -> pa.RecordBatch:
    keys = rows.column("auction").to_numpy() // 5
    return rows.set_column(0, "auction", pa.array(keys))


FLOWS: dict[str, Callable[[], mp.Flow]] = {
    "aggregate": aggregated,
    "delays": delayed,
    "two stages": two_stages,
    "stateful map": mapped,
    "ordered": ordered,
}


@dataclass
class Lives:
    """What a job under a seed did, and what it should have."""

    checkpoints: int
    completed: int
    moves: int
    outputs: int


def live(name: str, seed: int, *, again: bool = True) -> Lives:
    """Run the job of a flow under a seed, and `again` from each of its checkpoints to its end."""
    draw = np.random.default_rng(seed)
    #: (key, price) of each row of each partition, in order.
    sent: list[list[tuple[int, int]]] = [[], []]
    moves = 0
    flow = FLOWS[name]()
    columns = {"bids": {"auction": "int64", "price": "int64"}}
    with Cluster(flow, workers=3, gateways=2, bins=BINS, schemas=columns, schedule=seed) as job:
        for _ in range(STEPS):
            match int(draw.integers(10)):
                case 0 | 1 | 2 | 3:
                    partition = int(draw.integers(2))
                    rows = _rows(draw, sent, int(draw.integers(1, 15)))
                    sent[partition] += rows
                    given = [{"auction": key, "price": price} for key, price in rows]
                    job.send("bids", given, partition=partition)
                case 4 | 5 | 6:
                    job.advance(float(draw.integers(1, 4)))
                case 7 if job._lives.running.machine.plan is None:
                    bins = draw.choice(BINS, size=int(draw.integers(1, 5)), replace=False)
                    job.move(bins.tolist(), int(draw.integers(3)), batch=2, wait=False)
                    moves += 1
                case 8 | 9 if job._lives.running.machine._checkpoints.under_way is None:
                    job.checkpoint(wait=False)
                case _:
                    pass
        if draw.integers(3) == 0:
            job.crash()
            job.restart()
        job.finish()
        manifests = [decode_manifest(each) for each in job._broker.manifests]
        statuses = Counter(status.state for status in job._broker.statuses.values())
        _check_end(name, job, sent, seed)
        for number, manifest in enumerate(manifests):
            _check_cut(name, job, manifest, sent)
            if not again:
                continue
            kept = job._broker.manifests
            job._broker.manifests = kept[: number + 1]
            job.restart()
            job.finish()
            _check_end(name, job, sent, seed)
            job._broker.manifests = kept
        outputs = len(job._broker.records["out"])
    return Lives(len(manifests) - 1, statuses[RequestState.COMPLETED], moves, outputs)


def _rows(draw: np.random.Generator, sent: list[list[tuple[int, int]]], count: int):
    """Rows of random keys; the price is how many rows its key has had before."""
    seen = Counter(key for rows in sent for key, _ in rows)
    rows = []
    for key in draw.integers(KEYS, size=count).tolist():
        rows.append((key, seen[key]))
        seen[key] += 1
    return rows


def _folded(rows: list[tuple[int, int]]) -> dict[int, tuple[int, int]]:
    state: dict[int, tuple[int, int]] = {}
    for key, price in rows:
        count, last = state.get(key, (0, -1))
        state[key] = (count + 1, max(last, price))
    return state


def _grouped(state: dict[int, tuple[int, int]]) -> dict[int, tuple[int, int]]:
    groups: dict[int, tuple[int, int]] = defaultdict(lambda: (0, -1))
    for key, (count, last) in state.items():
        most, latest = groups[key // 5]
        groups[key // 5] = (max(most, count), max(latest, last))
    return dict(groups)


def _check_end(name: str, job: Cluster, sent: list[list[tuple[int, int]]], seed: int) -> None:
    """CL1."""
    expected = _folded([row for rows in sent for row in rows])
    if name == "two stages":
        expected = _grouped(expected)
    found = {key: (row["n"], row["last"]) for key, row in job.latest("out").items()}
    assert found == expected, f"CL1, seed {seed} of {name}"


def _check_cut(
    name: str, job: Cluster, manifest: ManifestRecord, sent: list[list[tuple[int, int]]]
) -> None:
    """CL2, CL3."""
    positions = manifest.positions["bids"]
    before = [row for rows, end in zip(sent, positions, strict=True) for row in rows[:end]]
    expected = {"state": _folded(before)}
    if name == "two stages":
        expected["second"] = _grouped(expected["state"])
    found: dict[str, dict[int, tuple[int, int]]] = {vertex: {} for vertex in expected}
    for worker in range(manifest.workers):
        slot = str(Slot(Role.WORKER, worker))
        files = files_of(manifest, slot)
        assert files is not None
        for content in contents(job._broker.state_dir() / slot, files):
            assert manifest.bin_owners[content.bin] == worker, "CL2: a bin of another worker"
            for number, rows in content.vertices.items():
                stored = files.vertices[number]
                assert set(bins_of(rows.keys, 3).tolist()) <= {content.bin}, "CL2"
                for key, value in zip(rows.keys.tolist(), rows.values, strict=True):
                    assert key not in found[stored.vertex], "CL2: a key in two places"
                    found[stored.vertex][key] = _pair(value_of(stored, value))
    assert found == expected, f"CL3 at {manifest.cut}"


def _pair(value: object) -> tuple[int, int]:
    """Count and last of a state, whatever it is kept as."""
    assert isinstance(value, dict)
    if "n" in value:
        return value["n"], value["last"]
    first, second = value["value"]
    return first, second
