"""Whatever a test does to a job, its results are those of the rows it read.

Each output row must be the aggregate of exactly the first n rows of its key, n being its count; the
last row of a key has all; results go back only behind a crash, and then to the last plain stop.

Cannot catch: faults of sockets, Kafka's clients and clocks, which the kit does not have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import megaphone as mp
from megaphone.testing import Cluster

BINS, WORKERS = 8, 3
KEYS = st.integers(0, 5)


def flow() -> mp.Flow:
    """Count and sum per key."""
    job = mp.Flow("job")
    rows = job.source("in", mp.KafkaSource(["in"], record="r", fields=["k", "v"]))
    stats = rows.key_by("k").aggregate("stats", n=mp.count(), total=mp.total("v"))
    return stats.sink("out", mp.KafkaSink("out", key="k", schema=1))


@dataclass
class Model:
    """What the rows sent so far must lead to."""

    values: dict[int, list[int]] = field(default_factory=dict)

    def check(self, rows: list[dict[str, object]], crashes: int) -> None:
        """Hold outputs against the rows sent."""
        last: dict[int, int] = {}
        backward: dict[int, int] = {}
        for row in rows:
            key, count = int(str(row["k"])), int(str(row["n"]))
            assert row["total"] == sum(self.values[key][:count]), row
            if count <= last.get(key, 0):
                backward[key] = backward.get(key, 0) + 1
            last[key] = count
        assert last == {key: len(values) for key, values in self.values.items()}
        assert all(times <= crashes for times in backward.values()), "only a crash repeats"


def ask(request: Callable[[], object]) -> None:
    """Ask for a move, which is rejected while another one is under way, and for no other reason."""
    try:
        request()
    except mp.UsageError as error:
        if "is under way" not in str(error):
            raise


SEND = st.tuples(st.just("send"), st.lists(st.tuples(KEYS, st.integers(-9, 9)), max_size=8))
MOVE = st.tuples(
    st.just("move"),
    st.tuples(st.sets(st.integers(0, BINS - 1), min_size=1), st.integers(0, WORKERS - 1)),
)
OTHER = st.sampled_from([("stop", None), ("crash", None), ("advance", 3), ("rescale", 2)])


@settings(max_examples=30)
@given(
    st.lists(st.one_of(SEND, SEND, MOVE, OTHER), max_size=12),
    st.one_of(st.none(), st.integers(0, 1 << 30)),
)
def test_results_are_those_of_the_rows_read_whatever_happens(steps, seed) -> None:
    model, crashes = Model(), 0
    options = {"workers": WORKERS, "bins": BINS, "schedule": seed}
    with Cluster(flow(), schemas={"in": {"k": "int64", "v": "int64"}}, **options) as cluster:
        for name, what in steps:
            match name:
                case "send":
                    for key, value in what:
                        model.values.setdefault(key, []).append(value)
                    cluster.send("in", [{"k": key, "v": value} for key, value in what])
                case "move":
                    ask(lambda what=what: cluster.move(*what, strategy="fluid", wait=False))
                case "rescale":
                    ask(lambda what=what: cluster.rescale(what))
                case "advance":
                    cluster.advance(what)
                case "stop":
                    cluster.stop()
                    cluster.restart()
                case "crash":
                    cluster.crash()
                    cluster.restart()
                    crashes += 1
        cluster.finish()
        model.check(cluster.output("out"), crashes)


@pytest.mark.parametrize(
    "wrong",
    [
        [{"k": 1, "n": 1, "total": 5}],
        [{"k": 1, "n": 1, "total": 5}, {"k": 1, "n": 2, "total": 9}],
        [{"k": 1, "n": 2, "total": 8}, {"k": 1, "n": 2, "total": 8}],
    ],
    ids=["lost", "wrong", "doubled"],
)
def test_the_model_notices_what_is_lost_wrong_or_doubled(wrong) -> None:
    model = Model({1: [5, 3]})
    model.check([{"k": 1, "n": 1, "total": 5}, {"k": 1, "n": 2, "total": 8}], crashes=0)
    with pytest.raises(AssertionError):
        model.check(wrong, crashes=0)
