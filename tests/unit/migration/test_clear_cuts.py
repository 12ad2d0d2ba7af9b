"""Clear cuts: the least time from which on no delay has rows of before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.dataflow.delaying import Rounding
from service.dataflow.row_vertices import DelayVertex
from service.migration.clear_cuts import ClearCuts


def clear(*functions) -> ClearCuts:
    vertices = [DelayVertex(f"d{n}", until, 0) for n, until in enumerate(functions)]
    return ClearCuts(vertices)


def test_without_a_delay_every_time_is_clear() -> None:
    assert [clear().at(time) for time in (1, 2, 10**15)] == [1, 2, 10**15]


@given(
    steps=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    asked=st.lists(st.integers(1, 500), min_size=1, max_size=8),
)
def test_a_cut_is_the_least_one_that_no_row_is_put_off_across(steps, asked) -> None:
    found = clear(*map(Rounding, steps))

    def is_clear(cut: int) -> bool:
        below = range(max(0, cut - 50), cut)
        return all(Rounding(step)(epoch) < cut for step in steps for epoch in below)

    # In any order: what was found for one time is not taken for another.
    for earliest in asked:
        cut = next(cut for cut in range(earliest, earliest + 12 * 11 * 12) if is_clear(cut))
        assert found.at(earliest) == cut


def test_what_was_found_is_not_looked_for_again() -> None:
    asked = []

    def until(epoch: int) -> int:
        asked.append(epoch)
        return Rounding(1_000)(epoch)

    found = clear(until)
    assert {found.at(earliest) for earliest in range(2, 1_002)} == {1_001}
    assert len(asked) == 2


@pytest.mark.parametrize(
    "until",
    [lambda epoch: epoch + 1, lambda epoch: 1 // 0, lambda epoch: epoch - 1, lambda epoch: "soon"],
)
def test_a_function_that_puts_everything_off_or_fails_has_none(until) -> None:
    assert clear(Rounding(5), until).at(7) is None


def test_delays_are_named() -> None:
    assert clear(Rounding(1), Rounding(2)).names == "'d0', 'd1'"
