"""NEXMark events: event n of the stream, as columns or as Kafka messages.

Flow: schedule's event numbers and times -> [EventSource] -> RecordBatches (oracle, benches in
memory) or an EncodedRun grouped by partition (load generator) -> Kafka.

The stream repeats a cycle of 50 events: 1 person, 3 auctions, 46 bids. Half of the bids go to one
hot auction, which changes with every hundredth new auction; the others are uniform over the last
`in_flight_auctions`. `state_keys` auctions exist before the stream begins; each gets one opening
bid, numbered by itself. With `in_flight_auctions = state_keys` (`with_state`) the stream's bids
touch all the keys loaded.

Invariants
  N1  Event n is a function of (knobs, n, its date_time); see `generator` G1. Same bytes everywhere.
  N2  `encode` writes, in any form, what `persons`, `auctions` and `bids` show: both read the same
      drawn fields.
  N3  A message's key is the id (bid: auction) as 8 bytes big-endian; its partition follows from
      the key alone, so all bids of an auction share one partition, in order.

Source: NEXMark (Tucker, Tufte, Papadimos, Maier 2002) as in the Beam generator; fields of issue
        "NEXMark, whole".
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.errors import UsageError
from service.nexmark import generator as kernels
from service.nexmark import writing
from service.nexmark.copying import BLOCK, copy_block
from service.nexmark.forms import Format, Times, Topics
from service.nexmark.texts import TEXT_FIELDS, TEXTS
from service.nexmark.wire import FIELDS, SCHEMA_IDS, Wire, message_bytes_max, plan_of, schema_text

__all__ = [
    "BLOCK",
    "AUCTION",
    "BID",
    "FIELDS",
    "KNOB_MAX",
    "PERSON",
    "SCHEMA_IDS",
    "EncodedRun",
    "EventSource",
    "Format",
    "KnobError",
    "NexmarkConfig",
    "Times",
    "Topics",
    "UsageError",
    "Wire",
    "copy_block",
    "schema_text",
]

PERSON = kernels.PERSON
AUCTION = kernels.AUCTION
BID = kernels.BID
#: Upper bound of every knob but seed and first ids; the kernels draw below 2**31.
KNOB_MAX = 1 << 30
_COLUMNS = max(map(len, FIELDS))
_RUN_EVENTS_MAX = 1 << 20  # Offsets are 32 bits; no message has 700 bytes.


class KnobError(UsageError):
    """A NEXMark knob is out of its range."""

    def __init__(self, knob: str, value: int, must: str) -> None:
        """Name the `knob`, its `value` and what it `must` be."""
        super().__init__(f"NEXMark knob {knob} is {value}: must {must}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NexmarkConfig:
    """The knobs; defaults are Beam's where Beam has the knob.

    A hot ratio of r makes (r - 1) of r picks hot. Leads let references run ahead of the newest id,
    as Beam's lead of 10 does; 0 keeps every reference within what exists.

    Raises:
        KnobError: a knob out of range.
    """

    seed: int = 0
    person_proportion: int = 1
    auction_proportion: int = 3
    bid_proportion: int = 46
    hot_auction_ratio: int = 2
    hot_seller_ratio: int = 4
    hot_bidder_ratio: int = 4
    active_people: int = 1000
    in_flight_auctions: int = 100
    first_person_id: int = 1000
    first_auction_id: int = 1000
    first_category_id: int = 10
    categories: int = 5
    #: Auctions that exist before event 0, with the first ids.
    state_keys: int = 0
    #: An auction is open for 1 .. this many milliseconds, uniform.
    auction_life_ms_max: int = 60_000
    person_lead: int = 0
    auction_lead: int = 0
    #: Events are shuffled inside groups of this size, each with its own date_time; no multiple of
    #: 953.
    out_of_order_group_size: int = 1

    def __post_init__(self) -> None:
        """Check each knob against its range."""
        for name in self.__slots__:
            low, high = _RANGES.get(name, (1, KNOB_MAX))
            value = getattr(self, name)
            if not low <= value <= high:
                raise KnobError(name, value, f"be {low}..{high}")
        group = self.out_of_order_group_size
        if group % kernels.ORDER_STRIDE == 0:
            raise KnobError(
                "out_of_order_group_size", group, f"be no multiple of {kernels.ORDER_STRIDE}"
            )

    def with_state(self, keys: int) -> NexmarkConfig:
        """The same stream over `keys` auctions loaded before it, all of them in flight."""
        if keys == 0:
            return replace(self, state_keys=0)
        return replace(self, state_keys=keys, in_flight_auctions=keys)

    @property
    def cycle(self) -> int:
        """Events after which the kinds repeat."""
        return self.person_proportion + self.auction_proportion + self.bid_proportion

    def knobs(self, *, opening: bool) -> kernels.Knobs:
        """The knobs of the kernels: of the opening bids, or of the stream."""
        return kernels.Knobs(
            seed=self.seed,
            persons=self.person_proportion,
            auctions=self.auction_proportion,
            cycle=self.cycle,
            hot_auction=self.hot_auction_ratio,
            hot_seller=self.hot_seller_ratio,
            hot_bidder=self.hot_bidder_ratio,
            active_people=self.active_people,
            in_flight=self.in_flight_auctions,
            first_person=self.first_person_id,
            first_auction=self.first_auction_id,
            state_keys=self.state_keys,
            life_ms_max=self.auction_life_ms_max,
            person_lead=self.person_lead,
            auction_lead=self.auction_lead,
            first_category=self.first_category_id,
            categories=self.categories,
            group=self.out_of_order_group_size,
            opening=int(opening),
        )


_RANGES = {
    "seed": (0, (1 << 63) - 1),
    "bid_proportion": (0, KNOB_MAX),
    "first_person_id": (0, 1 << 62),
    "first_auction_id": (0, 1 << 62),
    "first_category_id": (0, 1 << 62),
    "state_keys": (0, KNOB_MAX),
    "person_lead": (0, KNOB_MAX),
    "auction_lead": (0, KNOB_MAX),
}


@dataclass(frozen=True, slots=True)
class EncodedRun:
    """A run of events as Kafka messages, by topic and partition, in the order given inside each.

    Attributes:
        data: all messages, header and body, one behind the other, and at least BLOCK bytes more.
        offsets: n + 1; message j is `data[offsets[j]:offsets[j + 1]]`.
        keys: n; 8 bytes big-endian each (N3).
        partition_starts: topics * partitions + 1; partition p of topic t has the messages `[g]` up
            to `[g + 1]`, g = t * partitions + p.
        order: n; message j is the event at `numbers[order[j]]` of the call.
    """

    data: NDArray[np.uint8]
    offsets: NDArray[np.int32]
    keys: NDArray[np.int64]
    partition_starts: NDArray[np.int64]
    order: NDArray[np.int64]

    def values(self) -> list[bytes]:
        """The n messages as objects. Cost: 60 ns each, a third of slicing one by one."""
        packed = pa.BinaryArray.from_buffers(
            pa.binary(),
            len(self.order),
            [None, pa.py_buffer(self.offsets), pa.py_buffer(self.data)],
        )
        values: list[bytes] = packed.to_numpy(zero_copy_only=False).tolist()
        return values

    def key_bytes(self) -> list[bytes]:
        """The n keys as objects. Cost: 20 ns each."""
        keys: list[bytes] = self.keys.astype(">i8").view("V8").tolist()
        return keys


class EventSource:
    """Event n as a function of n: `numbers` and `times_ms` in, fields or messages out.

    Every method takes `numbers` (n event numbers >= 0, any order) and `times_ms` (their date_time,
    epoch milliseconds) and keeps the order given.
    """

    def __init__(
        self, config: NexmarkConfig, *, opening: bool = False, wire: Wire | None = None
    ) -> None:
        """Prepare the stream of `config`, or with `opening` the bids that open loaded auctions.

        Opening bid i is the bid on auction i of the loaded ones, 0 <= i < `config.state_keys`.
        `wire` is the form of messages, by default Avro in one topic.
        """
        self.config = config
        self.wire = wire or Wire()
        self._knobs = config.knobs(opening=opening)
        self._prices = _price_table()
        self._topics = np.array(self.wire.topic_of_kind, dtype=np.int64)
        self._plan = plan_of(self.wire)
        #: No message is longer.
        self.message_bytes_max = message_bytes_max(self._plan)
        self._text_values = pa.array(TEXTS, type=pa.string())

    def events(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which event is sent as each number: a permutation inside each out-of-order group.

        An event's date_time is that of its own number, so what is sent out of order is dated so.
        """
        if self.config.out_of_order_group_size == 1:
            return numbers
        out = np.empty(len(numbers), dtype=np.int64)
        kernels.events(numbers, self._knobs, out)
        return out

    def kinds(self, numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Kind of each event: PERSON, AUCTION or BID."""
        out = np.empty(len(numbers), dtype=np.uint8)
        kernels.kinds(numbers, self._knobs, out)
        return out

    def persons(self, numbers: NDArray[np.int64], times_ms: NDArray[np.int64]) -> pa.RecordBatch:
        """The persons among the events, fields of schema 1."""
        return self._columns(PERSON, numbers, times_ms)

    def auctions(self, numbers: NDArray[np.int64], times_ms: NDArray[np.int64]) -> pa.RecordBatch:
        """The auctions among the events, fields of schema 2."""
        return self._columns(AUCTION, numbers, times_ms)

    def bids(self, numbers: NDArray[np.int64], times_ms: NDArray[np.int64]) -> pa.RecordBatch:
        """The bids among the events, fields of schema 3."""
        return self._columns(BID, numbers, times_ms)

    def encode(
        self, numbers: NDArray[np.int64], times_ms: NDArray[np.int64], partitions: int
    ) -> EncodedRun:
        """Write the events as Kafka messages for a topic of `partitions` partitions.

        Cost: one pass to draw, one to order, one to write; 0.1 µs per event, no Python per event.

        Raises:
            UsageError: more than 2**20 events at once.
        """
        n = len(numbers)
        if n > _RUN_EVENTS_MAX:
            raise UsageError(f"{n} events at once: encode at most {_RUN_EVENTS_MAX}")
        if n and self.wire.times is Times.ISO:
            self.wire.check_times(int(times_ms.min()), int(times_ms.max()))
        rows, kinds = self._draw(numbers, times_ms)
        order = np.empty(n, dtype=np.int64)
        groups = (int(self._topics.max()) + 1) * partitions
        starts = np.empty(groups + 1, dtype=np.int64)
        kernels.route(rows, kinds, self._topics, order, starts)
        data = np.empty(n * self.message_bytes_max + BLOCK, dtype=np.uint8)
        offsets = np.empty(n + 1, dtype=np.int32)
        writing.write(rows, kinds, order, self._plan, data, offsets)
        assert int(offsets[n]) <= n * self.message_bytes_max, "W2 of writing"
        return EncodedRun(data, offsets, rows[order, 0], starts, order)

    def _draw(
        self, numbers: NDArray[np.int64], times_ms: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        assert len(numbers) == len(times_ms)
        rows = np.empty((len(numbers), _COLUMNS), dtype=np.int64)
        kinds = np.empty(len(numbers), dtype=np.uint8)
        kernels.fields(numbers, times_ms, self._knobs, self._prices, rows, kinds)
        return rows, kinds

    def _columns(
        self, kind: int, numbers: NDArray[np.int64], times_ms: NDArray[np.int64]
    ) -> pa.RecordBatch:
        mine = self.kinds(numbers) == kind
        rows, _ = self._draw(numbers[mine], times_ms[mine])
        columns = {}
        for position, name in enumerate(FIELDS[kind]):
            column = pa.array(rows[:, position])
            columns[name] = self._text_values.take(column) if name in TEXT_FIELDS else column
        return pa.RecordBatch.from_pydict(columns)


def _price_table() -> NDArray[np.int64]:
    """Prices at 1,025 points of the log-uniform law 100 * 10**(6u), u = k / 1024.

    Only square roots and products, which IEEE 754 rounds exactly: no `pow`, whose last bit differs
    between libraries (N1).
    """
    points = np.full(kernels.PRICE_STEPS + 1, 100.0)
    root = 1e6
    u = np.arange(kernels.PRICE_STEPS + 1)
    points[-1] *= root
    for bit in reversed(range(kernels.PRICE_STEPS.bit_length() - 1)):
        root = float(np.sqrt(root))
        points[:-1] *= np.where(u[:-1] >> bit & 1, root, 1.0)
    table: NDArray[np.int64] = np.rint(points).astype(np.int64)
    return table
