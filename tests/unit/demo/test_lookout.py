"""What a run notes while it looks on."""

from __future__ import annotations

from demo.lookout import Progress


def test_the_lag_counts_while_events_are_due_and_not_while_it_is_worked_off() -> None:
    progress = Progress()
    progress.take_lag(1_000, 5)
    progress.generated.schedule = (2_000, 4_000)
    for now, lag in ((1_900, 1), (2_000, 10), (3_000, 500), (4_000, 900), (4_100, 300), (9_000, 0)):
        progress.take_lag(now, lag)
    assert progress.lag == [(2_000, 10), (3_000, 500), (4_000, 900)]
