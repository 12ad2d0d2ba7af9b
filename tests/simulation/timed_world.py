"""A world whose flow has event time: windows by hand in two stages, foretold from what was told.

The seed decides how far out of order rows are, when a partition was read to its end, when bins move
and where checkpoints are cut. A row's price is its event time. What comes out is computed anew from
the rows with their epochs and the words that the gateways spoke, epoch by epoch, as the design says
it; it knows nothing of bins, moves and frontiers.

Checked at the end, beside what `World` checks
  TW1  The windows of both stages, with a digest that depends on the order of their rows and on the
       watermark each row and each timer saw, are those foretold; of a key in the order of time.
  TW2  The late rows of the first stage are those foretold, and the second has none.
  TW3  State that is left, and W at each checkpoint and at the end, are those foretold.
  TW4  Each partition's watermark is that of the rows stamped (PW1).
What it cannot catch: a partition's end told wrongly, and the shells; see tests/simulation/world.py.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pyarrow as pa

from service.dataflow.event_time import Watermarks
from service.dataflow.flow import Flow, Stream
from service.dataflow.vertices import KafkaSink, KafkaSource
from service.ingest.source import ReadRows
from service.member import Member
from service.migration.records import Checkpoint
from service.migration.timed_host import TimedHost
from service.statestore.process_program import KeyTimers
from service.statestore.timed import ALL, NEVER
from tests.simulation.flows import COLUMNS, GROUPS, FlowUnderTest
from tests.simulation.world import Shape, World

WIDTH, WIDE = 10, 30
ALLOWED = 10
_MODULUS = (1 << 31) - 1

#: End of a window -> count and digest of its rows.
Open = dict[int, tuple[int, int]]


def _ends(time: int, width: int) -> int:
    return (time // width + 1) * width


def _taken(windows: Open, price: int, watermark: int) -> int:
    """Put a row into its window; returns the window's end."""
    end = _ends(price, WIDTH)
    count, digest = windows.get(end, (0, 0))
    windows[end] = count + 1, (digest * 31 + price * 7 + watermark) % _MODULUS
    return end


def _on_row(windows: Open, price: int, timers: KeyTimers) -> tuple[Open, None]:
    timers.set(_taken(windows, price, timers.watermark))
    return windows, None


def _on_end(
    windows: Open, timers: KeyTimers
) -> tuple[Open | None, list[tuple[int, int, int, int]]]:
    count, digest = windows.pop(timers.now)
    return windows or None, [(timers.now - 1, count, digest, timers.watermark)]


def _on_count(
    totals: dict[int, int], row: tuple[int, int], timers: KeyTimers
) -> tuple[object, None]:
    price, count = row
    end = _ends(price, WIDE)
    totals[end] = totals.get(end, 0) + count
    timers.set(end)
    return totals, None


def _on_wide_end(totals: dict[int, int], timers: KeyTimers) -> tuple[object, list[tuple[int, int]]]:
    total = totals.pop(timers.now)
    return totals or None, [(timers.now, total)]


def _group(rows: pa.RecordBatch) -> pa.RecordBatch:
    keys = pa.array(rows.column("auction").to_numpy() % GROUPS)
    return pa.RecordBatch.from_arrays(
        [keys, rows.column("price"), rows.column("count")], ["group", "price", "count"]
    )


def _sunk(stream: Stream, name: str, key: str) -> None:
    stream.sink(name, KafkaSink(name, key=key, schema=4))


