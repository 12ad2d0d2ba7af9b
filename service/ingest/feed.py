"""One source vertex's reading in one gateway: poll, decode, dead-letter, count.

Flow: MessageSource.poll -> [SourceFeed] -> ReadRows -> SourceOperator; bad records -> <topic>.dlq.

Invariants
  FE1  Every record polled is exactly one of: a row, skipped (another record type), rejected.
  FE2  While a new schema cannot be looked up, the poll that needs it waits; nothing more is read.
  FE3  Positions cover rejected and skipped records too: nothing is read twice or left behind.
"""

from __future__ import annotations

from collections.abc import Mapping

from service.ingest.consumer import MessageSource
from service.ingest.dead_letter import DeadLetters
from service.ingest.decode import RecordDecoder
from service.ingest.records import RawRecords, TopicPartition
from service.ingest.registry import RegistryUnavailable
from service.ingest.source import ReadRows


class SourceFeed:
    """Reads one source's partitions and hands out rows."""

    def __init__(
        self,
        messages: MessageSource,
        decoder: RecordDecoder,
        dead_letters: DeadLetters,
        positions: Mapping[TopicPartition, int],
        *,
        until_end: bool,
    ) -> None:
        """Start at `positions`; with `until_end`, note where the partitions end now."""
        self._messages = messages
        self._decoder = decoder
        self._dead_letters = dead_letters
        self._paused = False
        #: A poll that waits for the registry (FE2), and why.
        self._waiting: RawRecords | None = None
        self.registry_problem: str | None = None
        self.records_in = 0
        self.skipped = 0
        self.rejected = 0
        decoder.warm()
        messages.assign(positions)
        self._ends = messages.end_offsets(positions) if until_end else {}

    def read(self, max_records: int) -> tuple[ReadRows | None, bool]:
        """Rows of what has arrived, and whether the poll came back full (so more may be ready)."""
        if self._paused:
            self._messages.resume()
            self._paused = False
        raw = self._waiting or self._messages.poll(max_records, 0.0)
        if not len(raw):
            return None, False
        self._waiting = raw
        try:
            decoded = self._decoder.decode(raw)
        except RegistryUnavailable as error:
            self.registry_problem = str(error)
            return None, False
        self._waiting = None
        self.registry_problem = None
        self.records_in += len(raw)
        self.skipped += decoded.skipped
        if decoded.rejected:
            self.rejected += len(decoded.rejected)
            self._dead_letters.send(raw, decoded.rejected)
        return ReadRows(decoded.rows, raw.positions()), len(raw) >= max_records

    def hold(self) -> None:
        """Stop fetching until the next `read` (back-pressure)."""
        if not self._paused:
            self._messages.pause()
            self._paused = True

    @property
    def paused(self) -> bool:
        """Whether back-pressure holds reading."""
        return self._paused

    @property
    def drained(self) -> bool:
        """Whether every partition was read to the end found at start; never without `until_end`."""
        positions = self._messages.positions
        return (
            bool(self._ends)
            and self._waiting is None
            and all(positions.get(each, 0) >= end for each, end in self._ends.items())
        )

    def rejected_by_reason(self) -> Mapping[str, int]:
        """Bad records so far, by reason."""
        return self._dead_letters.counts

    def lag(self) -> int:
        """Records between the positions and the ends of the partitions."""
        return sum(self._messages.lag().values())

    def commit_advisory(self, positions: Mapping[TopicPartition, int] | None = None) -> None:
        """Tell lag tools where this source stands, or that it stands at `positions`."""
        self._messages.commit_advisory(self._messages.positions if positions is None else positions)

    def close(self) -> None:
        """Let go of the broker."""
        self._messages.close()
