"""A flow of files and lists runs here to its end, or says why it did not.

Cannot catch: signals and the command; see tests/integration/test_local_without_kafka.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import megaphone as mp
from service.dataflow.connectors import LocalSink, LocalSource
from service.drawing import table_of
from service.preflight import require_kafka


def counting(rows, sink=None) -> tuple[mp.Flow, mp.ListSink]:
    """Rows per key."""
    flow, out = mp.Flow("counting"), sink or mp.ListSink()
    source = rows if isinstance(rows, LocalSource) else mp.ListSource(rows)
    counts = flow.source("in", source).key_by("k").aggregate("counts", n=mp.count())
    counts.sink("out", out)
    return flow, out


@pytest.mark.parametrize(("workers", "gateways", "bins"), [(1, 1, 1), (3, 2, 64), (2, 1, 1024)])
def test_every_row_is_applied_once_however_many_take_part(workers, gateways, bins) -> None:
    flow, out = counting([pa.table({"k": [key % 50 for key in range(20_000)]})])
    done = mp.run_local(flow, workers=workers, gateways=gateways, bins=bins)
    assert (done.rows_read, done.complete) == (20_000, True)
    assert done.rows_written == len(out.rows)
    last = {row["k"]: row["n"] for row in out.rows}
    assert last == dict.fromkeys(range(50), 400)


def test_a_source_without_rows_ends_at_once() -> None:
    flow, out = counting(mp.ListSource([], schema={"k": "int64"}))
    assert mp.run_local(flow).rows_read == 0
    assert out.rows == []


def test_two_sources_a_loop_and_two_sinks_run_too(tmp_path) -> None:
    def body(rows: mp.Stream) -> tuple[mp.Stream, mp.Stream]:
        even, odd = rows.branch("even", lambda b: pc.equal(pc.bit_wise_and(b["k"], 1), 0))
        halved = even.map_batches("halve", lambda b: b.set_column(0, "k", pc.divide(b["k"], 2)))
        return halved, odd

    flow, every = mp.Flow("odd"), mp.ListSink()
    one = flow.source("one", mp.ListSource([{"k": 12}, {"k": 7}]))
    two = flow.source("two", mp.ListSource([{"k": 20}]))
    odd = flow.concat("both", one, two).iterate("halving", body)
    odd.sink("every", every)
    odd.key_by("k").aggregate("n", n=mp.count()).sink("file", mp.FileSink(tmp_path / "n.csv"))
    mp.run_local(flow, gateways=2)
    assert sorted(row["k"] for row in every.rows) == [3, 5, 7]
    lines = (tmp_path / "n.csv").read_text().splitlines()
    assert lines[0] == '"k","n"'
    assert sorted(lines[1:]) == ["3,1", "5,1", "7,1"]


def test_a_second_run_begins_anew() -> None:
    flow, out = counting([{"k": 1}])
    for _ in range(2):
        mp.run_local(flow)
        assert out.rows == [{"k": 1, "n": 1}]


def test_a_stop_finishes_what_was_read_and_reads_no_more() -> None:
    rows = [pa.table({"k": [1] * 4_096})] * 50
    turns = iter(range(1_000_000))
    flow, out = counting(rows)
    done = mp.run_local(flow, stop_asked=lambda: next(turns) >= 6)
    assert not done.complete
    assert 0 < done.rows_read < 50 * 4_096
    # What was read and not stamped before the stop is no part of the results.
    assert out.rows[-1]["n"] in (done.rows_read, done.rows_read - 4_096)
    assert out.rows[-1]["n"] % 4_096 == 0


def test_a_function_that_raises_is_named_and_leaves_no_file(tmp_path) -> None:
    def fail(rows: pa.RecordBatch) -> pa.RecordBatch:
        if rows.num_rows:
            raise KeyError("x")
        return rows

    flow = mp.Flow("fails")
    rows = flow.source("in", mp.ListSource([{"k": 1}])).map_batches("fail", fail, columns=["k"])
    counts = rows.key_by("k").aggregate("counts", n=mp.count())
    counts.sink("out", mp.FileSink(tmp_path / "out.jsonl"))
    with pytest.raises(mp.UserFunctionError, match=r"'fail' raised KeyError.* batch at \(\d+,\)"):
        mp.run_local(flow)
    assert list(tmp_path.iterdir()) == []


def test_a_bad_row_of_a_file_is_named_and_leaves_no_file(tmp_path) -> None:
    (tmp_path / "in.jsonl").write_text('{"k":1}\n{"k":"x"}\n')
    source = mp.FileSource(tmp_path / "in.jsonl", {"k": "int64"})
    flow, _ = counting(source, mp.FileSink(tmp_path / "out.jsonl"))
    with pytest.raises(mp.DataError, match=r"in.jsonl:2: "):
        mp.run_local(flow)
    assert [each.name for each in tmp_path.iterdir()] == ["in.jsonl"]


class Numbers:
    """A connector of a user's own."""

    fields = ("k",)
    label = "numbers"

    def __init__(self, given: pa.RecordBatch | Exception) -> None:
        self._given = given

    def schema(self) -> pa.Schema:
        return pa.schema([("k", pa.int64())])

    def batches(self) -> Iterator[pa.RecordBatch]:
        yield pa.RecordBatch.from_pydict({"k": [1, 2]})
        if isinstance(self._given, Exception):
            raise self._given
        yield self._given


