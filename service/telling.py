"""What a gateway or worker reports to the controller while it runs: bins moved, and its loads.

Flow: Member -> [Teller] -> reports for the controller, and figures for heartbeats. The shells hand
in the clock and send what comes back.

Invariants
  TE1  Loads are told once a second with up to 8,192 bins and more rarely with more, so that telling
       them costs the same whatever the number of bins.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from service.ids import Role
from service.member import Member
from service.migration.handover import CutReport
from service.migration.loads import load_report, sizes_of
from service.migration.reports import CopiedReport, LoadReport, MovedReport

_EVERY_US = 1_000_000
_BINS_EACH = 8_192


class Teller:
    """Reports of one member. Owned by its loop."""

    def __init__(self) -> None:
        """Nothing was told."""
        #: State that moved here since the start.
        self.bins_received = 0
        self.bytes_received = 0
        #: Rows folded into state a second, as of the last report of loads.
        self.updates_per_s = 0
        self._told_us: int | None = None

    def reports(self, member: Member, now_us: int) -> list[MovedReport | CopiedReport | LoadReport]:
        """What is to be told at `now_us` of the monotonic clock. Cost: O(bins), once a second."""
        reports: list[MovedReport | CopiedReport | LoadReport] = [
            self._moved(member, report, now_us) for report in member.take_reports()
        ]
        reports += [
            CopiedReport(vertex=report.vertex, number=report.number, left=report.left)
            for report in member.take_copy_reports()
        ]
        if member.slot.role is Role.WORKER and member.hosts:
            reports += self.loads(member, now_us)
        return reports

    def _moved(self, member: Member, report: CutReport, now_us: int) -> MovedReport:
        self.bins_received += report.bins
        self.bytes_received += report.bytes
        return MovedReport(
            vertex=report.vertex,
            cut=report.cut,
            bins=report.bins,
            bytes=report.bytes,
            rows=report.rows,
            # Rows that wait were stamped at or after the cut, by a clock that this one follows.
            wait_us=max(0, member.ticks.now_us(now_us) - report.cut),
        )

    def loads(self, member: Member, now_us: int) -> list[LoadReport]:
        """What a worker's bins hold and how often they change, if it is time to tell (TE1)."""
        bins = member.generation.bins
        if self._told_us is None:
            # What was counted until now was counted over a time that nobody knows.
            for host in member.hosts.values():
                host.meter.take()
            self._told_us = now_us
            return [self._load_report(member, np.zeros(bins))]
        elapsed_us = now_us - self._told_us
        if elapsed_us < _EVERY_US * max(1, bins // _BINS_EACH):
            return []
        self._told_us = now_us
        updates = np.zeros(bins)
        for host in member.hosts.values():
            updates += host.meter.take()
            host.store.rest()
        updates *= 1_000_000 / elapsed_us
        self.updates_per_s = int(updates.sum())
        return [self._load_report(member, updates)]

    def _load_report(self, member: Member, updates: NDArray[np.float64]) -> LoadReport:
        hosts = list(member.hosts.values())
        rows, size = sizes_of((host.store for host in hosts), member.generation.bins)
        return load_report(hosts[0].installed, rows, size, updates)
