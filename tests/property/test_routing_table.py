"""The routing table against a naive one: per bin a list of (cut, worker), searched from the end.

Cannot catch: an error that both share; the cases with fixed answers are in tests/unit/migration.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from service.migration.records import Move
from service.migration.routing_table import RoutingTable

BINS = 4
WORKERS = 3


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[int], list[Move]]:
    """First owners, and waves with rising cuts in which bins really move."""
    owners = draw(st.lists(st.integers(0, WORKERS - 1), min_size=BINS, max_size=BINS))
    now = list(owners)
    waves: list[Move] = []
    cut = 0
    for _ in range(draw(st.integers(0, 6))):
        cut += draw(st.integers(1, 5))
        bins = draw(st.lists(st.integers(0, BINS - 1), min_size=1, max_size=BINS, unique=True))
        moves = [(b, (now[b] + draw(st.integers(1, WORKERS - 1))) % WORKERS) for b in bins]
        for bin_, worker in moves:
            now[bin_] = worker
        waves.append(Move(at=cut, request="r", wave=1, waves=1, moves=moves, clock=0))
    return owners, waves


def naive_owner(owners: list[int], waves: list[Move], bin_: int, epoch: int) -> int:
    entries = [(w.at, worker) for w in waves for moved, worker in w.moves if moved == bin_]
    return next((w for at, w in reversed(entries) if at <= epoch), owners[bin_])


@given(histories(), st.lists(st.integers(0, 35), max_size=40))
def test_every_bin_has_the_owner_of_its_last_cut_in_any_order_of_asking(
    history: tuple[list[int], list[Move]], epochs: list[int]
) -> None:
    owners, waves = history
    table = RoutingTable(owners, WORKERS)
    for wave in waves:
        table.apply(wave)
    for epoch in epochs:
        expected = [naive_owner(owners, waves, b, epoch) for b in range(BINS)]
        assert table.owners_at(epoch).tolist() == expected


@given(histories(), st.data())
def test_two_tables_that_know_different_futures_agree_below_the_horizon(
    history: tuple[list[int], list[Move]], data: st.DataObject
) -> None:
    """RT3: one table has read only part of the log; below the horizon it answers as the other."""
    owners, waves = history
    read = data.draw(st.integers(0, len(waves)))
    horizon = data.draw(st.integers(0, waves[read].at - 1 if read < len(waves) else 40))
    short, full = RoutingTable(owners, WORKERS), RoutingTable(owners, WORKERS)
    for wave in waves:
        full.apply(wave)
    for wave in waves[:read]:
        short.apply(wave)
    short.advance(horizon)
    for epoch in range(horizon):
        assert short.owners_at(epoch).tolist() == full.owners_at(epoch).tolist()


@given(histories(), st.lists(st.integers(0, 35), min_size=1, max_size=5), st.data())
def test_compaction_changes_no_later_answer_even_between_moves(
    history: tuple[list[int], list[Move]], epochs: list[int], data: st.DataObject
) -> None:
    owners, waves = history
    table, plain = RoutingTable(owners, WORKERS), RoutingTable(owners, WORKERS)
    since = 0
    for wave in waves:
        table.apply(wave)
        plain.apply(wave)
        if data.draw(st.booleans()):
            epoch = data.draw(st.sampled_from(epochs))
            table.compact(epoch)
            since = max(since, epoch)
            if since > wave.at:
                # A later wave may not lie in the forgotten past; nothing more to compare.
                break
        for epoch in range(since, 36):
            assert table.owners_at(epoch).tolist() == plain.owners_at(epoch).tolist()
            assert table.moves_at(epoch) == plain.moves_at(epoch)
            assert table.next_cut(epoch) == plain.next_cut(epoch)
            assert table.cuts_after(epoch) == plain.cuts_after(epoch)