def test_a_connector_of_ones_own_will_do_and_its_faults_are_named() -> None:
    assert isinstance(Numbers(ValueError()), LocalSource)
    assert not isinstance(mp.KafkaSource(["t"], record="r", fields=["k"]), LocalSource)
    assert not isinstance(mp.KafkaSink("t", key="k", schema=1), LocalSink)
    flow, out = counting(Numbers(pa.RecordBatch.from_pydict({"k": [1]})))
    mp.run_local(flow)
    assert {row["k"]: row["n"] for row in out.rows} == {1: 2, 2: 1}
    flow, _ = counting(Numbers(OSError("gone")))
    with pytest.raises(mp.DataError, match="source 'in' raised OSError: gone"):
        mp.run_local(flow)
    flow, _ = counting(Numbers(pa.RecordBatch.from_pydict({"k": ["x"]})))
    with pytest.raises(mp.GraphError, match="gave columns {'k': 'string'}, but had said"):
        mp.run_local(flow)


def test_what_cannot_run_here_is_refused_by_name(tmp_path: Path) -> None:
    kafka = mp.Flow("kafka")
    rows = kafka.source("in", mp.KafkaSource(["t"], record="r", fields=["k"]))
    rows.sink("out", mp.KafkaSink("o", key="k", schema=1))
    with pytest.raises(mp.UsageError, match="'kafka' reads or writes Kafka"):
        mp.run_local(kafka)
    require_kafka(kafka)
    mixed = mp.Flow("mixed")
    mixed.source("in", mp.ListSource([{"k": 1}])).sink("out", mp.KafkaSink("o", key="k", schema=1))
    with pytest.raises(
        mp.NotYetSupported, match=r"both Kafka's ends \('out'\) and others \('in'\)"
    ):
        mixed.check()
    flow, _ = counting([{"k": 1}])
    with pytest.raises(
        mp.UsageError, match=r"no topics but 'in' \(list of 1 rows\), 'out' \(list\)"
    ):
        require_kafka(flow)
    with pytest.raises(mp.UsageError, match="at least one worker"):
        mp.run_local(flow, workers=0)
    with pytest.raises(mp.UsageError, match="power of two"):
        mp.run_local(flow, bins=3)
    missing, _ = counting(mp.FileSource(tmp_path / "no.csv"))
    with pytest.raises(mp.UsageError, match=r"no.csv cannot be opened"):
        mp.run_local(missing)


@pytest.mark.parametrize("wrong", [None, "in.jsonl", Path("in.jsonl"), object()])
def test_what_is_no_connector_is_refused_when_the_flow_is_written(wrong) -> None:
    flow = mp.Flow("wrong")
    with pytest.raises(mp.GraphError, match="source 'in': .* is no source"):
        flow.source("in", wrong)
    rows = flow.source("in", mp.ListSource([{"k": 1}]))
    with pytest.raises(mp.GraphError, match="sink 'out': .* is no sink"):
        rows.sink("out", wrong)


def test_the_graph_names_files_and_lists() -> None:
    flow, _ = counting(mp.FileSource("in.csv"), mp.PrintSink())
    assert table_of(flow) == (
        "flow 'counting'\n"
        "vertex  kind    runs in   reads\n"
        "in      source  gateways  this machine  file in.csv\n"
        "counts  keyed   workers   in            by k: n\n"
        "out     sink    workers   counts        standard output\n"
    )
