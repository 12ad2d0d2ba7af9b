"""What a transport did and what it refused, for telemetry: counted, never silent.

Pure: plain numbers that only grow.
"""

from __future__ import annotations

from dataclasses import dataclass

from service.dataflow.transport.strangers import Verdict


@dataclass(slots=True)
class TransportCounters:
    """Counts since the process began, over all generations."""

    frames_sent: int = 0
    bytes_sent: int = 0
    frames_received: int = 0
    bytes_received: int = 0
    #: Frames of a generation before this one.
    dropped_older: int = 0
    #: Frames kept for a later `start` or `add_peer`.
    kept: int = 0
    #: Frames that had to be kept and found no room.
    dropped_kept: int = 0
    #: Messages of connections that are no process of the job, or that are no frame.
    dropped_unknown: int = 0
    #: Connections that did not speak the protocol of the sockets, or had no key where they must.
    failed_handshakes: int = 0
    #: Connections to this process that ended, whoever ended them.
    ended_connections: int = 0
    #: Failed handshakes whose key is not in the allow-list, and what is known of the last one.
    refused_keys: int = 0
    last_refused: str = ""
    #: Messages under the name of a slot that their connection's key may not have.
    dropped_false_name: int = 0
    #: Frames for an observer that was not there, and links to one that were given up.
    dropped_observer: int = 0
    #: Frames to members that left or whose connection broke.
    dropped_departed: int = 0

    def note(self, verdict: Verdict) -> None:
        """Count what became of a stranger's frame."""
        match verdict:
            case Verdict.KEPT:
                self.kept += 1
            case Verdict.OLDER:
                self.dropped_older += 1
            case Verdict.NO_ROOM:
                self.dropped_kept += 1
            case Verdict.UNKNOWN:
                self.dropped_unknown += 1
