"""How a generation begins, and what it leaves for the next: owner tables, positions, first epoch.

Flow: job + newest manifest + log so far + members -> [found_generation] -> Generation record;
Generation + routing at a cut + every process's part -> [manifest_of] -> manifest. Pure.

Invariants
  FD1  First epochs lie above every horizon, command and cut of the past, and at or above the clock.
  FD2  Bins stay where the manifest has them, because their files are there; sink groups and
       partitions have no files and are dealt out anew, so their owners may be fewer or more.
  FD3  Without a manifest, bins are dealt out in equal runs: worker w owns bins b with b*W//B == w.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from service.dataflow.row_vertices import DelayVertex
from service.errors import FormatMismatch, MegaphoneError, ProtocolViolation, UsageError
from service.migration.horizon import LogFollower
from service.migration.records import Generation, ManifestRecord, SlotBinding
from service.migration.reports import CheckpointedReport


@dataclass(frozen=True, slots=True)
class JobShape:
    """What the job is, as its command line and its flow say."""

    bins: int
    workers: int
    gateways: int
    #: Stateful vertices of the flow; each of them has all the bins.
    vertices: int
    #: Outputs are committed in this many groups, dealt out to the workers.
    sink_groups: int
    #: First offset to read of each partition of each input topic, where no manifest knows better.
    start: Mapping[str, list[int]]
    #: Read to the end offsets found at start, then stop.
    until_end: bool
    #: Vertices that keep rows of a time for a later one, outside of all bins.
    delays: tuple[DelayVertex, ...] = ()


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why the job cannot begin: what to raise and its sentence."""

    error: type[MegaphoneError]
    reason: str


def obstacle_of(job: JobShape, manifest: ManifestRecord) -> Obstacle | None:
    """Why the job cannot go on from `manifest`, if it cannot."""
    if manifest.bins != job.bins:
        return Obstacle(
            FormatMismatch,
            f"checkpoint {manifest.name} has {manifest.bins} bins and the job {job.bins}; their "
            f"number is fixed for the life of the state: start with --bins {manifest.bins}",
        )
    needed = max(manifest.bin_owners) + 1
    if needed > job.workers:
        homeless = sum(owner >= job.workers for owner in manifest.bin_owners)
        return Obstacle(
            UsageError,
            f"checkpoint {manifest.name} has {homeless} bins on workers that the job does not "
            f"have; start with --workers {needed}, publish a request of kind 'rescale' with "
            f"workers {job.workers}, stop when it has completed, and start again",
        )
    if set(manifest.positions) != set(job.start):
        return Obstacle(
            FormatMismatch,
            f"checkpoint {manifest.name} was made reading {_names(manifest.positions)}, the flow "
            f"reads {_names(job.start)}; run a changed flow under another --app",
        )
    for topic, positions in manifest.positions.items():
        if len(positions) > len(job.start[topic]):
            return Obstacle(
                FormatMismatch,
                f"topic {topic} had {len(positions)} partitions at checkpoint {manifest.name} and "
                f"has {len(job.start[topic])} now; run under another --app to begin anew",
            )
    return None


