"""Open windows of a key, read from checkpoints and snapshots of real flows, without the flow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest

import megaphone as mp
from megaphone.testing import Cluster
from service.errors import StateCorrupt, StateError, UsageError
from service.state_files import SlotCheckpoint, find_checkpoints, value_in
from service.state_snapshots import export_bins, replace_bins, value_in_snapshot
from service.statestore.open_windows import OpenWindow, entries_of_key, of_object, of_panes, of_rows
from service.statestore.snapshot import Snapshot
from service.statestore.stored_windows import StoredWindows
from service.statestore.timed import NEVER
from tests.fakes.windows import windows_of

BINS = 4
KEYS = range(6)
Row = dict[str, Any]
Windows = dict[tuple[int, int], Any]


def rows_of() -> list[Row]:
    """Ten rows a key, out of order, with floats whose sums depend on their order."""
    random = np.random.default_rng(1)
    times = random.permutation(np.repeat(np.arange(3, 33, 3), len(KEYS))[:60])
    return [
        {
            "key": n % len(KEYS),
            "name": f"key {n % len(KEYS)} of a text",
            "raw": f"key {n % len(KEYS)}".encode(),
            "time": int(time),
            "v": n,
            "f": float(random.normal()),
        }
        for n, time in enumerate(times.tolist())
    ]


def flow_of(
    key: str, window: object, build: Callable[[Any], mp.Stream], lateness: str = "0s"
) -> mp.Flow:
    flow = mp.Flow("windows")
    fields = ["key", "name", "raw", "time", "v", "f"]
    source = mp.KafkaSource(["rows"], record="row", fields=fields)
    rows = flow.source("rows", source, watermarks=mp.Watermarks("time", out_of_orderness="12ms"))
    cut = (rows if key == "all" else rows.key_by(key)).window(window, allowed_lateness=lateness)
    return build(cut).sink("out", mp.KafkaSink("out", key="window_end", schema=1))


class Written:
    """A checkpoint of a flow that was given `rows_of`, and a snapshot of it."""

    def __init__(self, flow: mp.Flow, folder: Path, times: list[list[Row]] | None = None) -> None:
        with Cluster(flow, workers=2, bins=BINS) as cluster, pytest.MonkeyPatch.context() as patch:
            patch.setattr(cluster._broker, "state_dir", lambda: folder / "app")
            for rows in times or [rows_of()]:
                cluster.send("rows", rows)
                cluster.settle()
            cluster.checkpoint()
            self.given = cluster.output("out")
        self.parts = find_checkpoints(folder / "app")
        export_bins(self.parts, folder / "s.snapshot", bins=range(BINS))
        self.snapshot = Snapshot(folder / "s.snapshot")

    def windows(self, key: object) -> tuple[OpenWindow, ...]:
        """Of a key, the same wherever they are read."""
        found = value_in(self.parts, "state", str(key))
        again = value_in_snapshot(self.snapshot, "state", str(key))
        if found is None or again is None:
            assert found is again is None
            return ()
        assert again == msgspec.structs.replace(found, slot=None)
        assert isinstance(found.windows, tuple)
        assert found.value is msgspec.UNSET
        assert list(found.windows) == sorted(found.windows, key=lambda each: (each.end, each.start))
        return found.windows

    def open(self, key: object) -> Windows:
        """Values of a key's windows, none of which was given."""
        found = self.windows(key)
        assert not any(window.given for window in found)
        return {(window.start, window.end): window.value for window in found}


def by_window(key: int, size: int, every: int) -> dict[tuple[int, int], list[Row]]:
    found: dict[tuple[int, int], list[Row]] = {}
    for row in rows_of():
        if row["key"] == key:
            for bounds in windows_of(row["time"], size, every):
                found.setdefault(bounds, []).append(row)
    return found


def aggregated(windows: Any) -> mp.Stream:
    return windows.aggregate(
        "state",
        n=mp.count(),
        total=mp.total("v"),
        low=mp.lowest("f"),
        top=mp.highest("v"),
        users=mp.distinct_count("time"),
    )


