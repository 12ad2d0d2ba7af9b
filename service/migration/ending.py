"""The plain stop of a generation: where it stands in the log, and every process's part of it.

Flow: Stop record -> [Ending] <- parts of all processes -> the last manifest. Pure.

Invariants
  EN1  The manifest is made once every process has told its part and the log holds the stop.
  EN2  A part is of the stop's cut, and each process tells one.
"""

from __future__ import annotations

from collections.abc import Sequence

from service.errors import ProtocolViolation
from service.migration.founding import manifest_of
from service.migration.records import Generation, ManifestRecord, Stop
from service.migration.reports import CheckpointedReport


class Ending:
    """What the controller knows of the stop."""

    def __init__(self) -> None:
        """No stop was written yet."""
        self.stop: Stop | None = None
        self._deadline_us = 0
        #: Where the stop stands in the log, once durable.
        self._offset: int | None = None
        #: {peer: its part of the checkpoint}.
        self._parts: dict[int, CheckpointedReport] = {}

    def begin(self, stop: Stop, deadline_us: int) -> None:
        """The stop is on its way to the log."""
        self.stop, self._deadline_us = stop, deadline_us

    def appended(self, record: object, offset: int) -> None:
        """The log holds `record` at `offset`."""
        if self.stop is not None and record is self.stop:
            self._offset = offset

    def report(self, peer: int, report: CheckpointedReport) -> None:
        """Take a process's part.

        Raises:
            ProtocolViolation: EN2.
        """
        if self.stop is None or report.cut != self.stop.at or peer in self._parts:
            raise ProtocolViolation(f"peer {peer} cut its part at {report.cut}, unasked")
        self._parts[peer] = report

    def late(self, slots: Sequence[str], now_us: int) -> str | None:
        """Who did not come to the stop in time, as a sentence; None while there is time."""
        if now_us <= self._deadline_us:
            return None
        late = [slot for peer, slot in enumerate(slots) if peer not in self._parts]
        return f"{', '.join(late)} did not come to the stop in time"

    def manifest(
        self, generation: Generation, owners: list[int], peers: int, now_us: int
    ) -> ManifestRecord | None:
        """The manifest, if it can be made (EN1).

        Args:
            generation: what ran.
            owners: worker ordinal of each bin as of the stop.
            peers: how many processes tell a part.
            now_us: the controller's clock.

        Raises:
            ProtocolViolation: the parts do not fit the generation.
        """
        if self.stop is None or self._offset is None or len(self._parts) < peers:
            return None
        return manifest_of(
            generation,
            self.stop.at,
            self._parts,
            owners=owners,
            log_offset=self._offset + 1,
            now_us=now_us,
            drained=self.stop.drain,
        )
