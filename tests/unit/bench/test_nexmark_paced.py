"""The NEXMark bench in memory at a rate: rows by the clock, latencies, and the memory of a run.

Claims: PA1, PA3, PM1. Cannot catch: how late results are on a quiet machine (docs/benchmarks).
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from service.bench.nexmark.due import TIMED, Waits
from service.bench.nexmark.memory import MemoryOptions, run_query
from service.bench.nexmark.oracle import expected
from service.bench.nexmark.paced import DueRows, run_paced, split
from service.bench.nexmark.peak import peak_memory
from service.bench.nexmark.runs import query_flow
from service.bench.nexmark.stream import StreamOptions, drawn
from service.errors import MegaphoneError
from service.nexmark.rules import RULES

_MIB = 1 << 20


@pytest.fixture(scope="module")
def stream():
    """Twelve seconds of event time: windows and auctions close within."""
    return drawn(StreamOptions(120_000))


def test_a_row_is_given_from_its_date_on_and_no_other():
    now = [9]
    rows = pa.RecordBatch.from_pydict({"a": list(range(6))})
    due = DueRows(rows, np.array([10, 10, 11, 13, 13, 14]), lambda: now[0])
    assert (due.at(0), due.end, due.schema) == (None, 6, rows.schema)
    now[0] = 10
    assert due.at(0)["a"].to_pylist() == [0, 1]
    assert due.at(2) is None
    now[0] = 13
    assert due.at(2)["a"].to_pylist() == [2, 3, 4]
    now[0] = 1_000
    assert due.at(0).num_rows == 6
    assert due.at(6) is None


def test_a_backlog_is_read_some_at_a_time():
    count = 100_000
    rows = pa.RecordBatch.from_pydict({"a": np.arange(count)})
    due = DueRows(rows, np.zeros(count, dtype=np.int64), lambda: 0)
    assert due.at(0).num_rows == 65_536
    assert due.at(65_536).num_rows == count - 65_536


def test_a_result_moves_if_any_of_its_wait_does_and_counts_if_due_in_time():
    due = np.array([100, 200, 300, 400, 500]) * 1_000
    read = np.array([150, 310, 340, 420, 510]) * 1_000
    steady, moving = split(Waits(due, read), last_us=450_000, spans=[(300_000, 330_000)])
    assert (steady.count, steady.max, moving.count, moving.max) == (2, 50.0, 2, 110.0)
    steady, moving = split(Waits(due, read), last_us=99_999, spans=[])
    assert (steady, moving) == (None, None)


@pytest.mark.parametrize("query", list(RULES))
def test_every_result_that_an_event_called_for_is_measured(stream, query):
    recorded = stream.recorded()
    run = run_paced(query, query_flow(query, stream), stream, recorded, 1_000_000)
    assert run.moving is None
    assert (run.moved_bytes, run.duration_ms) == (0, 0)
    wanted = expected(query, recorded)
    if query in TIMED:
        column, _, size_ms = TIMED[query]
        late_ms = stream.options.out_of_order_ms if size_ms else 0
        last = min(
            getattr(recorded, kind)["date_time"].to_numpy()[-1] for kind in RULES[query].inputs
        )
        in_time = int((wanted[column].to_numpy() + size_ms + late_ms <= last).sum())
        assert run.steady.count == in_time > 0
    elif query in ("q2", "q3"):
        assert run.steady.count == wanted.num_rows > 0
    else:
        assert run.steady.count > 0
    assert 0 <= run.steady.p50 <= run.steady.p99 <= run.steady.max


def test_state_moves_there_and_back_while_the_stream_goes_on(stream):
    recorded = stream.recorded()
    flow = query_flow("q3", stream)
    run = run_paced("q3", flow, stream, recorded, 200_000, MemoryOptions(2, "batched"))
    assert run.moved_bytes > 0
    assert run.duration_ms > 0
    # Each is measured once, whether or not it had to wait for a move.
    found = [each.count for each in (run.steady, run.moving) if each is not None]
    assert sum(found) == expected("q3", recorded).num_rows


def test_a_plan_that_nobody_can_carry_out_ends_the_run(stream):
    with pytest.raises(MegaphoneError, match="plan there is rejected"):
        run_query(query_flow("q4", stream), stream, MemoryOptions(2, "unheard-of"))


def test_the_mark_is_of_the_run_and_not_of_what_was_before():
    with peak_memory() as large:
        np.ones(256 * _MIB, dtype=np.uint8).sum()
    with peak_memory() as small:
        assert small.bytes == 0
    assert small.bytes > _MIB
    assert large.bytes > small.bytes + 200 * _MIB


def test_where_no_mark_can_be_set_back_it_is_the_greatest_since_the_start(tmp_path):
    nobody = tmp_path / "nobody" / "clear_refs"
    before = np.ones(64 * _MIB, dtype=np.uint8)
    del before
    with peak_memory(nobody) as seen:
        pass
    with peak_memory(nobody) as again:
        np.ones(_MIB, dtype=np.uint8).sum()
    assert again.bytes >= seen.bytes > 64 * _MIB
