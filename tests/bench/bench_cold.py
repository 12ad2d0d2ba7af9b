"""What a memory budget costs stores of objects, joins and state under text.

Run it by hand: `python -m tests.bench.bench_cold`. Keys are drawn evenly, which is the worst case.
For each kind three stores take turns: one without a budget, one whose budget holds all, one whose
budget holds about a third. One thread, processor time, median of several passes. Not collected by
pytest.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from service.statestore.slot_database import SlotDatabase
from service.statestore.tiers import back_stores
from tests.fakes.kinds import Kind

BITS = 8
KEYS = 100_000
ROWS = 4_000
BATCHES = 20
PASSES = 5
KINDS = {
    "map": Kind("map of texts", texts=False, weak=False),
    "join": Kind("join", texts=False, weak=False),
    "aggregate by text": Kind("aggregate", texts=True, weak=False),
}


def taken(kind, store, random):
    """Processor time of a row, in us."""
    batches = [
        kind.batch([(key, 1) for key in random.integers(0, KEYS, ROWS).tolist()])
        for _ in range(BATCHES)
    ]
    begun = time.process_time()
    for batch in batches:
        store.apply_rows(batch, (1,))
    return (time.process_time() - begun) * 1e6 / (ROWS * BATCHES)


def measure(name, kind, folder):
    stores = [kind.build(BITS) for _ in range(3)]
    wide = SlotDatabase(folder / f"{name} wide", 4 << 30)
    back_stores({"v": stores[1]}, wide)
    for start in range(0, KEYS, ROWS):
        batch = kind.batch([(key, 1) for key in range(start, start + ROWS)])
        for store in stores[:2]:
            store.apply_rows(batch, (1,))
    narrow = SlotDatabase(folder / f"{name} narrow", wide.resident_bytes // 3 + (4 << 20))
    back_stores({"v": stores[2]}, narrow)
    for start in range(0, KEYS, ROWS):
        batch = kind.batch([(key, 1) for key in range(start, start + ROWS)])
        stores[2].apply_rows(batch, (1,))
    random = np.random.default_rng(7)
    tier = stores[2].tier
    before = tier.recalled
    times = [[taken(kind, store, random) for store in stores] for _ in range(PASSES)]
    without, fits, third = (statistics.median(each) for each in zip(*times, strict=True))
    recalled = (tier.recalled - before) / (PASSES * BATCHES * ROWS)
    sys.stdout.write(
        f"{name:<20} none {without:6.2f} us/row   fits {fits:6.2f}   a third {third:6.2f}"
        f"   recalled {recalled:.2f} a row: {(third - without) / recalled:6.2f} us each\n"
    )
    wide.close()
    narrow.close()


def main():
    with tempfile.TemporaryDirectory() as folder:
        for name, kind in KINDS.items():
            measure(name, kind, Path(folder))


if __name__ == "__main__":
    main()
