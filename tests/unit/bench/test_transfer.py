"""The benchmark of transfers moves what it says it moves, in real processes.

Cannot catch: a measurement that is wrong. That is for people, who compare docs/benchmarks.
"""

from __future__ import annotations

import pytest

from service.bench.transfer import TransferOptions, _round


@pytest.mark.parametrize(
    "options",
    [
        TransferOptions(rows=3_000, bins=16),
        TransferOptions(rows=30_000, bins=16, copied=True, changed=300),
    ],
)
def test_all_rows_arrive_and_the_copy_leaves_little_for_the_cut(options: TransferOptions) -> None:
    gave, taken = _round(options)
    assert (gave.rows, taken.rows) == (0, options.rows)
    assert gave.total == taken.total > 0
    assert gave.copy_began <= gave.copied <= gave.began < taken.ended
    assert (taken.nbytes < options.rows * 8) == options.copied
