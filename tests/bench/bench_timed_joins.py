"""Speed of joins within event time: rows as auctions and bids come, into the stores alone.

Run it by hand: `python -m tests.bench.bench_timed_joins`. One thread, processor time, medians of
several passes. Three auctions to 46 bids, of which half go to one auction in a hundred and many to
auctions that have ended; each epoch's rows, then its watermark. Not collected by pytest.
"""

from __future__ import annotations

import statistics

import numpy as np
import pyarrow as pa

from service.statestore.best_within import BestWithin, Choice
from service.statestore.join import LEFT, RIGHT, SIDE
from service.statestore.pairing import WINDOW, Interval, PairProgram, Windows
from service.statestore.timed import NEVER
from service.statestore.timed_row_store import TimedRowStore
from tests.bench.bench_rows import BIN_BITS, PASSES, report, timed

EPOCHS = 120
EPOCH_ROWS = 8_192
EPOCH_MS = 16 * (EPOCH_ROWS * 3 // 49)
#: How long an auction lasts at most.
LASTS_MS = 32_000
LEFTS = ["join.0.at", "join.0.until", "join.0.least"]
RIGHTS = ["join.1.price", "join.1.at", "join.1.bidder"]
OUT = pa.schema([(name, pa.int64()) for name in ("id", *LEFTS, *RIGHTS)])
TIMES = (LEFTS[0], RIGHTS[1])


def epochs(behind):
    """Tagged rows of each epoch as S gives them, and the watermark, which is so much behind."""
    random = np.random.default_rng(1)
    found, opened, begin = [], 0, 0
    for _ in range(EPOCHS):
        lefts = EPOCH_ROWS * 3 // 49
        rights = EPOCH_ROWS - lefts
        at = begin + 16 * np.arange(lefts)
        bid_at = np.sort(random.integers(begin, begin + EPOCH_MS, rights))
        newest = opened + (bid_at - begin) // 16
        hot = newest // 100 * 100
        auction = np.where(
            random.random(rights) < 0.5, hot, newest - random.integers(0, 100, rights)
        )
        key = np.concatenate([np.arange(opened, opened + lefts), np.maximum(auction, 0)])
        side = np.repeat([LEFT, RIGHT], [lefts, rights])
        columns = {"id": pa.array(key), SIDE: pa.array(side)}
        own = (at, at + random.integers(1, LASTS_MS, lefts), random.integers(1, 1_000, lefts))
        other = (
            random.integers(1, 10_000, rights),
            bid_at,
            random.integers(0, 1_000, rights),
        )
        for name, values in zip(LEFTS, own, strict=True):
            columns[name] = pa.array(
                np.append(values, np.zeros(rights, np.int64)), mask=side == RIGHT
            )
        for name, values in zip(RIGHTS, other, strict=True):
            columns[name] = pa.array(
                np.append(np.zeros(lefts, np.int64), values), mask=side == LEFT
            )
        rows = pa.record_batch(columns).take(pa.array(np.lexsort((side, key))))
        opened, begin = opened + lefts, begin + EPOCH_MS
        found.append((rows, begin - behind))
    return found


def bench(name, program, given):
    seconds = []
    for _ in range(PASSES):
        store = TimedRowStore("j", program, BIN_BITS)
        gave = []

        def run(store=store, gave=gave):
            watermark = NEVER
            for rows, after in given:
                gave.append(store.apply_at(rows, (1,), watermark).rows.num_rows)
                watermark = after
                gave.append(store.fire(watermark, (1,)).num_rows)

        seconds.append(timed(run))
    rows = EPOCHS * EPOCH_ROWS
    report(name, rows / statistics.median(seconds) / 1e6, "M rows a second")
    report(f"{name}, results", sum(gave), "rows")
    report(f"{name}, state at the end", store.total_nbytes / 1e6, "MB")


if __name__ == "__main__":
    for behind in (0, 5_000):
        given = epochs(behind)
        for once in (True, False):
            choice = Choice(TIMES, LEFTS[1], RIGHTS[0], LEFTS[2], once=once)
            program = BestWithin("id", LEFTS, RIGHTS, choice, OUT)
            bench(f"best within, once={once}, {behind} ms behind", program, given)
        program = PairProgram("id", LEFTS, RIGHTS, TIMES, Interval(0, 1_000), OUT)
        bench(f"interval join of a second, {behind} ms behind", program, given)
        out = pa.schema([*OUT, *((name, pa.int64()) for name in WINDOW)])
        program = PairProgram("id", LEFTS, RIGHTS, TIMES, Windows(1_000, 1_000), out)
        bench(f"join in windows of a second, {behind} ms behind", program, given)
