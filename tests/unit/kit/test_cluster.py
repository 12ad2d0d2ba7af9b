"""The users' test kit does what its documents say, with the product's own code.

Cannot catch: what depends on how long something takes; a job in the kit takes no time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

import megaphone as mp
from megaphone.testing import Cluster, OutputRecord
from service.testing import lives
from tests.unit.kit.flows import bids, counting, endless, failing, two_inputs

SCHEMAS = Path(__file__).parents[3] / "examples" / "schemas"


def test_rows_come_out_as_a_changelog_whose_last_row_is_final() -> None:
    with Cluster(counting()) as cluster:
        cluster.send("bids", bids(7, 7, 9))
        cluster.send("bids", bids(7, price=5))
        assert sorted(map(str, cluster.output("out"))) == sorted(
            map(
                str,
                [
                    {"auction": 7, "bids": 2, "top": 1},
                    {"auction": 9, "bids": 1, "top": 1},
                    {"auction": 7, "bids": 3, "top": 5},
                ],
            )
        )
        assert cluster.latest("out")[7] == {"auction": 7, "bids": 3, "top": 5}


def test_a_record_says_who_wrote_it_and_which_bin_it_is_of() -> None:
    with Cluster(counting(), workers=2, bins=16) as cluster:
        cluster.send("bids", bids(7))
        number = cluster.bin_of(7)
        writer = f"worker-{cluster.owners[number]}"
        row = {"auction": 7, "bids": 1, "top": 1}
        assert cluster.records("out") == [OutputRecord(row, writer, number)]


def test_a_move_changes_the_writer_and_not_the_result() -> None:
    with Cluster(counting(), workers=2, bins=16) as cluster:
        cluster.send("bids", bids(*range(20)))
        there = [number for number, owner in enumerate(cluster.owners) if owner == 0]
        status = cluster.move(there, to=1, strategy="fluid")
        assert (str(status.state), status.bins, status.waves) == ("completed", 8, 8)
        assert status.bytes > 0
        assert set(cluster.owners) == {1}
        cluster.send("bids", bids(*range(20)))
        late = cluster.records("out")[20:]
        assert {record.writer for record in late} == {"worker-1"}
        assert all(row["bids"] == 2 for row in cluster.latest("out").values())


@pytest.mark.parametrize("precopy", [False, True])
def test_rows_sent_while_bins_move_are_neither_lost_nor_doubled(precopy) -> None:
    with Cluster(counting(), workers=3, gateways=2, bins=16) as cluster:
        cluster.send("bids", bids(*range(30)))
        asked = cluster.move(
            range(16), to=2, strategy="batched", batch=4, precopy=precopy, wait=False
        )
        assert str(asked.state) in ("accepted", "running")
        for _ in range(10):
            cluster.advance(ms=1)
            cluster.send("bids", bids(*range(30)))
        cluster.advance(ms=100)
        assert set(cluster.owners) == {2}
        seen = cluster.output("out")
        for auction in range(30):
            assert [r["bids"] for r in seen if r["auction"] == auction] == list(range(1, 12))


def test_a_rescale_spreads_the_bins_evenly() -> None:
    with Cluster(counting(), workers=3, bins=16) as cluster:
        cluster.send("bids", bids(1))
        cluster.rescale(2)
        assert sorted(map(cluster.owners.count, (0, 1, 2))) == [0, 8, 8]


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda cluster: cluster.move([99], to=0), "unknown bin 99; the job has bins 0 to 15"),
        (lambda cluster: cluster.move([0], to=5), "unknown worker 5"),
        (lambda cluster: cluster.move([0], to=1, strategy="magic"), "strategy"),
        (lambda cluster: cluster.rescale(9), "the job has 2; start it with --workers 9"),
    ],
)
def test_what_the_product_rejects_is_rejected_with_its_reason(call, reason) -> None:
    with Cluster(counting()) as cluster:
        cluster.send("bids", bids(1))
        before = cluster.owners
        with pytest.raises(mp.UsageError, match=reason):
            call(cluster)
        assert cluster.owners == before


def test_a_plain_stop_keeps_state_and_positions() -> None:
    with Cluster(counting()) as cluster:
        cluster.send("bids", bids(7, 7))
        cluster.stop()
        cluster.send("bids", bids(7))
        assert len(cluster.output("out")) == 1, "rows wait while the job is down"
        cluster.restart()
        assert [row["bids"] for row in cluster.output("out")] == [2, 3]


def test_a_crash_goes_back_to_the_last_plain_stop_and_results_come_again() -> None:
    with Cluster(counting()) as cluster:
        cluster.send("bids", bids(7))
        cluster.stop()
        cluster.restart()
        cluster.send("bids", bids(7))
        cluster.crash()
        cluster.restart()
        cluster.send("bids", bids(7))
        assert [row["bids"] for row in cluster.output("out")] == [1, 2, 2, 3]


def test_a_crash_before_any_stop_begins_anew() -> None:
    with Cluster(counting()) as cluster:
        cluster.send("bids", bids(7))
        cluster.crash()
        cluster.restart()
        assert [row["bids"] for row in cluster.output("out")] == [1, 1]


def test_a_move_that_was_not_checkpointed_is_forgotten_by_a_crash() -> None:
    with Cluster(counting(), bins=4) as cluster:
        cluster.send("bids", bids(*range(9)))
        cluster.move([0, 1], to=1)
        cluster.crash()
        cluster.restart()
        assert cluster.owners == [0, 0, 1, 1]
        cluster.move([0, 1], to=1)
        cluster.stop()
        cluster.restart(workers=3)
        assert cluster.owners == [1, 1, 1, 1]
        cluster.rescale(3)
        cluster.send("bids", bids(*range(9)))
        assert all(row["bids"] == 2 for row in cluster.latest("out").values())


def test_a_restart_with_too_few_workers_is_refused_as_the_product_does() -> None:
    with Cluster(counting(), workers=2, bins=4) as cluster:
        cluster.send("bids", bids(7))
        cluster.stop()
        with pytest.raises(mp.UsageError, match="bins on workers that the job does not have"):
            cluster.restart(workers=1)
        assert not cluster.is_up
        cluster.advance(ms=5)
        cluster.restart(workers=2)
        cluster.send("bids", bids(7))
        assert cluster.latest("out")[7]["bids"] == 2


@pytest.mark.parametrize("seed", range(8))
def test_no_schedule_changes_the_last_result_of_a_key_whatever_is_lost_or_moved(seed) -> None:
    with Cluster(counting(), workers=3, gateways=2, bins=8, schedule=seed) as cluster:
        sent = 0
        for step in range(12):
            cluster.send("bids", bids(*range(10)))
            sent += 1
            match (step + seed) % 6:
                case 1:
                    cluster.move([step % 8, (step + 3) % 8], to=step % 3, wait=step % 2 == 0)
                case 3:
                    cluster.advance(ms=50)
                case 4:
                    cluster.crash()
                    cluster.restart()
                case 5:
                    cluster.stop()
                    cluster.restart()
        cluster.finish()
        assert cluster.latest("out") == {
            auction: {"auction": auction, "bids": sent, "top": 1} for auction in range(10)
        }


def test_a_schedule_gives_the_same_run_each_time_and_another_seed_another_one() -> None:
    def history(seed: int | None) -> list[OutputRecord]:
        with Cluster(counting(), workers=3, gateways=2, bins=8, schedule=seed) as cluster:
            for _ in range(5):
                cluster.send("bids", bids(*range(10)))
            return cluster.records("out")

    assert history(3) == history(3)
    assert history(None) == history(None)
    assert len({str(history(seed)) for seed in range(4)}) == 4


def test_a_result_that_depends_on_the_order_is_found_out_by_some_seed() -> None:
    """Counting the changes of a changelog, which CORRECTNESS.md warns of."""
    flow = mp.Flow("changes")
    source = mp.KafkaSource(["bids"], record="bid", fields=["auction", "price"])
    stats = flow.source("bids", source).key_by("auction").aggregate("stats", bids=mp.count())
    changes = stats.key_by("auction").aggregate("changes", changes=mp.count())
    changes.sink("out", mp.KafkaSink("out", key="auction", schema=1))

    def last(seed: int) -> int:
        with Cluster(flow, gateways=3, schedule=seed) as cluster:
            for _ in range(6):
                cluster.send("bids", bids(1, 1))
            return int(str(cluster.latest("out")[1]["changes"]))

    found = {last(seed) for seed in range(6)}
    assert len(found) > 1
    assert max(found) <= 12


def test_within_a_key_results_are_in_order_under_any_schedule() -> None:
    for seed in range(6):
        with Cluster(counting(), workers=3, bins=8, schedule=seed) as cluster:
            for _ in range(6):
                cluster.send("bids", bids(1, 2, 3))
                cluster.move([0, 1, 2, 3], to=seed % 3) if seed % 2 else cluster.advance(ms=2)
            counts = [(row["auction"], row["bids"]) for row in cluster.output("out")]
            for auction in (1, 2, 3):
                own = [count for key, count in counts if key == auction]
                assert own == sorted(set(own))
                assert own[-1] == 6


def test_the_clock_is_the_tests_own() -> None:
    with Cluster(counting()) as cluster:
        assert cluster.now_ms == 0
        cluster.send("bids", bids(1))
        cluster.output("out")
        assert cluster.now_ms == 0
        cluster.advance(ms=12.5)
        cluster.advance(ms=3_600_000)
        assert cluster.now_ms == 3_600_012.5
        cluster.send("bids", bids(1))
        assert [row["bids"] for row in cluster.output("out")] == [1, 2]
        with pytest.raises(mp.UsageError, match="cannot go back by 1 ms"):
            cluster.advance(ms=-1)


def test_a_users_function_that_raises_is_the_products_error_and_ends_the_job() -> None:
    with Cluster(failing()) as cluster:
        cluster.send("bids", bids(1))
        with pytest.raises(mp.UserFunctionError, match=r"'check' raised ValueError: 13.*1 rows of"):
            cluster.send("bids", bids(2, price=13))
        with pytest.raises(mp.UsageError, match="the job is down: it failed; restart"):
            cluster.settle()
        assert len(cluster.output("out")) == 1
        with pytest.raises(mp.UserFunctionError):
            cluster.restart()


def test_what_is_wrong_with_a_call_is_said_by_name() -> None:
    with Cluster(counting()) as cluster:
        with pytest.raises(mp.UsageError, match=r"columns of \['bids'\] are unknown"):
            cluster.output("out")
        with pytest.raises(mp.UsageError, match=r"no source 'bid'; the flow has \['bids'\]"):
            cluster.send("bid", bids(1))
        with pytest.raises(mp.GraphError, match=r"lacks \['price'\]"):
            cluster.send("bids", [{"auction": 1}])
        cluster.send("bids", bids(1))
        with pytest.raises(mp.GraphError, match="column 'auction' has values \\['x'\\]"):
            cluster.send("bids", [{"auction": "x", "price": 1}])
        with pytest.raises(mp.GraphError, match=r"1\.5 is no integer"):
            cluster.send("bids", [{"auction": 1, "price": 1.5}])
        with pytest.raises(mp.UsageError, match="no partition 3; each topic has 1"):
            cluster.send("bids", bids(1), partition=3)
        with pytest.raises(mp.UsageError, match=r"no sink 'o'; the flow has \['out'\]"):
            cluster.output("o")
        with pytest.raises(mp.UsageError, match="no column 'x'"):
            cluster.latest("out", key="x")
        with pytest.raises(mp.UsageError, match="the job runs"):
            cluster.restart()
        cluster.crash()
        with pytest.raises(mp.UsageError, match="it crashed; restart"):
            cluster.crash()
        with pytest.raises(mp.UsageError, match="it crashed; restart"):
            cluster.move([0], to=0)
    with pytest.raises(mp.UsageError, match=r"schemas names \['x'\]"):
        Cluster(counting(), schemas={"x": {"a": "int64"}})
    with pytest.raises(mp.GraphError, match=r"schemas\['bids'\] lacks \['price'\]"):
        Cluster(counting(), schemas={"bids": {"auction": "int64"}})
    with pytest.raises(mp.GraphError, match="'int46' is no type"):
        Cluster(counting(), schemas={"bids": {"auction": "int46"}})
    with pytest.raises(mp.UsageError, match="power of two"):
        Cluster(counting(), bins=3)
    with pytest.raises(mp.UsageError, match="workers and gateways"):
        Cluster(counting(), workers=0)


def test_a_loop_that_never_ends_is_told_instead_of_waited_for(monkeypatch) -> None:
    monkeypatch.setattr("service.testing.schedule._TURNS_MAX", 500)
    with (
        Cluster(endless()) as cluster,
        pytest.raises(mp.UsageError, match="does not come to rest after 500 turns"),
    ):
        cluster.send("in", [{"n": 1}])


def test_a_job_with_two_sources_begins_when_both_are_known() -> None:
    with Cluster(two_inputs()) as cluster:
        cluster.send("bids", [{"auction": 1}])
        with pytest.raises(mp.UsageError, match=r"columns of \['asks'\] are unknown"):
            cluster.settle()
        cluster.send("asks", [{"auction": 1}])
        assert cluster.latest("out") == {1: {"auction": 1, "seen": 2}}
    with Cluster(two_inputs(), schemas={"asks": {"auction": "int64"}}) as cluster:
        cluster.send("bids", [{"auction": 1}])
        assert cluster.latest("out") == {1: {"auction": 1, "seen": 1}}


def test_rows_may_be_batches_and_tables_and_have_more_than_is_taken() -> None:
    with Cluster(counting()) as cluster:
        columns = {"price": [3, 4], "note": ["a", None], "auction": [1, 2]}
        cluster.send("bids", [pa.RecordBatch.from_pydict(columns)])
        cluster.send("bids", [{**bids(1)[0], "note": object()}, pa.table(columns)])
        assert {key: row["bids"] for key, row in cluster.latest("out").items()} == {1: 3, 2: 2}


def test_partitions_take_turns_and_can_be_named() -> None:
    with Cluster(counting(), gateways=2) as cluster:
        for partition in (None, None, 0, 1, 1):
            cluster.send("bids", bids(1), partition=partition)
        assert cluster.latest("out")[1]["bids"] == 5
        cluster.stop()
        cluster.restart(gateways=3)
        cluster.send("bids", bids(1))
        assert cluster.latest("out")[1]["bids"] == 6


def test_with_a_registry_columns_are_those_of_the_schemas_and_results_must_fit() -> None:
    def flow(schema: int) -> mp.Flow:
        flow = mp.Flow("bidders")
        source = mp.KafkaSource(["nexmark-events"], record="bid", fields=["bidder"])
        counts = flow.source("bids", source).key_by("bidder").aggregate("counts", bids=mp.count())
        return counts.sink("out", mp.KafkaSink("out", key="bidder", schema=schema))

    with Cluster(flow(10), registry=SCHEMAS) as cluster:
        cluster.send("bids", [{"bidder": 5}])
        assert cluster.output("out") == [{"bidder": 5, "bids": 1}]
    with (
        Cluster(flow(11), registry=SCHEMAS) as cluster,
        pytest.raises(mp.GraphError, match="do not fit schema 11"),
    ):
        cluster.send("bids", [{"bidder": 5}])


def test_a_flow_of_lists_brings_its_rows_along_and_its_sinks_are_not_opened(tmp_path) -> None:
    flow = mp.Flow("lists")
    rows = flow.source("in", mp.ListSource([{"k": 1}, {"k": 1}, {"k": 2}]))
    counts = rows.key_by("k").aggregate("counts", n=mp.count())
    counts.sink("out", mp.FileSink(tmp_path / "out.jsonl"))
    with Cluster(flow) as cluster:
        assert cluster.latest("out", key="k") == {1: {"k": 1, "n": 2}, 2: {"k": 2, "n": 1}}
        with pytest.raises(mp.UsageError, match="no key; say which column"):
            cluster.latest("out")
        with pytest.raises(mp.UsageError, match="is a list of 3 rows, which has its rows already"):
            cluster.send("in", [{"k": 3}])
        cluster.crash()
        cluster.restart()
        assert len(cluster.output("out")) == 4
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_on_the_disk() -> None:
    with Cluster(counting()) as cluster:
        cluster.send("bids", bids(1))
        cluster.stop()
        folder = cluster._broker.state_dir()
        assert any(folder.rglob("*.sst"))
    assert not folder.exists()
    assert list(itertools.islice(folder.parent.glob(folder.name), 1)) == []


def test_a_probe_can_be_asked_and_a_delay_waits_for_the_clock() -> None:
    flow = mp.Flow("delayed")
    source = mp.KafkaSource(["bids"], record="bid", fields=["auction"])
    gathered = flow.source("bids", source).delay("gathered", step=1_000_000)
    place = gathered.probe()
    gathered.sink("out", mp.KafkaSink("out", key="auction", schema=1))
    with Cluster(flow, schemas={"bids": {"auction": "int64"}}) as cluster:
        cluster.advance(ms=1)
        due = cluster.epoch + 999_000
        cluster.send("bids", [{"auction": 1}])
        cluster.advance(ms=998)
        assert cluster.output("out") == []
        assert place.passed(cluster, due - 1_000)
        assert not place.passed(cluster, due)
        cluster.advance(ms=1)
        assert cluster.output("out") == [{"auction": 1}]
        assert place.passed(cluster, due)
        cluster.send("bids", [{"auction": 2}])
        cluster.finish()
        assert cluster.output("out") == [{"auction": 1}, {"auction": 2}]


def gathering(until: Callable[[int], int]) -> mp.Flow:
    """Counts the rows of each auction, put off."""
    flow = mp.Flow("gathering")
    source = mp.KafkaSource(["bids"], record="bid", fields=["auction"])
    late = flow.source("bids", source).delay("gathered", until=until)
    counts = late.key_by("auction").aggregate("counts", bids=mp.count())
    return counts.sink("out", mp.KafkaSink("out", key="auction", schema=1))


def test_a_checkpoint_waits_until_a_delay_has_let_its_rows_go() -> None:
    def until(epoch: int) -> int:
        return (epoch - 50_001) // 100_000 * 100_000 + 150_000

    with Cluster(gathering(until)) as cluster:
        cluster.send("bids", bids(1))
        assert cluster.output("out") == []
        status = cluster.checkpoint()
        assert status.at % 100_000 == 50_001
        assert len(cluster.output("out")) == 1
        cluster.send("bids", bids(1))
        cluster.crash()
        cluster.restart()
        cluster.finish()
        assert [row["bids"] for row in cluster.output("out")] == [1, 2]


def test_rows_that_a_function_puts_off_across_a_cut_cost_the_checkpoint_and_nothing_else() -> None:
    def until(epoch: int) -> int:
        # Some times are left alone, while rows of before go on behind them.
        return epoch if epoch % 1_000 == 7 else (epoch // 1_000 + 20) * 1_000 + 7

    with Cluster(gathering(until)) as cluster:
        cluster.send("bids", bids(1))
        status = cluster.checkpoint(wait=False)
        while cluster.epoch < status.at - 5_000:
            cluster.advance(ms=1)
        cluster.send("bids", bids(1))
        cluster.advance(ms=100)
        status = cluster._broker.statuses[status.id]
        assert status.state == "aborted"
        assert f"delay 'gathered' put rows from before the cut {status.at} off" in status.reason
        cluster.crash()
        cluster.restart()
        cluster.finish()
        assert cluster.latest("out")[1]["bids"] == 2
    with Cluster(gathering(lambda epoch: epoch + 5)) as cluster:
        cluster.send("bids", bids(1))
        with pytest.raises(mp.UsageError, match="no time is left alone by all of 'gathered'"):
            cluster.checkpoint()


def numbering(order: mp.Order) -> mp.Flow:
    """Numbers the rows of each auction."""

    def number(state: int, price: int) -> tuple[int, tuple[int, int]]:
        return state + 1, (state + 1, price)

    flow = mp.Flow("numbering")
    source = mp.KafkaSource(["bids"], record="bid", fields=["auction", "price"])
    numbered = (
        flow.source("bids", source)
        .key_by("auction")
        .stateful_map(
            "number",
            number,
            value="price",
            schema={"number": pa.int64(), "price": pa.int64()},
            initial=int,
            order=order,
        )
    )
    return numbered.sink("out", mp.KafkaSink("out", key="auction", schema=1))


@pytest.mark.parametrize("order", mp.Order)
@pytest.mark.parametrize("gateways", [1, 3])
def test_state_of_python_objects_moves_and_comes_back_after_a_stop(order, gateways) -> None:
    with Cluster(numbering(order), workers=3, gateways=gateways, bins=8) as cluster:
        for price in range(3):
            cluster.send("bids", bids(1, 2, 3, price=price))
        cluster.move(range(8), to=2)
        cluster.send("bids", bids(1, 2, 3, price=3))
        assert len(cluster.output("out")) == 12
        cluster.stop()
        cluster.restart()
        cluster.send("bids", bids(1, 2, 3, price=4))
        own = [row for row in cluster.output("out") if row["auction"] == 2]
        assert [row["number"] for row in own] == [1, 2, 3, 4, 5]
        assert [row["price"] for row in own] == [0, 1, 2, 3, 4]


def test_an_ordered_vertex_gives_the_same_rows_under_every_schedule() -> None:
    def history(seed: int) -> dict[int, list[tuple[object, object]]]:
        cluster = Cluster(numbering(mp.Order.ORDERED), workers=3, bins=8, schedule=seed)
        with cluster:
            for price in range(8):
                cluster.send("bids", bids(1, 2, 3, price=price))
                if price == 4:
                    cluster.move(range(8), to=seed % 3, wait=False)
            cluster.finish()
            found: dict[int, list[tuple[object, object]]] = {}
            for row in cluster.output("out"):
                found.setdefault(int(str(row["auction"])), []).append((row["number"], row["price"]))
            return found

    first, *others = (history(seed) for seed in range(6))
    assert first == {key: [(price + 1, price) for price in range(8)] for key in (1, 2, 3)}
    assert others == [first] * 5


def test_so_much_at_one_time_that_its_ticks_run_out_is_read_all_the_same(monkeypatch) -> None:
    short = replace(lives._SETTINGS, lookahead_us=5, plan_lookahead_us=5)
    monkeypatch.setattr(lives, "_SETTINGS", short)
    with Cluster(counting()) as cluster:
        for _ in range(20):
            cluster.send("bids", bids(1))
        assert cluster.latest("out")[1]["bids"] == 20
        assert 0 < cluster.now_ms < 20
