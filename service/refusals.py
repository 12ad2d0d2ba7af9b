"""What a process's sockets did not let in, for its log.

Flow: TransportCounters -> [Refusals], with every heartbeat -> log. /metrics has the same counts.

Invariants
  RF1  A flood fills no log: a line is written when the count has doubled since the last one.
"""

from __future__ import annotations

from service.dataflow.transport.counters import TransportCounters
from service.log import Log


class Refusals:
    """Tells what was refused at one process's links. Owned by the loop's thread."""

    def __init__(self, counters: TransportCounters | None, log: Log) -> None:
        """Watch `counters`, if the links have any."""
        self._counters = counters
        self._log = log
        self._told = 0

    def tell(self) -> None:
        """Write a line if there is much more to tell than there was (RF1)."""
        counters = self._counters
        if counters is None:
            return
        frames = counters.dropped_unknown
        total = counters.failed_handshakes + frames
        if total and total >= 2 * self._told:
            self._told = total
            self._log.error(
                "links.refused",
                message="somebody who is no process of this job reaches its links; see "
                "docs/SECURITY.md",
                handshakes=counters.failed_handshakes,
                keys=counters.refused_keys,
                last_key=counters.last_refused or None,
                frames=frames,
                false_names=counters.dropped_false_name,
            )
