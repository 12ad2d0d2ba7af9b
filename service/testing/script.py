"""A test as a list: rows of each source, with markers between them.

Flow: {source: [rows, move(...), rows, crash(), restart(), rows]} -> [run] -> Cluster -> rows of
each sink.

Invariants
  SR1  Steps happen in the order listed; lists of several sources are gone through side by side,
       first item of each, then the second of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa

from service.dataflow.flow import Flow
from service.errors import UsageError
from service.ingest.shape import Columns, Rows
from service.testing.cluster import Cluster


@dataclass(frozen=True, slots=True)
class Marker:
    """Something that happens to the job between two inputs; made by the functions below."""

    #: Method of `Cluster` that it stands for.
    call: str
    arguments: tuple[object, ...] = ()
    options: tuple[tuple[str, object], ...] = ()

    def apply(self, cluster: Cluster) -> None:
        """Let it happen."""
        getattr(cluster, self.call)(*self.arguments, **dict(self.options))


def move(
    bins: Sequence[int],
    to: int,
    *,
    strategy: str | None = None,
    batch: int | None = None,
    wait: bool = True,
) -> Marker:
    """Here `bins` move to worker `to`; with `wait=False` while what follows is read."""
    options = (("strategy", strategy), ("batch", batch), ("wait", wait))
    return Marker("move", (tuple(bins), to), options)


def rescale(
    workers: int, *, strategy: str | None = None, batch: int | None = None, wait: bool = True
) -> Marker:
    """Here all bins are spread evenly over so many workers."""
    return Marker("rescale", (workers,), (("strategy", strategy), ("batch", batch), ("wait", wait)))


def advance(ms: float) -> Marker:
    """Here the clock goes on."""
    return Marker("advance", (ms,))


def stop() -> Marker:
    """Here the job stops plainly and keeps its state."""
    return Marker("stop")


def crash() -> Marker:
    """Here every process is lost, with all since the last plain stop."""
    return Marker("crash")


def restart(*, workers: int | None = None, gateways: int | None = None) -> Marker:
    """Here the job starts again, from its last plain stop."""
    return Marker("restart", (), (("workers", workers), ("gateways", gateways)))


#: One row, some rows, or a marker.
Step: TypeAlias = Mapping[str, object] | Sequence[Rows] | pa.RecordBatch | pa.Table | Marker


def run(
    flow: Flow,
    inputs: Mapping[str, Sequence[Step]] | None = None,
    *,
    workers: int = 2,
    gateways: int = 1,
    bins: int = 16,
    schemas: Mapping[str, Columns] | None = None,
    registry: str | Path | None = None,
    schedule: int | None = None,
) -> dict[str, list[dict[str, object]]]:
    """Run a flow over listed inputs and return what its sinks got.

    Args:
        flow: what to test, unchanged.
        inputs: for each source what it reads, with markers between: `move`, `rescale`, `advance`,
            `stop`, `crash`, `restart`. An item is a row, a list of rows, a record batch, or a
            marker, which concerns the whole job.
        workers: how many, at first.
        gateways: how many, at first.
        bins: pieces of keyed state, a power of two.
        schemas: columns of sources by name; see `Cluster`.
        registry: folder of `<id>.avsc` files; see `Cluster`.
        schedule: a seed that decides in which order everything happens; see `Cluster`.

    Returns:
        Rows of each sink by its name, in the order others see them. A job that is up at the end
        finishes the moves under way and stops plainly first.

    Raises:
        UsageError: a source that the flow does not have, or a marker that cannot be.
        GraphError: the flow cannot run, or a row does not fit.
        UserFunctionError: a function of the flow raised.

    Example:
        A crash: what was not in a checkpoint is read again, and its results come again.

        >>> import megaphone as mp
        >>> from megaphone.testing import crash, restart, run
        >>> flow = mp.Flow("bids")
        >>> bids = flow.source("bids", mp.KafkaSource(["bids"], record="bid", fields=["auction"]))
        >>> counts = bids.key_by("auction").aggregate("counts", bids=mp.count())
        >>> _ = counts.sink("out", mp.KafkaSink("counts", key="auction", schema=1))
        >>> seen = run(flow, {"bids": [{"auction": 7}, crash(), restart(), {"auction": 7}]})
        >>> [row["bids"] for row in seen["out"]]
        [1, 1, 2]
    """
    given = dict(inputs or {})
    with Cluster(
        flow,
        workers=workers,
        gateways=gateways,
        bins=bins,
        schemas=schemas,
        registry=registry,
        schedule=schedule,
    ) as cluster:
        for place in range(max(map(len, given.values()), default=0)):
            for source, steps in given.items():
                if place < len(steps):
                    _take(cluster, source, steps[place])
        if cluster.is_up:
            cluster.finish()
        return {sink: cluster.output(sink) for sink in cluster.sinks}


def _take(cluster: Cluster, source: str, step: Step) -> None:
    if isinstance(step, Marker):
        step.apply(cluster)
    elif isinstance(step, Mapping | pa.RecordBatch | pa.Table):
        cluster.send(source, [step])
    elif isinstance(step, Sequence) and not isinstance(step, str | bytes):
        cluster.send(source, step)
    else:
        raise UsageError(
            f"{step!r} in the list of {source!r} is no row, no list of rows and no marker"
        )