def found_generation(
    job: JobShape,
    manifest: ManifestRecord | None,
    log: LogFollower,
    slots: list[SlotBinding],
    *,
    now_us: int,
    lookahead_us: int,
) -> Generation:
    """The record with which the job begins or goes on.

    Args:
        job: what to run.
        manifest: what to go on from, `obstacle_of` which there is none; None: begin empty.
        log: has applied the accepted log, or what of it follows the manifest.
        slots: who plays which slot, in peer order.
        now_us: the controller's clock.
        lookahead_us: how far the first horizon lies beyond the first epoch.
    """
    past_number = log.generation.generation if log.generation is not None else 0
    past_cut = 0
    owners = [bin_ * job.workers // job.bins for bin_ in range(job.bins)]
    positions = {topic: list(offsets) for topic, offsets in job.start.items()}
    if manifest is not None:
        past_number = max(past_number, manifest.generation)
        past_cut = manifest.cut
        owners = list(manifest.bin_owners)
        for topic, known in manifest.positions.items():
            positions[topic][: len(known)] = known
    first_epoch = max(now_us, log.earliest_command, past_cut + 1)
    return Generation(
        generation=past_number + 1,
        clock=now_us,
        horizon=first_epoch + lookahead_us,
        first_epoch=first_epoch,
        bins=job.bins,
        workers=job.workers,
        gateways=job.gateways,
        slots=slots,
        bin_owners=owners,
        sink_owners=[group % job.workers for group in range(job.sink_groups)],
        partition_owners=_deal_partitions(positions, job.gateways),
        positions=positions,
        manifest=None if manifest is None else manifest.name,
        until_end=job.until_end,
        watermarks={} if manifest is None else dict(manifest.watermarks),
        partition_watermarks={} if manifest is None else dict(manifest.partition_watermarks),
    )


def manifest_of(
    generation: Generation,
    cut: int,
    parts: Mapping[int, CheckpointedReport],
    *,
    owners: list[int],
    log_offset: int,
    now_us: int,
    drained: bool = False,
) -> ManifestRecord:
    """The manifest of a generation as of a cut.

    Args:
        generation: what runs, or ran.
        cut: the epoch of its stop, or of a checkpoint.
        parts: what each peer reported, one per peer.
        owners: worker ordinal of each bin as of the cut.
        log_offset: where the next controller goes on reading the accepted log.
        now_us: the controller's clock.
        drained: whether all input there will be is in it.

    Raises:
        ProtocolViolation: a gateway reports a partition it does not read, or went back in it.
    """
    positions = {topic: list(offsets) for topic, offsets in generation.positions.items()}
    watermarks = dict(generation.watermarks)
    partitions: dict[str, list[int | None]] = {
        topic: [*known, *[None] * (len(positions[topic]) - len(known))]
        for topic, known in generation.partition_watermarks.items()
    }
    for peer, report in parts.items():
        for topic, partition, offset in report.positions:
            readers = generation.partition_owners.get(topic, [])
            if partition >= len(readers) or readers[partition] + generation.workers != peer:
                raise ProtocolViolation(f"peer {peer} does not read {topic}/{partition}")
            if offset < positions[topic][partition]:
                raise ProtocolViolation(f"peer {peer} went back in {topic}/{partition}")
            positions[topic][partition] = offset
        for topic, partition, watermark in report.partition_watermarks:
            if partition >= len(positions.get(topic, ())):
                raise ProtocolViolation(f"peer {peer} does not read {topic}/{partition}")
            known = partitions.setdefault(topic, [None] * len(positions[topic]))
            known[partition] = watermark
        # All workers tell the same of a vertex (EC2 of `event_clock`).
        watermarks.update(report.watermarks)
    return ManifestRecord(
        name=f"{generation.generation}-{cut}",
        generation=generation.generation,
        cut=cut,
        clock=now_us,
        bins=generation.bins,
        workers=generation.workers,
        gateways=generation.gateways,
        bin_owners=owners,
        sink_owners=generation.sink_owners,
        partition_owners=generation.partition_owners,
        log_offset=log_offset,
        positions=positions,
        files={
            generation.slots[worker].slot: parts[worker].files
            for worker in range(generation.workers)
        },
        drained=drained,
        watermarks=watermarks,
        partition_watermarks=partitions,
    )


def _deal_partitions(positions: Mapping[str, list[int]], gateways: int) -> dict[str, list[int]]:
    """Partitions of all topics in turn, so that gateways differ by one partition at most."""
    dealt: dict[str, list[int]] = {}
    next_gateway = 0
    for topic in sorted(positions):
        dealt[topic] = []
        for _ in positions[topic]:
            dealt[topic].append(next_gateway)
            next_gateway = (next_gateway + 1) % gateways
    return dealt


def _names(topics: Mapping[str, object]) -> str:
    return ", ".join(sorted(topics)) or "nothing"
