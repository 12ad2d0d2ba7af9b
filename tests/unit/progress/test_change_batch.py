"""Summing changes, by examples."""

from __future__ import annotations

from service.dataflow.progress.change_batch import ChangeBatch


def test_opposite_changes_cancel() -> None:
    batch = ChangeBatch()
    batch.update(1, (5,), 2)
    batch.update(1, (5,), -2)
    assert batch.is_empty
    assert len(batch) == 0


def test_drain_hands_over_every_pointstamp_once_and_empties() -> None:
    batch = ChangeBatch([(1, (5,), 1), (2, (5,), -1)])
    batch.extend([(1, (5,), 1), (1, (6,), 1)])
    assert repr(batch) == "ChangeBatch({(1, (5,)): 2, (2, (5,)): -1, (1, (6,)): 1})"
    assert batch.drain() == [(1, (5,), 2), (2, (5,), -1), (1, (6,), 1)]
    assert batch.is_empty