@pytest.mark.parametrize("key", ["key", "name"])
@pytest.mark.parametrize(("size", "every"), [(10, 10), (10, 4), (6, 1)])
def test_a_key_has_the_windows_that_were_not_given(
    key: str, size: int, every: int, tmp_path: Path
) -> None:
    window = mp.sliding(f"{size}ms", every=f"{every}ms")
    written = Written(flow_of(key, window, aggregated), tmp_path)
    assert written.given
    for number in KEYS:
        shown = number if key == "key" else f"key {number} of a text"
        told = {(r["window_start"], r["window_end"]) for r in written.given if r[key] == shown}
        expected = {
            bounds: {
                "n": len(rows),
                "total": sum(row["v"] for row in rows),
                "low": min(row["f"] for row in rows),
                "top": max(row["v"] for row in rows),
                "users": len({row["time"] for row in rows}),
            }
            for bounds, rows in by_window(number, size, every).items()
            if bounds not in told
        }
        assert expected
        assert written.open(shown) == expected
    assert written.windows(77) == ()


def test_floats_are_added_as_the_flow_adds_them(tmp_path: Path) -> None:
    """What is open is given by the same flow later: the same bits."""
    flow = flow_of(
        "key", mp.sliding("10ms", every="4ms"), lambda w: w.aggregate("state", total=mp.total("f"))
    )
    written = Written(flow, tmp_path)
    end = [{**rows_of()[0], "key": 99, "time": 1000}]
    later = Written(flow, tmp_path / "later", [rows_of(), end])
    sums = {(r["key"], r["window_start"]): r["total"] for r in later.given}
    for number in KEYS:
        for (start, _), value in written.open(number).items():
            assert value == {"total": sums[number, start]}


def test_keys_of_bytes_are_named_by_their_text(tmp_path: Path) -> None:
    written = Written(
        flow_of("raw", mp.tumbling("10ms"), lambda w: w.aggregate("state", n=mp.count())), tmp_path
    )
    found = value_in(written.parts, "state", "key 3")
    assert found is not None
    assert found.key == {"type": "bytes", "value": "a2V5IDM="}
    assert written.open("key 3") == {
        bounds: {"n": len(rows)}
        for bounds, rows in by_window(3, 10, 10).items()
        if bounds not in {(r["window_start"], r["window_end"]) for r in written.given}
    }


def test_sessions_best_rows_and_folds_are_windows_too(tmp_path: Path) -> None:
    sessions = Written(
        flow_of(
            "name",
            mp.session("20ms"),
            lambda w: w.aggregate("state", n=mp.count(), low=mp.lowest("f")),
        ),
        tmp_path / "sessions",
    )
    mine = [row for row in rows_of() if row["key"] == 2]
    times = [row["time"] for row in mine]
    expected: Windows = {
        (min(times), max(times) + 20): {"n": len(mine), "low": min(row["f"] for row in mine)}
    }
    assert max(np.diff(sorted(times))) < 20
    assert sessions.open("key 2 of a text") == expected

    best = Written(
        flow_of("key", mp.tumbling("30ms"), lambda w: w.top("state", by="v", n=2)),
        tmp_path / "best",
    )
    told = {(r["window_start"], r["window_end"]) for r in best.given if r["key"] == 2}
    expected = {
        bounds: [
            {"name": row["name"], "raw": {"type": "bytes", "value": "a2V5IDI="}}
            | {name: row[name] for name in ("time", "v", "f")}
            for row in sorted(rows, key=lambda row: -row["v"])[:2]
        ]
        for bounds, rows in by_window(2, 30, 30).items()
        if bounds not in told
    }
    assert best.open(2) == expected

    def summed(windows: Any) -> mp.Stream:
        return windows.fold(
            "state", lambda n, v: n + v, initial=int, value="v", schema={"n": pa.int64()}
        )

    folded = Written(flow_of("name", mp.sliding("10ms", every="4ms"), summed), tmp_path / "folded")
    told = {
        (r["window_start"], r["window_end"]) for r in folded.given if r["name"] == "key 2 of a text"
    }
    expected = {
        bounds: sum(row["v"] for row in rows)
        for bounds, rows in by_window(2, 10, 4).items()
        if bounds not in told
    }
    assert folded.open("key 2 of a text") == expected


