"""What the members of a generation tell the controller.

Flow: StateHost, gateway and checkpoint -> [report] as plain values, over a transport -> controller.
Pure values; each peer's reports arrive in the order in which they were sent.

Invariants
  RP1  A report decodes completely or not at all, as R1 says of the log.
  RP2  A peer reports every bin it received before it reports that it has cut its part.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from service.errors import ProtocolViolation
from service.migration.records import Count, Positive, Time, Watermark


class _Report(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", forbid_unknown_fields=True
):
    """Base of the reports (RP1)."""


class MovedReport(_Report, frozen=True, kw_only=True, tag="moved"):
    """A new owner has installed and released `bins` bins of one vertex that moved at `cut`."""

    vertex: str
    cut: Time
    bins: Positive
    bytes: Count
    rows: Count
    #: Longest time that rows waited for one of them, µs.
    wait_us: Count = 0


class LoadReport(_Report, frozen=True, kw_only=True, tag="loads"):
    """How much a worker's bins hold and how often they change, in the codes of `loads`."""

    #: One bit per bin of the job, the first in the highest: whether it is here.
    installed: bytes
    #: Two bytes for each bin that is here, ascending in bins.
    rows: bytes
    size: bytes
    updates_per_s: bytes


class CopiedReport(_Report, frozen=True, kw_only=True, tag="copied"):
    """An old owner's copies of one number of one vertex are ready: `left` keys differ."""

    vertex: str
    number: Positive
    left: Count


class DrainedReport(_Report, frozen=True, kw_only=True, tag="drained"):
    """A gateway has read all its partitions up to the end offsets found at start."""


class CheckpointedReport(_Report, frozen=True, kw_only=True, tag="checkpointed"):
    """A process has its part of a cut, the stop's or another's; all below was acknowledged."""

    cut: Time
    #: A worker's files, opaque; null from a gateway.
    files: object = None
    #: A gateway's (topic, partition, next offset to read) as of the cut.
    positions: list[tuple[str, Count, Count]] = []
    #: As of the cut, a gateway's (topic, partition, watermark) and a worker's W by vertex.
    partition_watermarks: list[tuple[str, Count, Watermark]] = []
    watermarks: dict[str, Watermark] = {}
    #: Bytes of the files.
    bytes: Count = 0
    #: Why there is no part; then the rest means nothing.
    failed: str | None = None


PeerReport = MovedReport | CopiedReport | LoadReport | DrainedReport | CheckpointedReport


def plain(report: PeerReport) -> dict[str, object]:
    """A report as plain values, ready for JSON or for `read_report`."""
    values: dict[str, object] = msgspec.to_builtins(report)
    return values


def read_report(body: Mapping[str, object]) -> PeerReport:
    """Read what a peer told the controller, already decoded to plain values.

    Raises:
        ProtocolViolation: it is no report this version knows.
    """
    try:
        report: PeerReport = msgspec.convert(body, PeerReport)
    except msgspec.ValidationError as error:
        raise ProtocolViolation(f"unknown report of a peer: {error}") from error
    return report
