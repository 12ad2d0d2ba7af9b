"""What a gateway tells of a source: the least of the partitions that are not idle (PW1 to PW3).

Cannot catch: an end that the broker tells wrongly.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.dataflow.event_time import Watermarks
from service.errors import GraphError, UserFunctionError
from service.ingest.watermarks import Estimator, PartitionWatermarks
from service.statestore.timed import ALL, NEVER

A, B, C = ("t", 0), ("t", 1), ("u", 0)
PARTITIONS = [A, B, C]

steps = st.lists(
    st.tuples(
        st.integers(0, 20),
        st.dictionaries(st.sampled_from(PARTITIONS), st.integers(-100, 100), max_size=3),
        st.sets(st.sampled_from(PARTITIONS)),
    ),
    max_size=30,
)


@given(steps, st.sampled_from([None, 1, 15]))
def test_the_least_of_those_that_are_not_idle(
    told: list[tuple[int, dict[tuple[str, int], int], set[tuple[str, int]]]], idle: int | None
) -> None:
    marks = PartitionWatermarks(idle, dict.fromkeys(PARTITIONS, NEVER))
    values = dict.fromkeys(PARTITIONS, NEVER)
    heard: dict[tuple[str, int], int] = {}
    sleeping: set[tuple[str, int]] = set()
    epoch = 1_000
    for passed, allowed, ended in told:
        epoch += passed
        marks.saw(epoch, allowed)
        for which, value in allowed.items():
            values[which] = max(values[which], value)
            heard[which] = epoch
            sleeping.discard(which)
        for which in PARTITIONS:
            since = heard.setdefault(which, epoch)
            if idle is not None and epoch - since >= idle and which in ended:
                sleeping.add(which)
        live = [values[which] for which in PARTITIONS if which not in sleeping]
        assert marks.watermark(epoch, ended.__contains__) == min(live, default=None)
        assert marks.values == values
        assert marks.idle == sleeping


def test_a_partition_below_its_end_is_never_idle() -> None:
    marks = PartitionWatermarks(5, {A: NEVER, B: NEVER})
    assert marks.watermark(1, lambda _: False) == NEVER
    marks.saw(2, {A: 50})
    assert marks.watermark(1_000_000, lambda which: which == A) == NEVER
    assert marks.idle == {A}
    assert marks.watermark(1_000_001, lambda _: True) is None


def rows(*times: int | None, kind: pa.DataType | None = None) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array(times, kind or pa.int64())], names=["time"])


def estimator(kind: pa.DataType | None = None, **arguments: object) -> Estimator:
    marks = Watermarks("time", **arguments)  # type: ignore[arg-type]  # by name
    return Estimator("in", marks, pa.schema([("time", kind or pa.int64())]))


def test_the_greatest_event_time_less_what_is_allowed() -> None:
    of = estimator(out_of_orderness="3ms").of
    assert of(rows(5, None, 9, 1)) == 6
    assert of(rows()) is None
    assert of(rows(None)) is None
    assert of(rows(NEVER + 1)) == NEVER


def test_a_timestamps_type_says_the_unit() -> None:
    kind = pa.timestamp("us")
    assert estimator(kind, out_of_orderness="1ms").of(rows(5_000, kind=kind)) == 4_000
    with pytest.raises(GraphError, match="whole number of s"):
        estimator(pa.timestamp("s"), out_of_orderness="1ms")


def test_rows_of_several_partitions_count_for_each_its_own() -> None:
    parts = [A, C, B]
    found = estimator().by_partition(rows(5, 9, 7, 2), parts, lambda: np.array([0, 1, 0, 1]))
    assert found == {A: 7, C: 9}
    assert estimator().by_partition(rows(5, 9), [B], lambda: pytest.fail("one")) == {B: 9}
    assert estimator().by_partition(rows(), parts, lambda: pytest.fail("none")) == {}


def test_a_generator_of_the_users_own_is_held_to_its_word() -> None:
    of = estimator(generator=lambda batch: np.int64(batch.num_rows)).of
    assert of(rows(5, 6)) == 2
    assert type(of(rows(5, 6))) is int
    assert estimator(generator=lambda _: 1 << 70).of(rows(5)) == ALL
    for wrong in (lambda _: "soon", lambda _: 1 / 0):
        with pytest.raises(UserFunctionError, match="'in'"):
            estimator(generator=wrong).of(rows(5))