def listed(seen: list[int], value: int) -> list[int]:
    return [*seen, value]


def both(earlier: list[int], later: list[int]) -> list[int]:
    return [*earlier, *later]


@pytest.mark.parametrize("key", ["key", "name", "all"])
def test_sessions_show_different_values_best_rows_and_folds(key: str, tmp_path: Path) -> None:
    """Two open sessions of a key, each with what is kept of its own rows; one was given."""

    def row(time: int, v: int) -> Row:
        return {**rows_of()[0], "time": time, "v": v}

    def shown(each: Row) -> Row:
        own = {"name": each["name"], "raw": {"type": "bytes", "value": "a2V5IDA="}}
        rest = {name: each[name] for name in ("key", "time", "v", "f")} | own
        return {name: value for name, value in rest.items() if name != key}

    first, second = [row(0, 5), row(12, 7), row(13, 1), row(6, 7)], [row(40, 2), row(44, 2)]
    # The watermark is 44 less 12: the first session was given and waits for late rows.
    spans = {(0, 23): True, (40, 54): False}
    expected: dict[str, list[object]] = {
        "different": [{"n": 4, "of": 3}, {"n": 2, "of": 1}],
        "best": [[shown(first[1]), shown(first[3])], [shown(each) for each in second]],
        "folded": [[5, 7, 1, 7], [2, 2]],
    }
    builds: dict[str, Callable[[Any], mp.Stream]] = {
        "different": lambda w: w.aggregate("state", n=mp.count(), of=mp.distinct_count("v")),
        "best": lambda w: w.top("state", by="v", n=2, ties=False),
        "folded": lambda w: w.fold(
            "state",
            listed,
            merge=both,
            initial=list,
            value="v",
            schema={"seen": pa.list_(pa.int64())},
        ),
    }
    wanted = {"key": 0, "name": first[0]["name"], "all": 0}[key]
    for name, build in builds.items():
        flow = flow_of(key, mp.session("10ms"), build, lateness="30ms")
        # The first session is two until its last row has come.
        times = [*([each] for each in first), second]
        found = Written(flow, tmp_path / name, times).windows(wanted)
        assert {(each.start, each.end): each.given for each in found} == spans
        assert [each.value for each in found] == expected[name]