def _build() -> Flow:
    flow = Flow("timed")
    bids = flow.source(
        "bids",
        KafkaSource(["events"], "bid", COLUMNS.names),
        watermarks=Watermarks("price", out_of_orderness=f"{ALLOWED}ms", idle_after="1ms"),
    )
    four = ("price", "count", "digest", "fired")
    windows = bids.key_by("auction").process(
        "windows",
        _on_row,
        _on_end,
        value="price",
        initial=dict,
        schema={name: pa.int64() for name in four},
    )
    groups = windows.map_batches("group", _group, columns=["group", "price", "count"])
    totals = groups.key_by("group").process(
        "totals",
        _on_count,
        _on_wide_end,
        value=["price", "count"],
        initial=dict,
        schema={"end": pa.int64(), "total": pa.int64()},
    )
    _sunk(windows, "out", "auction")
    _sunk(windows.late("late"), "late out", "auction")
    _sunk(totals, "totals out", "group")
    _sunk(totals.late("totals late"), "totals late out", "group")
    return flow


def timed() -> FlowUnderTest:
    """The flow; `TimedWorld` judges it."""
    return FlowUnderTest(_build, lambda outputs, stamped: None, lambda stamped: {})


@dataclass
class Foretold:
    """What the rows and the words lead to."""

    windows: Counter[tuple[int, ...]] = field(default_factory=Counter)
    late: Counter[tuple[int, int]] = field(default_factory=Counter)
    totals: Counter[tuple[int, ...]] = field(default_factory=Counter)
    #: Keys of each stage with an open window.
    left: dict[str, int] = field(default_factory=dict)
    #: (epoch, W at it), ascending, the end of all input left out.
    watermarks: list[tuple[int, int]] = field(default_factory=list)


