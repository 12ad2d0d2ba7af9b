"""Worlds with event time whose moves come from a real controller, and the same ones unmoved.

`TimedPlannedWorld` is a `TimedWorld` (timers, late rows, silent partitions) and a `PlannedWorld`
(requests of every kind at any moment) at once; checkpoints are requests as well, and every process
tells the controller its part. `UnmovedWorld` is told what the gateways of another world were told,
tick by tick, in the same epochs, and none of its bins moves: what it gives is what the run without
plans gives, for any flow whose results follow from rows, epochs and watermarks.

Checked beside what both kinds of worlds check
  TP1  W at each cut, as every worker that took part tells it, is the one foretold.
  TP2  A checkpoint that was accepted is completed, or was aborted by the stop.
  TP3  Rows of each key leave each sink as in the run without plans, and those of a key whose state
       is in one bin in the same order.
What it cannot catch: what the bases cannot; see tests/simulation/timed_world.py and `planned`.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import megaphone as mp
from service.dataflow.event_time import Watermarks
from service.dataflow.flow import Flow, Stream
from service.dataflow.vertices import KafkaSink, KafkaSource
from service.dataflow.worker import WorkerLimits
from service.ingest.source import ReadRows
from service.migration.handover import CopyReport, CutReport
from service.migration.records import Promise, RequestState, Stop
from service.migration.timed_host import TimedHost
from service.statestore.timed import NEVER
from tests.simulation.flows import COLUMNS, FlowUnderTest
from tests.simulation.planned import FINAL, PlannedWorld
from tests.simulation.timed_world import ALLOWED, MAX_CUT, Foretold, TimedWorld
from tests.simulation.world import BEHIND_MAX, Shape


@dataclass(frozen=True)
class Ticked:
    """What one tick of a gateway closed, and the watermark that it had told by then."""

    gateway: int
    epoch: int
    reads: tuple[ReadRows, ...]
    told: int | None


def _source(flow: Flow) -> Stream:
    return flow.source(
        "bids",
        KafkaSource(["events"], "bid", COLUMNS.names),
        watermarks=Watermarks("price", out_of_orderness=f"{ALLOWED}ms", idle_after="1ms"),
    )


def _sunk(stream: Stream, name: str, key: str) -> None:
    stream.sink(name, KafkaSink(name, key=key, schema=4))


def _windows() -> Flow:
    flow = Flow("windows")
    bids = _source(flow)
    keyed = bids.key_by("auction")
    sliding = keyed.window(mp.sliding("12ms", every="4ms"), allowed_lateness="6ms")
    counts = sliding.aggregate("counts", n=mp.count(), top=mp.highest("price"))
    busiest = counts.window(mp.given()).top("busiest", by="n")
    _sunk(counts, "counted", "auction")
    _sunk(busiest, "busiest out", "window_start")
    _sunk(counts.late("late"), "late out", "auction")
    return flow


def _sessions() -> Flow:
    flow = Flow("sessions")
    keyed = _source(flow).key_by("auction")
    visits = keyed.window(mp.session("8ms")).aggregate("visits", n=mp.count())
    best = keyed.window(mp.tumbling("10ms")).top("best", by="date_time")
    _sunk(visits, "visits out", "auction")
    _sunk(visits.late("late"), "late out", "auction")
    _sunk(best, "best out", "auction")
    return flow


def _unjudged(build: Callable[[], Flow]) -> FlowUnderTest:
    return FlowUnderTest(build, lambda outputs, stamped: None, lambda stamped: {})


def windows() -> FlowUnderTest:
    """Overlapping windows of each key that may be given again, and the busiest keys of each."""
    return _unjudged(_windows)


def sessions() -> FlowUnderTest:
    """Sessions of each key, and beside them the latest row of each window."""
    return _unjudged(_sessions)


#: The column of each sink that says whose a row is.
KEYS = {
    "out": "auction",
    "totals out": "group",
    "totals late out": "group",
    "late out": "auction",
    "counted": "auction",
    "busiest out": "window_start",
    "visits out": "auction",
    "best out": "auction",
}
#: Sinks for which a key's rows come from several bins, so in any order.
APART = {"busiest out"}


class TimedPlannedWorld(TimedWorld, PlannedWorld):
    """One job with event time and a controller under one seed."""

    def __init__(self, seed: int, shape: Shape) -> None:
        """Build all members; nothing has happened yet."""
        self.ticks: list[Ticked] = []
        self._offered: list[list[ReadRows]] = [[] for _ in range(shape.gateways)]
        #: (cut, vertex, W) as members told their parts.
        self.marked: list[tuple[int, str, int]] = []
        #: By request: the strategy it asked for.
        self.strategies: dict[str, str] = {}
        super().__init__(seed, shape)
        # The machine stops the job, and its stop is a plain one.
        self.drain = False

    def _rows(self, gateway: int) -> ReadRows:
        read = super()._rows(gateway)
        self._offered[gateway].append(read)
        return read

    def _gateway(self) -> bool:
        told = len(self.words)
        did = super()._gateway()
        for epoch, gateway, watermark in self.words[told:]:
            reads = tuple(self._offered[gateway])
            self.ticks.append(Ticked(gateway, epoch, reads, watermark))
            self._offered[gateway].clear()
        return did

    def _ask(self, body: dict[str, object]) -> None:
        super()._ask(body)
        if "strategy" in body:
            self.strategies[str(self._requests)] = str(body["strategy"])

    def _checkpoint(self) -> None:
        self._ask({"kind": "checkpoint"})
        self.no_plans.add(str(self._requests))
        self._publish_log()

    def _was_cut(self, cut: int) -> None:
        self.cuts.append(cut)

    def _told(self, peer: int, reports: list[CutReport], copies: list[CopyReport]) -> None:
        super()._told(peer, reports, copies)
        member = self.members[peer]
        parts = member.cuts
        cut = parts.first
        if cut is None or not (parts.is_copied(cut) and parts.is_passed(cut)):
            return
        for vertex, host in member.hosts.items():
            if peer < self.shape.workers and isinstance(host, TimedHost):
                self.marked.append((cut, vertex, host.watermark_at(cut)))
        parts.take_frozen(cut)
        self._reports.append((peer, parts.part(cut, None)))
        parts.done(cut)

    # Checks -------------------------------------------------------------------------------------

    def check_requests(self) -> None:
        """WO9, WO10 and TP2."""
        super().check_requests()
        newest = {status.id: status for status in self.statuses}
        for identity in self.no_plans:
            status = newest[identity]
            assert status.state in {*FINAL, RequestState.REJECTED}, f"TP2: {status}"
            if status.state is RequestState.ABORTED:
                assert "stop" in str(status.reason), f"TP2: {status}"

    def _check_windows(self, foretold: Foretold) -> None:
        if self.shape.flow.build().name == "timed":
            super()._check_windows(foretold)
        else:
            # Others are judged by the run without plans (TP3).
            self._check_watermarks(foretold)

    def _check_watermarks(self, foretold: Foretold) -> None:
        told = [*self.marked]
        for member in self.members[: self.shape.workers]:
            for vertex, host in member.hosts.items():
                assert isinstance(host, TimedHost)
                told.append((MAX_CUT, vertex, host.watermark_at(MAX_CUT)))
        for cut, vertex, watermark in told:
            known = [at for epoch, at in foretold.watermarks if epoch < cut]
            assert watermark == (known[-1] if known else NEVER), f"TP1: W of {vertex} at {cut}"

    def completed(self) -> Counter[str]:
        """How many plans that moved something came to their end, by strategy."""
        newest = {status.id: status for status in self.statuses}
        return Counter(
            strategy
            for identity, strategy in self.strategies.items()
            if newest[identity].state is RequestState.COMPLETED and newest[identity].waves
        )


class UnmovedWorld(TimedWorld):
    """What a world was told, told to a job without a controller's plans."""

    #: Ticks wait for promises, one after the other.
    patience = 5

    def __init__(self, told: TimedPlannedWorld) -> None:
        """Build all members; `told` has run to its end."""
        assert told.stop is not None, "the other world has ended"
        self._ticks = deque(told.ticks)
        self._stop = told.stop
        # With room for everything: a word that has to wait is another one.
        shape = replace(told.shape, waves=0, copies=False, limits=WorkerLimits())
        super().__init__(told.seed, shape)
        self.drain = told.drain

    def _control(self) -> bool:
        """Promise just as far as the next tick needs; after the last one, stop where they did."""
        if self.stop is not None or len(self.log) - min(self.read) > BEHIND_MAX:
            return False
        if not self._ticks:
            self.stop = Stop(at=self._stop.at, drain=self.drain, clock=self.clock)
            self.log.append(self.stop)
            return True
        epoch = self._ticks[0].epoch
        if self.horizon > epoch:
            return False
        self.clock = max(self.clock, epoch)
        self.horizon = self.clock + 1
        self.log.append(Promise(horizon=self.horizon, clock=self.clock))
        return True

    def _gateway(self) -> bool:
        """Let the next tick be as it was, once its gateway has read that it may be."""
        if not self._ticks:
            return False
        tick = self._ticks[0]
        peer = self.shape.workers + tick.gateway
        member = self.members[peer]
        if member.follower.horizon <= tick.epoch:
            return False
        self._ticks.popleft()
        source = member.sources["bids"]
        for read in tick.reads:
            source.offer(read)
        words = source.words
        assert words is not None, "the source has event time"
        assert words._partitions is not None, "every gateway has a partition"
        words._partitions.watermark = lambda *_: tick.told  # type: ignore[method-assign]  # by ticks
        member.ticks.observe(tick.epoch, 0)
        assert member.tick(0), "the horizon has been read"
        assert (member.ticks.last, words._told) == (tick.epoch, tick.told), "as it was"
        self.awake.add(peer)
        return True


def check_unmoved(world: TimedPlannedWorld) -> None:
    """TP3, after `run` and `check`."""
    unmoved = UnmovedWorld(world)
    unmoved.run()
    found, expected = _by_key(world), _by_key(unmoved)
    for place in sorted(found.keys() | expected.keys()):
        rows, others = found.get(place, []), expected.get(place, [])
        if place[0] in APART:
            rows, others = sorted(rows), sorted(others)
        assert rows == others, f"TP3, seed {world.seed}: {place}: {rows}, not {others}"


def _by_key(world: TimedWorld) -> dict[tuple[str, int], list[tuple[int, ...]]]:
    """Rows of each key of each sink, in the order in which they left."""
    found: dict[tuple[str, int], list[tuple[int, ...]]] = defaultdict(list)
    for sink, rows in world.outputs.items():
        for row in rows:
            found[sink, row[KEYS[sink]]].append(tuple(row.values()))
    return dict(found)
