"""The stand-ins in the workers' place: they keep the protocol, so that the gateway works whole."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from service.bench.gateway import Gateway
from service.ingest.source import ReadRows
from service.nexmark.queries import auction_bids
from service.nexmark.query_topics import QueryTopics

_COLUMNS = pa.schema([(name, pa.int64()) for name in ("auction", "price", "date_time")])
_NOW_US = 1_700_000_000_000_000


@pytest.fixture
def gateway() -> Gateway:
    flow = auction_bids(QueryTopics("x"))
    partitions = {"x-events": 4}
    return Gateway(
        flow, _COLUMNS, partitions, workers=2, bins=64, now_us=_NOW_US, monotonic_us=5_000_000
    )


def _read(rows: int) -> ReadRows:
    column = pa.array(np.arange(rows))
    return ReadRows(
        pa.RecordBatch.from_arrays([column] * 3, schema=_COLUMNS), {("x-events", 0): rows}
    )


def test_each_poll_leaves_as_one_frame_to_each_worker_and_its_progress(gateway):
    for turn in range(1, 6):
        before, sent = gateway.workers.frames, gateway.member.worker.progress_batches_sent
        gateway.route(_read(1_000), 5_000_000 + 5_000 * turn)
        told = gateway.member.worker.progress_batches_sent - sent
        assert told >= 1
        assert gateway.workers.frames - before == 2 * (1 + told)
    assert gateway.workers.bytes > 5 * 1_000 * 3 * 8


def test_frontiers_follow_the_ticks_as_in_a_job(gateway):
    for turn in range(1, 4):
        gateway.route(_read(100), 5_000_000 + 5_000 * turn)
    gateway.member.step()
    closed = gateway.member.ticks.last + 1
    assert closed == _NOW_US + 3 * 5_000 + 1
    assert gateway.member.frontiers() == {"stats": closed, "out": closed}


def test_credit_comes_back_so_that_more_than_the_windows_can_be_sent(gateway):
    rows = _read(100_000)
    for turn in range(1, 21):
        gateway.route(rows, 5_000_000 + 5_000 * turn)
    assert gateway.workers.bytes > 20 * 100_000 * 3 * 8
    assert gateway.member.sources["bids"].rows_sent == 20 * 100_000
    assert gateway.member.worker.queued_bytes() == 0
