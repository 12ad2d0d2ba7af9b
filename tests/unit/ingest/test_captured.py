"""A capture read back as a source: the rows it has, file by file in order, or why it has none.

Cannot catch: captures of real processes; every process writes its own file all the same.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

import megaphone as mp


def captured(folder: Path, *, workers: int = 1) -> list[dict[str, object]]:
    """Capture a keyed stream of several processes; returns the rows that went by."""
    flow, out = mp.Flow("first"), mp.ListSink()
    rows = [{"k": key % 7, "n": key} for key in range(500)]
    counts = flow.source("in", mp.ListSource(rows)).key_by("k").aggregate("counts", n=mp.count())
    counts.capture("kept", str(folder)).sink("out", out)
    mp.run_local(flow, workers=workers)
    return out.rows


def read(folder: Path) -> list[dict[str, object]]:
    flow, out = mp.Flow("second"), mp.ListSink()
    flow.source("again", mp.CaptureSource(folder, "kept")).sink("out", out)
    mp.run_local(flow)
    return out.rows


def test_every_captured_row_comes_again_in_its_files_order(tmp_path: Path) -> None:
    rows = captured(tmp_path, workers=3)
    again = read(tmp_path)
    assert len(mp.captures(tmp_path, "kept")) > 1
    assert sorted(map(str, again)) == sorted(map(str, rows))
    for key in range(7):
        counts = [row["n"] for row in again if row["k"] == key]
        assert counts == sorted(counts), "CS1"


def test_what_is_no_capture_is_said_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(mp.UsageError, match="holds no capture 'kept'"):
        read(tmp_path)
    (tmp_path / "kept.1.0.arrows").write_bytes(b"no Arrow")
    with pytest.raises(mp.UsageError, match=r"kept\.1\.0\.arrows is no capture"):
        read(tmp_path)


def test_captures_of_two_versions_of_a_flow_are_not_mixed(tmp_path: Path) -> None:
    captured(tmp_path)
    other = pa.schema([("k", pa.int64())])
    with pa.ipc.new_stream(str(tmp_path / "kept.2.0.arrows"), other):
        pass
    with pytest.raises(mp.UsageError, match="has other columns than"):
        read(tmp_path)
