"""What each bin holds when it leaves a worker, compared with what it holds where it has come.

Flow: members of a world -> [Handovers] looks into their stores, at the moment at which a bin is
taken out and at that at which it is installed. It changes nothing: it stands before the one and
behind the other.

Checked
  HO1  A bin has, once installed, what it had when it was taken out: keys, what is kept of each, and
       timers; whole or as what completes a copy, whatever kind of store.
  HO2  Every bin of every wave was compared, in every vertex.
What it cannot see: change versions, which a copy makes anew and nothing but checkpoints reads.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xxhash

from service.member import Member
from service.migration.handover import Departure
from service.migration.records import Move
from service.migration.state_host import StateHost
from service.statestore.checkpoint import StoredVertex
from service.statestore.hosted import HostedStore
from service.statestore.row_kinds import split_text, text_key_of
from service.statestore.stored_kinds import behind_key, value_of


def digest_of(store: HostedStore, bin_id: int) -> str:
    """Of a bin's state, wherever its rows lie."""
    stored = StoredVertex(store.vertex, store.columns, 0, 0)
    keys, values = store.stored_rows(np.array([bin_id], dtype=np.int64))
    kept = {int(key): _kept(stored, bytes(value)) for key, value in zip(keys, values, strict=True)}
    text = repr((sorted(kept.items()), store.timers(bin_id)))
    return f"{len(kept)} keys of {xxhash.xxh3_64_hexdigest(text.encode())}"


def _kept(stored: StoredVertex, value: bytes) -> object:
    """What a stored row says: of a key that is text, the text, too."""
    if text_key_of(stored.columns) is None:
        return value_of(stored, value)
    text, behind = split_text(value)
    return text, value_of(behind_key(stored), behind)


class Handovers:
    """All bins that move in one world."""

    def __init__(self) -> None:
        """None has left."""
        #: (vertex, bin, cut) -> what it held when it left.
        self._under_way: dict[tuple[str, int, int], str] = {}
        self.compared = 0
        #: How often several bins left together.
        self.together = 0

    def watch(self, member: Member) -> None:
        """Look on at all vertices of a member."""
        for host in member.hosts.values():
            self._watch_leaving(host)
            self._watch_coming(host)

    def _watch_leaving(self, host: StateHost) -> None:
        departures = host._departures
        begin = departures._begin

        def leaves(departure: Departure, moved: list[int], target: int, cut: int) -> None:
            for bin_id in moved:
                self._under_way[host.store.vertex, bin_id, cut] = digest_of(host.store, bin_id)
            self.together += len(moved) > 1
            begin(departure, moved, target, cut)

        departures._begin = leaves  # type: ignore[method-assign]  # looks on, and goes on

    def _watch_coming(self, host: StateHost) -> None:
        copies = host.copies
        arrived = copies.arrived

        def comes(moved: int, cut: int) -> None:
            had = self._under_way.pop((host.store.vertex, moved, cut))
            has = digest_of(host.store, moved)
            assert has == had, f"HO1: bin {moved} of {host.store.vertex} at {cut}: {has}, not {had}"
            self.compared += 1
            arrived(moved, cut)

        copies.arrived = comes  # type: ignore[method-assign]  # looks on, and goes on

    def check(self, waves: Sequence[Move], vertices: int) -> None:
        """HO2, when nothing is under way any more."""
        moved = sum(len(wave.moves) for wave in waves) * vertices
        assert (self.compared, self._under_way) == (moved, {}), "HO2: bins that were not compared"