def test_windows_of_all_rows_are_found_under_their_start(tmp_path: Path) -> None:
    written = Written(
        flow_of("all", mp.tumbling("10ms"), lambda w: w.aggregate("state", n=mp.count())), tmp_path
    )
    told = {r["window_start"] for r in written.given}
    rows = rows_of()
    starts = {row["time"] // 10 * 10 for row in rows} - told
    assert starts
    for start in starts:
        count = sum(start <= row["time"] < start + 10 for row in rows)
        assert written.open(start) == {(start, start + 10): {"n": count}}

    def counted(windows: Any) -> mp.Stream:
        return windows.fold(
            "state", lambda n, _: n + 1, initial=int, value="v", schema={"n": pa.int64()}
        )

    folded = Written(flow_of("all", mp.tumbling("10ms"), counted), tmp_path / "folded")
    for start in starts:
        count = sum(start <= row["time"] < start + 10 for row in rows)
        assert folded.open(start) == {(start, start + 10): count}


@pytest.mark.parametrize("kind", ["aggregate", "top", "fold"])
def test_windows_that_wait_for_late_rows_alone_are_marked(kind: str, tmp_path: Path) -> None:
    def build(windows: Any) -> mp.Stream:
        if kind == "aggregate":
            return windows.aggregate("state", n=mp.count())
        if kind == "top":
            return windows.top("state", by="v")
        return windows.fold(
            "state", lambda n, _: n + 1, initial=int, value="v", schema={"n": pa.int64()}
        )

    flow = flow_of("name", mp.tumbling("10ms"), build, lateness="20ms")
    first = rows_of()[0]
    times = [[{**first, "time": time}] for time in (5, 15, 25, 35, 47)]
    written = Written(flow, tmp_path, times)
    # The watermark is 47 less 12: the first window is forgotten, two others were given.
    assert {r["window_end"] for r in written.given} == {10, 20, 30}
    found = {window.end: window.given for window in written.windows(first["name"])}
    assert found == {20: True, 30: True, 40: False, 50: False}


def test_an_import_keeps_windows_readable(tmp_path: Path) -> None:
    window = mp.sliding("10ms", every="4ms")
    written = Written(flow_of("name", window, aggregated), tmp_path)
    part = written.parts[0]
    owned = {
        each.bin
        for vertex in Snapshot(tmp_path / "s.snapshot").contents.vertices
        for each in vertex.bins
    }
    files = replace_bins(part, written.snapshot, owned)
    again = [SlotCheckpoint(part.slot, part.folder, files)]
    for number in KEYS:
        name = f"key {number} of a text"
        found = value_in(again, "state", name)
        assert found is not None
        assert found.windows == written.windows(name)


def test_timers_of_a_process_are_shown_beside_its_state(tmp_path: Path) -> None:
    def on_row(state: Any, v: int, timers: mp.KeyTimers) -> Any:
        timers.set(timers.now + 1000)
        return (state or 0) + v, None

    def on_timer(state: Any, timers: mp.KeyTimers) -> Any:
        return None, [(timers.now, state)]

    flow = mp.Flow("windows")
    source = mp.KafkaSource(["rows"], record="row", fields=["key", "time", "v"])
    rows = flow.source("rows", source, watermarks=mp.Watermarks("time"))
    out = {"window_end": pa.int64(), "v": pa.int64()}
    done = rows.key_by("key").process("state", on_row, on_timer, schema=out, value="v")
    done.sink("out", mp.KafkaSink("out", key="window_end", schema=1))
    written = Written(flow, tmp_path)
    found = value_in(written.parts, "state", "2")
    assert found is not None
    mine = [row for row in rows_of() if row["key"] == 2]
    last = max(row["time"] for row in mine)
    assert found.value["timers"][-1] == last + 1000
    assert isinstance(found.value["state"], int)


def test_keys_that_cannot_be_are_refused(tmp_path: Path) -> None:
    written = Written(flow_of("key", mp.tumbling("10ms"), aggregated), tmp_path / "numbers")
    for wrong in ("two", "", "1_0", "1.0", str(1 << 63)):
        with pytest.raises(UsageError, match="is no int64, which the keys of 'state' are"):
            value_in(written.parts, "state", wrong)
    old = [
        msgspec.structs.replace(
            part.files,
            vertices=tuple(
                msgspec.structs.replace(each, windows=None) for each in part.files.vertices
            ),
        )
        for part in written.parts
    ]
    parts = [
        SlotCheckpoint(part.slot, part.folder, files)
        for part, files in zip(written.parts, old, strict=True)
    ]
    with pytest.raises(UsageError, match="a version that did not say which windows there are"):
        value_in(parts, "state", "2")
    assert value_in(parts, "state", "77") is None
    texts = Written(flow_of("name", mp.tumbling("10ms"), aggregated), tmp_path / "texts")
    with pytest.raises(UsageError, match="no UTF-8"):
        value_in(texts.parts, "state", "key \udcff")


def test_entries_that_are_no_windows_are_refused() -> None:
    columns = (("window.key", "int64"), ("window.pane", "int64"), ("n", "int64"))
    windows = StoredWindows("panes", 10, 10, folds=("sum",))
    with pytest.raises(StateCorrupt, match="differ in length"):
        entries_of_key(np.array([1, 2]), [b"8" * 32, b"8" * 24], 0, 0, 7)
    with pytest.raises(StateCorrupt, match="have 2 columns, not 3"):
        of_panes(columns, windows, np.ones((2, 1), dtype=np.int64), NEVER)
    full = np.array([[7, 7], [0, 0], [1 << 62, 1 << 62]])
    with pytest.raises(StateError, match="the sum 'n' of a window does not fit"):
        of_panes(columns, windows, full, NEVER)
    session = {"window.start": 0, "window.end": 10}
    with pytest.raises(StateCorrupt, match="a row of time 10 is in none of its key's sessions"):
        of_rows(StoredWindows("rows"), [[session], [{"window.time": 10, "window.rank": 1}]], [])
    with pytest.raises(StateCorrupt, match="no dict by start and end"):
        of_object({"type": "dict", "value": [[1, 2]]}, [])
