"""The unit of everything."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pyarrow as pa
import pytest

from service.batch import Batch

ROWS = pa.RecordBatch.from_pydict({"a": [1, 2, 3]})


def test_a_batch_is_as_long_as_its_rows() -> None:
    assert len(Batch((5,), ROWS)) == 3
    assert len(Batch((5,), ROWS.slice(0, 0))) == 0


def test_a_batch_keeps_its_time() -> None:
    with pytest.raises(FrozenInstanceError):
        Batch((5,), ROWS).time = (6,)  # type: ignore[misc]  # the mistake under test
