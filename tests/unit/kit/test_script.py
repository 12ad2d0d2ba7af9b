"""Lists of rows with markers between them."""

from __future__ import annotations

import pytest

import megaphone as mp
from megaphone.testing import advance, crash, move, rescale, restart, run, stop
from tests.unit.kit.flows import bids, counting, two_inputs


def test_rows_go_in_and_every_sinks_rows_come_out() -> None:
    assert run(counting(), {"bids": [bids(1, 1), {"auction": 1, "price": 9}]}) == {
        "out": [{"auction": 1, "bids": 2, "top": 1}, {"auction": 1, "bids": 3, "top": 9}]
    }


@pytest.mark.parametrize(
    "markers",
    [
        [move(range(8), 1)],
        [move(range(8), 1, strategy="fluid", wait=False), bids(3), advance(2)],
        [rescale(3), rescale(1)],
        [stop(), restart(), move([0], 2)],
        [stop(), restart(workers=4, gateways=2), rescale(4)],
    ],
    ids=["move", "under way", "rescale", "stop", "larger"],
)
@pytest.mark.parametrize("schedule", [None, 1, 2])
def test_moves_and_stops_change_no_result(markers, schedule) -> None:
    steps = [bids(1, 2, 3), *markers, bids(1, 2, 3)]
    extra = {3: 1} if bids(3) in markers else {}
    seen = run(counting(), {"bids": steps}, workers=3, bins=8, schedule=schedule)
    for auction in (1, 2, 3):
        counts = [row["bids"] for row in seen["out"] if row["auction"] == auction]
        assert counts == sorted(set(counts)), "each once, in order"
        assert counts[-1] == 2 + extra.get(auction, 0)


def test_a_crash_between_inputs_repeats_what_was_not_in_a_checkpoint() -> None:
    steps = [bids(1), stop(), restart(), bids(1), crash(), restart(), bids(1)]
    seen = run(counting(), {"bids": steps})
    assert [row["bids"] for row in seen["out"]] == [1, 2, 2, 3]


def test_a_list_that_ends_with_a_crash_ends_there() -> None:
    assert len(run(counting(), {"bids": [bids(1), crash()]})["out"]) == 1


def test_several_lists_are_gone_through_side_by_side() -> None:
    inputs = {
        "bids": [{"auction": 1}, crash(), {"auction": 2}],
        "asks": [{"auction": 1}, restart()],
    }
    seen = run(two_inputs(), inputs)
    counts = [(row["auction"], row["seen"]) for row in seen["out"]]
    assert counts == [(1, 1), (1, 2), (1, 1), (1, 2), (2, 1)]


@pytest.mark.parametrize("item", [7, "abc", None])
def test_what_is_no_row_and_no_marker_is_refused(item) -> None:
    with pytest.raises(mp.MegaphoneError, match="is no row"):
        run(counting(), {"bids": [bids(1), item]})


def test_a_source_the_flow_does_not_have_is_refused() -> None:
    with pytest.raises(mp.UsageError, match="no source 'bid'"):
        run(counting(), {"bid": [bids(1)]})