class TimedWorld(World):
    """One job with event time under one seed."""

    def __init__(self, seed: int, shape: Shape) -> None:
        """Build all members; nothing has happened yet."""
        self.drain = bool(seed % 2)
        #: (epoch, gateway, watermark) of what every gateway had told by each of its ticks.
        self.words: list[tuple[int, int, int | None]] = []
        #: How far the event time of each gateway's rows has come.
        self._far = [0] * shape.gateways
        self._ended = [False] * shape.gateways
        self.cuts: list[int] = []
        super().__init__(seed, shape)
        self._disorder = self.random.choice((0, 8, 16))

    def _member(self, peer: int) -> Member:
        member = super()._member(peer)
        gateway = peer - self.shape.workers
        if gateway >= 0:
            words = member.sources["bids"].words
            assert words is not None
            words.at_end = lambda _: self._ended[gateway]
        return member

    def _rows(self, gateway: int) -> ReadRows:
        rows = []
        for _ in range(self.random.randrange(1, 20)):
            key = self.random.randrange(self.shape.keys) * self.shape.gateways + gateway
            self._far[gateway] += self.random.randrange(3)
            rows.append((key, self._far[gateway] - self.random.randrange(1 + self._disorder)))
        self.unstamped[gateway] += rows
        self.rows_read[gateway] += len(rows)
        columns = [pa.array([row[place] for row in rows]) for place in (0, 1, 1)]
        which = ("events", gateway)
        return ReadRows(
            pa.RecordBatch.from_arrays(columns, schema=COLUMNS),
            {which: self.rows_read[gateway]},
            {which: max(price for _, price in rows) - ALLOWED},
        )

    def _gateway(self) -> bool:
        gateways = range(self.shape.gateways)
        if self.random.random() < 0.1:
            self._ended[self.random.choice(gateways)] ^= True
        members = self.members[self.shape.workers :]
        before = [member.ticks.last for member in members]
        did = super()._gateway()
        for gateway in gateways:
            last = members[gateway].ticks.last
            if last > before[gateway]:
                words = members[gateway].sources["bids"].words
                assert words is not None
                self.words.append((last, gateway, words._told))
        return did

    def _control(self) -> bool:
        did = super()._control()
        if did and self.stop is None and self.random.random() < 0.05:
            self._checkpoint()
        return did

    def _checkpoint(self) -> None:
        """Let a checkpoint be cut."""
        self.cut = max(self.cut, self.horizon) + self.random.randrange(1, 100)
        self.cuts.append(self.cut)
        self.log.append(Checkpoint(at=self.cut, clock=self.clock))

    def foretold(self) -> Foretold:
        """What must come out."""
        told, found = list(self.words), Foretold()
        assert self.stop is not None
        if self.drain:
            told += [(self.stop.at - 1, gateway, ALL) for gateway in range(self.shape.gateways)]
        newest: dict[int, int | None] = dict.fromkeys(range(self.shape.gateways), NEVER)
        watermark = NEVER
        windows: dict[int, Open] = {}
        totals: dict[int, dict[int, int]] = {}
        for epoch in sorted({each[0] for each in told} | {each[0] for each in self.timed}):
            before = watermark
            newest |= {gateway: value for at, gateway, value in told if at == epoch}
            live = [value for value in newest.values() if value is not None]
            watermark = max(before, min(live, default=before))
            for _, key, price in sorted(each for each in self.timed if each[0] == epoch):
                if price < before:
                    found.late[key, price] += 1
                else:
                    _taken(windows.setdefault(key, {}), price, before)
            due = [(end, key) for key, each in windows.items() for end in each if end <= watermark]
            for end, key in sorted(due):
                count, digest = windows[key].pop(end)
                found.windows[key, end - 1, count, digest, watermark] += 1
                assert end - 1 >= before, "what a stage gives is never late to the next one"
                group = totals.setdefault(key % GROUPS, {})
                group[_ends(end - 1, WIDE)] = group.get(_ends(end - 1, WIDE), 0) + count
            for key, group in totals.items():
                for end in sorted(end for end in group if end <= watermark):
                    found.totals[key, end, group.pop(end)] += 1
            if watermark != ALL:
                found.watermarks.append((epoch, watermark))
        found.left = {
            "windows": sum(map(bool, windows.values())),
            "totals": sum(map(bool, totals.values())),
        }
        return found

    def check(self) -> int:
        """What `World` checks, and TW1 to TW4."""
        compared = super().check()
        with self._named():
            self._check_windows(self.foretold())
        return compared

    def _check_windows(self, foretold: Foretold) -> None:
        out = self.outputs.get("out", [])
        found = Counter(tuple(row.values()) for row in out)
        assert found == foretold.windows, (
            f"TW1: {found - foretold.windows} {foretold.windows - found}"
        )
        latest: dict[int, int] = {}
        for row in out:
            assert row["price"] > latest.get(row["auction"], NEVER), "TW1: order"
            latest[row["auction"]] = row["price"]
        totals = Counter(tuple(row.values()) for row in self.outputs.get("totals out", []))
        assert totals == foretold.totals, "TW1: second stage"
        late = Counter((row["auction"], row["price"]) for row in self.outputs.get("late out", []))
        assert late == foretold.late, "TW2"
        assert not self.outputs.get("totals late out"), "TW2: second stage"
        for vertex, keys in foretold.left.items():
            left = sum(member.hosts[vertex].store.row_count for member in self.members)
            assert left == keys, f"TW3: {left} keys of {vertex}, not {keys}"
        self._check_watermarks(foretold)

    def _check_watermarks(self, foretold: Foretold) -> None:
        for member in self.members[: self.shape.workers]:
            for host in member.hosts.values():
                assert isinstance(host, TimedHost)
                for cut in [*self.cuts, MAX_CUT]:
                    known = [at for epoch, at in foretold.watermarks if epoch < cut]
                    expected = known[-1] if known else NEVER
                    assert host.watermark_at(cut) == expected, f"TW3: W at {cut}"
                assert set(host.cutting.frozen) == set(self.cuts), "TW3: copies"
        for gateway in range(self.shape.gateways):
            source = self.members[self.shape.workers + gateway].sources["bids"]
            times = [price for _, key, price in self.timed if key % self.shape.gateways == gateway]
            which = ("events", gateway)
            expected_at = {which: max(times) - ALLOWED} if times else {}
            assert source.watermarks == expected_at, "TW4"


#: Beyond every epoch.
MAX_CUT = ALL
