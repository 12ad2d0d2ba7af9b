"""Keyed operators in the users' test kit: moved, stopped, crashed, as a user would try them.

Cannot catch: what takes time; the kit has no clock of its own.
"""

from __future__ import annotations

import pyarrow as pa
import pytest

import megaphone as mp
from megaphone.testing import Cluster

PAGES = mp.KafkaSource(["pages"], record="page", fields=["user", "page", "at"])
NAMES = mp.KafkaSource(["names"], record="name", fields=["id", "team"])


class Path:
    """What a user has seen: an object of a class of this module."""

    def __init__(self) -> None:
        self.pages: list[int] = []


def step(path: Path, row: tuple[int, int]) -> tuple[Path | None, tuple[int, int] | None]:
    """Tell how long the path is and where it began; page 0 ends it."""
    _, page = row
    if page == 0:
        return None, None
    path.pages.append(page)
    return path, (len(path.pages), path.pages[0])


def paths() -> mp.Flow:
    flow = mp.Flow("paths")
    found = (
        flow.source("pages", PAGES)
        .key_by("user")
        .stateful_map(
            "paths",
            step,
            value=["at", "page"],
            initial=Path,
            schema={"length": pa.int64(), "first": pa.int64()},
            order=mp.Order.ORDERED,
        )
    )
    return found.sink("out", mp.KafkaSink("paths", key="user", schema=1))


def page(user: int, number: int, at: int) -> dict[str, int]:
    return {"user": user, "page": number, "at": at}


def lengths(cluster: Cluster) -> list[tuple[int, int]]:
    return [(row["length"], row["first"]) for row in cluster.output("out")]


def test_an_object_moves_stops_crashes_and_is_forgotten() -> None:
    with Cluster(paths(), workers=2, bins=16) as cluster:
        cluster.send("pages", [page(7, 30, at=2), page(7, 20, at=1)])
        cluster.advance(ms=100)
        assert lengths(cluster) == [(1, 20), (2, 20)]  # of one time, by `at`
        here = cluster.owners[cluster.bin_of(7)]
        cluster.move([cluster.bin_of(7)], to=1 - here)
        cluster.send("pages", [page(7, 40, at=3)])
        cluster.advance(ms=100)
        assert lengths(cluster)[2:] == [(3, 20)]
        cluster.stop()
        cluster.restart()
        cluster.send("pages", [page(7, 50, at=4)])
        cluster.advance(ms=100)
        assert lengths(cluster)[3:] == [(4, 20)]
        cluster.crash()
        cluster.restart()
        cluster.advance(ms=100)
        assert lengths(cluster)[4:] == [(4, 20)]  # read again from the stop on
        cluster.send("pages", [page(7, 0, at=5), page(7, 60, at=6)])
        cluster.advance(ms=100)
        assert lengths(cluster)[5:] == [(1, 60)]


def test_a_join_meets_across_a_move_and_a_restart_and_distinct_lets_one_pass() -> None:
    flow = mp.Flow("teams")
    first = flow.source("names", NAMES).key_by("id").distinct("first")
    joined = flow.source("pages", PAGES).key_by("user").join("joined", first.key_by("id"))
    joined.sink("out", mp.KafkaSink("teams", key="user", schema=1))
    schemas = {"names": {"id": "int64", "team": "int64"}}
    with Cluster(flow, workers=2, bins=16, schemas=schemas) as cluster:
        cluster.send("pages", [page(7, 1, at=1), page(8, 1, at=1)])
        cluster.rescale(1)
        cluster.send("names", [{"id": 7, "team": 3}, {"id": 7, "team": 4}])
        cluster.rescale(2)
        cluster.stop()
        cluster.restart()
        cluster.send("names", [{"id": 7, "team": 5}, {"id": 8, "team": 6}])
        cluster.send("pages", [page(7, 2, at=2)])
        found = [(row["user"], row["page"], row["team"]) for row in cluster.output("out")]
    assert sorted(found) == [(7, 1, 3), (7, 2, 3), (8, 1, 6)]


def test_keys_that_are_text_move_stop_and_restart() -> None:
    flow = mp.Flow("named")
    first = flow.source("names", NAMES).key_by("id").distinct("first")
    joined = flow.source("pages", PAGES).key_by("user").join("joined", first.key_by("id"))
    stats = joined.key_by("user").aggregate("stats", n=mp.count(), last=mp.highest("page"))
    longest = stats.key_by("user").stateful_map(
        "runs",
        lambda state, row: ((state or 0) + 1, ((state or 0) + 1, row["user"], row["last"])),
        schema={"run": pa.int64(), "name": pa.string(), "last": pa.int64()},
    )
    longest.sink("out", mp.KafkaSink("named", key="run", schema=1))
    schemas = {"names": {"id": "string", "team": "int64"}}
    with Cluster(flow, workers=2, bins=16, schemas=schemas) as cluster:
        cluster.send("pages", [{"user": "Ada", "page": 1, "at": 1}])
        cluster.send("pages", [{"user": "Grace Hopper", "page": 2, "at": 1}])
        cluster.rescale(1)
        cluster.send("names", [{"id": "Ada", "team": 3}, {"id": "Ada", "team": 4}])
        cluster.rescale(2)
        cluster.stop()
        cluster.restart()
        cluster.send("names", [{"id": "Grace Hopper", "team": 6}, {"id": "Ada", "team": 5}])
        cluster.advance(ms=100)
        cluster.rescale(1)
        cluster.send("pages", [{"user": "Ada", "page": 7, "at": 2}])
        found = [tuple(row[name] for name in OUT) for row in cluster.output("out")]
    assert sorted(found) == [
        ("Ada", 1, "Ada", 1),
        ("Ada", 2, "Ada", 7),
        ("Grace Hopper", 1, "Grace Hopper", 2),
    ]


OUT = ("user", "run", "name", "last")


def test_a_function_that_raises_ends_the_job_with_its_key() -> None:
    flow = mp.Flow("fails")
    failing = flow.source("pages", PAGES).key_by("user")
    mapped = failing.stateful_map(
        "ratio", lambda state, at: (1, 10 // at), value="at", schema={"ratio": pa.int64()}
    )
    mapped.sink("out", mp.KafkaSink("ratios", key="user", schema=1))
    with Cluster(flow) as cluster:
        with pytest.raises(mp.MegaphoneError, match="'ratio' raised ZeroDivisionError for key 9"):
            cluster.send("pages", [page(7, 1, at=1), page(9, 1, at=0)])
        assert cluster.output("out") in ([], [{"user": 7, "ratio": 10}])
