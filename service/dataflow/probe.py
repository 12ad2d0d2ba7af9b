"""A place in a flow whose progress can be asked for.

Flow: `stream.probe()` -> [Probe] -> whoever runs the flow, by the vertex's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from service.dataflow.progress.antichain import Antichain


class Progress(Protocol):
    """What runs a flow and knows how far it is; `service.member.Member` is one."""

    @property
    def places(self) -> Mapping[str, int]:
        """Location of each vertex's output, by the vertex's name."""
        ...

    def frontier_at(self, location: int) -> Antichain:
        """Times that may still leave there, over all processes."""
        ...


@dataclass(frozen=True)
class Probe:
    """The output of one vertex, over all processes of the job.

    What has left it may still be on its way to the next vertex; to know that rows were taken there,
    probe that one.
    """

    #: Name of the vertex.
    vertex: str

    def epoch(self, job: Progress) -> int | None:
        """The oldest epoch that may still leave the vertex; None: nothing can any more."""
        return job.frontier_at(job.places[self.vertex]).epoch()

    def passed(self, job: Progress, epoch: int) -> bool:
        """Whether nothing of `epoch`, or before it, can leave the vertex any more."""
        return job.frontier_at(job.places[self.vertex]).reached(epoch + 1)
