"""Captures: what is written is read back, in order, and replayed as it was."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.dataflow.capturing import (
    CapturedFrontier,
    CapturedRows,
    CaptureOperator,
    ReplayOperator,
    captures,
    replay,
)
from service.dataflow.graph import Dataflow
from service.dataflow.progress.summary import identity
from service.dataflow.transport.memory import MemoryNetwork
from service.dataflow.worker import Worker
from service.errors import UsageError
from tests.fakes.ports import Ports

SCHEMA = pa.schema([("a", pa.int64())])


def rows(*values: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(values, pa.int64())], schema=SCHEMA)


def capturing(folder: Path, name: str = "seen", start: int = 0, peer: int = 0) -> Ports:
    logic = CaptureOperator(name, str(folder), SCHEMA)
    return Ports(logic, inputs=1, outputs=1, paths=[(0, 0)], start=(start,), peers=2, peer=peer)


def test_a_file_has_rows_times_and_the_frontier_and_passes_rows_on(tmp_path: Path) -> None:
    ports = capturing(tmp_path / "new" / "folder")
    ports.put(0, 20, rows(1, 2))
    (sent,) = ports.step()
    assert (sent.time, sent.payload) == ((20,), rows(1, 2))
    ports.reach({0: 21})
    ports.put(0, 30, rows(3))
    ports.step()
    ports.reach({0: None})
    ports.step()
    ports.step()
    (file,) = captures(tmp_path / "new" / "folder", "seen")
    assert list(replay(file)) == [
        CapturedRows((20,), rows(1, 2)),
        CapturedFrontier(((0,),)),
        CapturedRows((30,), rows(3)),
        CapturedFrontier(((21,),)),
        CapturedFrontier(()),
    ]
    # Any Arrow reader has the rows.
    with pa.ipc.open_stream(file) as reader:
        assert reader.read_all().column("a").to_pylist() == [1, 2, 3]


def test_a_batch_that_is_said_to_hold_no_nulls_is_written_like_any_other(tmp_path: Path) -> None:
    ports = capturing(tmp_path)
    strict = pa.schema([pa.field("a", pa.int64(), nullable=False)])
    ports.put(0, 20, pa.RecordBatch.from_arrays(rows(1).columns, schema=strict))
    ports.step()
    found, _ = replay(captures(tmp_path, "seen")[0])
    assert found == CapturedRows((20,), rows(1))


def test_a_time_stands_in_the_file_before_a_frontier_that_has_passed_it(tmp_path: Path) -> None:
    ports = capturing(tmp_path)
    ports.put(0, 20, rows(1))
    ports.full.add(0)
    ports.step()
    # The frontier stays at 20 while the batch is queued; the worker sees to that.
    ports.reach({0: 20})
    ports.step()
    ports.full.clear()
    ports.reach({0: 40})
    ports.step()
    times = [
        each.time if isinstance(each, CapturedRows) else each.elements[0]
        for each in replay(captures(tmp_path, "seen")[0])
    ]
    assert times == [(0,), (20,), (20,), (40,)]


def test_a_file_that_was_not_closed_is_read_up_to_its_last_whole_batch(tmp_path: Path) -> None:
    ports = capturing(tmp_path)
    for value in range(3):
        ports.put(0, 20 + value, rows(value))
    ports.step()
    (file,) = captures(tmp_path, "seen")
    whole = file.read_bytes()
    assert len([each for each in replay(file) if isinstance(each, CapturedRows)]) == 3
    file.write_bytes(whole[:-300])
    found = replay(file)
    assert [next(found), next(found)] == [
        CapturedRows((20,), rows(0)),
        CapturedRows((21,), rows(1)),
    ]
    with pytest.raises(UsageError, match="is no whole capture"):
        list(found)


def test_files_are_found_by_name_in_the_order_of_runs_and_processes(tmp_path: Path) -> None:
    for name, start, peer in (("a", 100, 1), ("a", 9, 0), ("a", 100, 0), ("a.b", 5, 0)):
        capturing(tmp_path, name, start, peer)
    names = [path.name for path in captures(tmp_path, "a")]
    assert names == ["a.9.0.arrows", "a.100.0.arrows", "a.100.1.arrows"]
    assert [path.name for path in captures(tmp_path, "a.b")] == ["a.b.5.0.arrows"]
    with pytest.raises(UsageError, match="holds no capture 'b'"):
        captures(tmp_path, "b")


def test_what_is_no_capture_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("not arrow")
    with pytest.raises(UsageError, match="is no whole capture"):
        list(replay(text))
    with pytest.raises(UsageError, match="is no whole capture"):
        list(replay(tmp_path / "missing"))
    stream = tmp_path / "stream"
    with pa.ipc.new_stream(stream, SCHEMA) as writer:
        writer.write_batch(rows(1))
    with pytest.raises(UsageError, match="is an Arrow stream, but no capture"):
        list(replay(stream))


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError, match="capture 'seen' cannot write"):
        capturing(tmp_path / "file")


def replaying(captured, start: int = 0) -> Ports:
    logic = ReplayOperator("again", captured)
    return Ports(logic, inputs=0, outputs=1, paths=[], holds=[0], start=(start,))


def drained(ports: Ports) -> list[tuple[tuple[int, ...], pa.RecordBatch]]:
    found = []
    before = -1
    while before != ports.resumptions:
        before = ports.resumptions
        found += [(each.time, each.payload) for each in ports.step()]
    return found


@given(
    st.lists(
        st.lists(
            st.tuples(st.integers(0, 50), st.lists(st.integers(), max_size=3).map(tuple)),
            max_size=8,
        ),
        min_size=1,
        max_size=3,
    )
)
def test_replay_gives_the_same_rows_at_the_same_epochs(runs) -> None:
    """Files as captures write them: rows at or after the frontier, which advances."""
    files = []
    expected: Counter = Counter()
    for run in runs:
        file: list = []
        for epoch, values in sorted(run):
            file.append(CapturedFrontier(((epoch,),)))
            small = [value % 1000 for value in values]
            file.append(CapturedRows((epoch,), rows(*small)))
            expected.update((epoch, value) for value in small)
        files.append([*file, CapturedFrontier(())])
    ports = replaying(files)
    found = Counter(
        (time[0], value)
        for time, batch in drained(ports)
        for value in batch.column("a").to_pylist()
    )
    assert found == expected
    assert ports.rights(0) == []


def test_the_frontier_of_a_replay_is_that_of_the_capture_furthest_behind() -> None:
    ahead = [CapturedFrontier(((50,),)), CapturedRows((60,), rows(1)), CapturedFrontier(())]
    behind = [CapturedRows((5,), rows(2)), CapturedFrontier(((20,),)), CapturedFrontier(())]
    ports = replaying([ahead, behind])
    assert [sent.time for sent in ports.step()] == [(5,)]
    assert ports.rights(0) == [(20,), (50,)]
    assert [sent.time for sent in ports.step()] == [(60,)]
    assert ports.rights(0) == []


def test_a_replay_waits_for_room() -> None:
    ports = replaying([[CapturedRows((5,), rows(2)), CapturedFrontier(())]])
    ports.full.add(0)
    assert ports.step() == []
    assert ports.rights(0) == [(0,)]
    ports.full.clear()
    assert len(ports.step()) == 1


@pytest.mark.parametrize(
    ("captured", "text"),
    [
        (CapturedRows((5,), rows(1)), r"'again' is at \(10,\), but the capture says \(5,\)"),
        (CapturedRows((20, 1), rows(1)), r"the capture says \(20, 1\)"),
        (CapturedFrontier(((20, 1),)), r"the capture says \(20, 1\)"),
    ],
)
def test_a_time_that_does_not_fit_is_refused(captured, text: str) -> None:
    ports = replaying([[captured]], start=10)
    with pytest.raises(UsageError, match=text):
        ports.step()


def test_a_captured_stream_replayed_in_a_dataflow_and_captured_again_is_the_same(
    tmp_path: Path,
) -> None:
    """Two processes' files go through one worker into one file: the same (epoch, rows)."""
    for peer in range(2):
        ports = capturing(tmp_path, "first", peer=peer)
        for epoch in range(20, 29, 1 + peer):
            ports.put(0, epoch, rows(epoch, peer))
            ports.step()
            ports.reach({0: epoch})
        ports.reach({0: None})
        ports.step()
    files = captures(tmp_path, "first")
    graph = Dataflow()
    again = ReplayOperator("again", map(replay, files))
    source = graph.add("again", again, inputs=0, outputs=1, connectivity={}, holds=frozenset({0}))
    second = CaptureOperator("second", str(tmp_path), SCHEMA)
    target = graph.add(
        "second", second, inputs=1, outputs=1, connectivity={(0, 0): identity(1)}, notified=True
    )
    graph.connect((source, 0), (target, 0))
    worker = Worker(graph, 0, 1, (0,), MemoryNetwork(1).transport(0))
    for _ in range(1_000):
        worker.step()
    assert worker.complete
    (copy,) = captures(tmp_path, "second")

    def content(*paths: Path) -> Counter:
        return Counter(
            (each.time, value)
            for path in paths
            for each in replay(path)
            if isinstance(each, CapturedRows)
            for value in each.rows.column("a").to_pylist()
        )

    assert content(copy) == content(*files)
    assert sum(content(copy).values()) == 28
    assert list(replay(copy))[-1] == CapturedFrontier(())
