"""The proof notices every way in which outputs can be wrong: each test breaks one thing.

A small world is made by a second, obvious implementation (a loop over bids); the proof must find it
exact, and must name the right check for each corruption. What this cannot catch: a fault in reading
topics back (tests/integration/test_proof.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from demo.ownership import Migration
from demo.proof import Evidence, Verdict, prove
from demo.rows import BID_SCHEMA, OUTPUT_SCHEMA, hash_bins
from service.hashing import bins_of

BINS = 8
PARTITIONS = 4
SECOND_US = 1_000_000
#: Phases of the synthetic run, seconds: a quiet one, a migration, a quiet one, and so on.
OUT_AT, OUT_DONE, BACK_AT, BACK_DONE, END = 20, 22, 40, 42, 60

Row = dict[str, int | None]


@dataclass
class World:
    """Bids, the outputs of a correct job, and its migrations."""

    bids: list[Row] = field(default_factory=list)
    outputs: list[Row] = field(default_factory=list)
    moved: tuple[int, ...] = (0, 1)

    @property
    def owners(self) -> list[int]:
        return [0] * (BINS // 2) + [1] * (BINS // 2)

    @property
    def migrations(self) -> list[Migration]:
        return [
            Migration(
                "out", OUT_AT * SECOND_US, OUT_DONE * SECOND_US, dict.fromkeys(self.moved, 1)
            ),
            Migration(
                "back", BACK_AT * SECOND_US, BACK_DONE * SECOND_US, dict.fromkeys(self.moved, 0)
            ),
        ]

    def owner(self, bin_: int, second: float) -> int:
        away = bin_ in self.moved and OUT_AT + 1 <= second < BACK_AT + 1
        return 1 if away else self.owners[bin_]


def make_world(seed: int = 7, bids: int = 3_000, auctions: int = 90) -> World:
    """A run of 60 s: bids arrive in batches, each batch gives one output per auction it touches."""
    draw = random.Random(seed)
    world = World()
    bin_of = dict(enumerate(hash_bins(np.arange(auctions), BINS).tolist()))
    state: dict[int, tuple[int, int, int]] = {}
    ends = {("in", p): 0 for p in range(PARTITIONS)} | {("out", p): 0 for p in range(PARTITIONS)}
    made = 0
    while made < bids:
        batch: dict[int, int] = {}
        for _ in range(min(20, bids - made)):
            now_ms = made * END * 1000 // bids
            auction = draw.randrange(auctions)
            price = draw.randrange(100, 10_000)
            partition = auction % PARTITIONS
            world.bids.append(
                {
                    "partition": partition,
                    "offset": ends["in", partition],
                    "auction": auction,
                    "price": price,
                    "date_time": now_ms,
                    "hash_bin": bin_of[auction],
                }
            )
            ends["in", partition] += 1 + draw.randrange(2)
            count, total, highest = state.get(auction, (0, 0, 0))
            state[auction] = (count + 1, total + price, max(highest, price))
            batch[auction] = min(batch.get(auction, now_ms), now_ms)
            made += 1
        for auction, oldest in batch.items():
            partition = (auction + 1) % PARTITIONS
            count, total, highest = state[auction]
            bin_ = bin_of[auction]
            written = made * END * 1000 // bids
            world.outputs.append(
                {
                    "partition": partition,
                    "offset": ends["out", partition],
                    "written_ms": written,
                    "key": auction,
                    "auction": auction,
                    "bids": count,
                    "total": total,
                    "highest": highest,
                    "oldest": oldest,
                    "worker": world.owner(bin_, written / 1000),
                    "bin": bin_,
                    "hash_bin": bin_,
                }
            )
            ends["out", partition] += 1
    return world


def judge(world: World, folder: Path, slice_rows: int = 1 << 30) -> Verdict:
    pq.write_table(pa.Table.from_pylist(world.bids, BID_SCHEMA), folder / "bids-0.parquet")
    half = len(world.outputs) // 2
    for number, rows in enumerate((world.outputs[:half], world.outputs[half:])):
        table = pa.Table.from_pylist(rows, OUTPUT_SCHEMA)
        pq.write_table(table, folder / f"outputs-{number}.parquet")
    evidence = Evidence(
        folder=folder,
        bins=BINS,
        owners=world.owners,
        migrations=world.migrations,
        events=len(world.bids),
        published=len(world.bids),
    )
    return prove(evidence, threads=1, slice_rows=slice_rows)


def names(verdict: Verdict) -> set[str]:
    return {finding.name for finding in verdict.violated}


def middle(world: World) -> int:
    """Index of an output that has one before it and one after it in its auction."""
    for index in range(len(world.outputs) // 2, len(world.outputs)):
        auction = world.outputs[index]["auction"]
        if sum(row["auction"] == auction for row in world.outputs[index:]) > 2:
            return index
    raise AssertionError("no such output")


def followers(world: World, index: int) -> list[int]:
    """Indices of the outputs of the same auction, from `index` on."""
    auction = world.outputs[index]["auction"]
    return [i for i in range(index, len(world.outputs)) if world.outputs[i]["auction"] == auction]


def test_a_correct_run_is_exact_and_counts_what_there_is(tmp_path: Path) -> None:
    world = make_world()
    verdict = judge(world, tmp_path)
    assert verdict.exact, verdict.violated
    assert verdict.outputs_compared == len(world.outputs)
    assert verdict.bids == verdict.bids_counted == 3_000
    assert verdict.auctions == 90
    assert verdict.changes == verdict.changes_witnessed == 4


@pytest.mark.parametrize("slice_rows", [100, 1_000, 2_500])
def test_slices_change_nothing(tmp_path: Path, slice_rows: int) -> None:
    world = make_world()
    assert judge(world, tmp_path, slice_rows) == judge(world, tmp_path)
    world.outputs[40]["total"] = 1
    broken = judge(world, tmp_path, slice_rows)
    assert names(broken) == {"total"}
    assert broken.violated[0].violations == 1


def lose_one(world: World) -> None:
    del world.outputs[middle(world)]


def lose_the_last(world: World) -> None:
    del world.outputs[followers(world, middle(world))[-1]]


def lose_an_auction(world: World) -> None:
    auction = world.outputs[0]["auction"]
    world.outputs = [row for row in world.outputs if row["auction"] != auction]


def lose_everything(world: World) -> None:
    world.outputs = []


def repeat_one(world: World) -> None:
    row = world.outputs[middle(world)]
    world.outputs.append({**row, "offset": 1_000_000})


def repeat_at_once(world: World) -> None:
    # Between its own offset and the next one: the auction's next output has a larger one.
    for row in world.outputs:
        row["offset"] = 2 * int(row["offset"] or 0)
    row = world.outputs[middle(world)]
    world.outputs.append({**row, "offset": int(row["offset"] or 0) + 1})


def swap_two(world: World) -> None:
    first, second = followers(world, middle(world))[:2]
    a, b = world.outputs[first], world.outputs[second]
    a["offset"], b["offset"] = b["offset"], a["offset"]


def make_one_up(world: World) -> None:
    last = world.outputs[followers(world, middle(world))[-1]]
    world.outputs.append({**last, "bids": int(last["bids"] or 0) + 1, "offset": 1_000_000})


def another_auction(world: World) -> None:
    stranger = next(k for k in range(1000, 2000) if hash_bins(np.array([k]), BINS)[0] == 5)
    row = {**world.outputs[0], "auction": stranger, "key": stranger, "bin": 5, "hash_bin": 5}
    world.outputs.append({**row, "worker": 1, "offset": 1_000_000})


def change(name: str, by: int) -> Callable[[World], None]:
    def broken(world: World) -> None:
        row = world.outputs[middle(world)]
        row[name] = int(row[name] or 0) + by

    return broken


def no_key(world: World) -> None:
    world.outputs[middle(world)]["key"] = None


def another_partition(world: World) -> None:
    last = world.outputs[followers(world, middle(world))[-1]]
    last["partition"], last["offset"] = PARTITIONS - 1, 1_000_000
    if world.outputs[middle(world)]["partition"] == PARTITIONS - 1:
        last["partition"] = PARTITIONS


def a_batch_applied_twice(world: World) -> None:
    first = middle(world)
    for index in followers(world, first):
        row = world.outputs[index]
        row["bids"] = int(row["bids"] or 0) + 1


def never_moved(world: World) -> None:
    for row in world.outputs:
        if row["hash_bin"] in world.moved:
            row["worker"] = 0


def never_came_back(world: World) -> None:
    for row in world.outputs:
        if row["hash_bin"] in world.moved and int(row["written_ms"] or 0) > OUT_DONE * 1000:
            row["worker"] = 1


def moved_too_early(world: World) -> None:
    for row in world.outputs:
        if row["hash_bin"] == 0 and int(row["written_ms"] or 0) > OUT_AT * 500:
            row["worker"] = world.owner(0, max(OUT_DONE, int(row["written_ms"] or 0) / 1000))


def two_owners_at_once(world: World) -> None:
    for index, row in enumerate(world.outputs):
        if row["hash_bin"] == 1 and OUT_AT * 1000 < int(row["written_ms"] or 0) < OUT_DONE * 1000:
            row["worker"] = index % 2


def a_bin_nobody_moved(world: World) -> None:
    row = next(row for row in world.outputs if row["hash_bin"] == 6)
    row["worker"] = 0


@pytest.mark.parametrize(
    ("corruption", "expected"),
    [
        (lose_one, {"oldest"}),
        (lose_the_last, {"last", "sum"}),
        (lose_an_auction, {"last", "sum"}),
        (lose_everything, {"last", "sum", "moved"}),
        (repeat_one, {"order"}),
        (repeat_at_once, {"order"}),
        (swap_two, {"order"}),
        (make_one_up, {"count", "last", "sum"}),
        (another_auction, {"count", "last", "sum"}),
        (change("total", 1), {"total"}),
        (change("total", -1), {"total"}),
        (change("highest", 1), {"highest"}),
        (change("oldest", 1), {"oldest"}),
        (change("oldest", -1), {"oldest"}),
        (change("key", 1), {"key"}),
        (no_key, {"key"}),
        (change("bin", 1), {"bin"}),
        (another_partition, {"partition"}),
        (a_batch_applied_twice, {"total", "count"}),
        (never_moved, {"owner", "moved"}),
        (never_came_back, {"owner"}),
        (moved_too_early, {"owner"}),
        (two_owners_at_once, {"owner"}),
        (a_bin_nobody_moved, {"owner"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_corruption_is_found_by_name(
    tmp_path: Path, corruption: Callable[[World], None], expected: set[str]
) -> None:
    world = make_world()
    corruption(world)
    verdict = judge(world, tmp_path)
    assert not verdict.exact
    assert expected <= names(verdict), verdict.violated
    for finding in verdict.violated:
        assert finding.samples, f"{finding.name} shows no example"


@pytest.mark.parametrize("seed", range(20))
def test_any_single_altered_value_is_found(tmp_path: Path, seed: int) -> None:
    world = make_world(seed, bids=400, auctions=25)
    draw = random.Random(seed)
    row = draw.choice(world.outputs)
    name = draw.choice(["bids", "total", "highest", "oldest", "key", "bin", "worker"])
    row[name] = int(row[name] or 0) + draw.choice([-1, 1])
    if name in ("bin", "worker"):
        row[name] = (int(row[name] or 0)) % 8 + 8
    assert not judge(world, tmp_path).exact


def test_a_lost_bid_is_found(tmp_path: Path) -> None:
    world = make_world()
    del world.bids[1234]
    assert {"total", "last", "sum"} <= names(judge(world, tmp_path))


def test_without_a_migration_nothing_is_exact(tmp_path: Path) -> None:
    world = replace(make_world(), moved=())
    for row in world.outputs:
        row["worker"] = world.owners[int(row["hash_bin"] or 0)]
    assert names(judge(world, tmp_path)) == {"moved"}


def test_events_that_are_missing_or_unreadable_are_found(tmp_path: Path) -> None:
    world = make_world()
    judge(world, tmp_path)
    evidence = Evidence(
        folder=tmp_path,
        bins=BINS,
        owners=world.owners,
        migrations=world.migrations,
        events=3_000,
        published=3_001,
        unreadable=2,
    )
    verdict = prove(evidence, threads=1)
    assert names(verdict) == {"published", "readable"}
    assert not verdict.exact


def test_the_second_hash_agrees_with_the_service() -> None:
    keys = np.concatenate(
        [np.arange(-50, 50), np.random.default_rng(1).integers(-(2**63), 2**63 - 1, 500)]
    )
    for bits in (0, 1, 5, 10, 20):
        np.testing.assert_array_equal(hash_bins(keys, 1 << bits), bins_of(keys, bits))
