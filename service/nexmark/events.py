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
  N2  `encode` writes what `persons`, `auctions` and `bids` show: both read the same drawn fields.
  N3  A message's key is the id (bid: auction) as 8 bytes big-endian; its partition follows from
      the key alone, so all bids of an auction share one partition, in order.

Source: NEXMark (Tucker, Tufte, Papadimos, Maier 2002) as in the Beam generator; fields of issue
        "NEXMark, whole"; the Confluent wire format (0x00, schema id u32 big-endian, body).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib import resources

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.errors import UsageError
from service.nexmark import generator as kernels

PERSON = kernels.PERSON
AUCTION = kernels.AUCTION
BID = kernels.BID
SCHEMA_IDS = {"person": 1, "auction": 2, "bid": 3, "auction_bids": 4}

#: Field names per kind, in schema order; those in `_TEXT_FIELDS` are strings (with their place
#: in the table of texts), the others longs.
FIELDS: tuple[tuple[str, ...], ...] = (
    ("id", "name", "email_address", "credit_card", "city", "state", "date_time", "extra"),
    (
        *("id", "item_name", "description", "initial_bid", "reserve"),
        *("date_time", "expires", "seller", "category", "extra"),
    ),
    ("auction", "bidder", "price", "channel", "url", "date_time", "extra"),
)
_TEXT_FIELDS = {
    "name": kernels.NAME,
    "email_address": kernels.EMAIL,
    "credit_card": kernels.CARD,
    "city": kernels.CITY,
    "state": kernels.STATE,
    "item_name": kernels.ITEM,
    "description": kernels.DESCRIPTION,
    "channel": kernels.CHANNEL,
    "url": kernels.URL,
    "extra": kernels.EXTRA,
}
#: Upper bound of every knob but seed and first ids; the kernels draw below 2**31.
KNOB_MAX = 1 << 30
_COLUMNS = max(map(len, FIELDS))
_RUN_EVENTS_MAX = 1 << 20  # Offsets are 32 bits; the largest message has some 200 bytes.

_FIRST_NAMES = (
    *("Peter", "Paul", "Luke", "John", "Saul", "Vicky"),
    *("Kate", "Julie", "Sarah", "Deiter", "Walter"),
)
_LAST_NAMES = (
    *("Shultz", "Abrams", "Spencer", "White", "Bartels"),
    *("Walton", "Smith", "Jones", "Noris"),
)
_CITIES = (
    *("Phoenix", "Los Angeles", "San Francisco", "Boise", "Portland"),
    *("Bend", "Redmond", "Seattle", "Kent", "Cheyenne"),
)
_STATES = ("AZ", "CA", "ID", "OR", "WA", "WY")
_HOT_CHANNELS = ("Google", "Facebook", "Baidu", "Apple")


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
    #: Auctions that exist before event 0, with the first ids.
    state_keys: int = 0
    #: An auction is open for 1 .. this many milliseconds, uniform.
    auction_life_ms_max: int = 60_000
    person_lead: int = 0
    auction_lead: int = 0
    #: Events are shuffled inside groups of this size; no multiple of 953.
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
            group=self.out_of_order_group_size,
            opening=int(opening),
        )


_RANGES = {
    "seed": (0, (1 << 63) - 1),
    "bid_proportion": (0, KNOB_MAX),
    "first_person_id": (0, 1 << 62),
    "first_auction_id": (0, 1 << 62),
    "state_keys": (0, KNOB_MAX),
    "person_lead": (0, KNOB_MAX),
    "auction_lead": (0, KNOB_MAX),
}


@dataclass(frozen=True, slots=True)
class EncodedRun:
    """A run of events as Kafka messages, grouped by partition, in event order inside each group.

    Attributes:
        data: all messages, header and body, one behind the other.
        offsets: n + 1; message j is `data[offsets[j]:offsets[j + 1]]`.
        keys: n; 8 bytes big-endian each (N3).
        partition_starts: partitions + 1; partition p has messages `[p]` up to `[p + 1]`.
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

    def __init__(self, config: NexmarkConfig, *, opening: bool = False) -> None:
        """Prepare the stream of `config`, or with `opening` the bids that open loaded auctions.

        Opening bid i is the bid on auction i of the loaded ones, 0 <= i < `config.state_keys`.
        """
        self.config = config
        self._knobs = config.knobs(opening=opening)
        self._prices = _price_table()
        self._texts = _text_table()
        self._text_values = _text_values()
        self._bytes_max = max(map(self._message_bytes_max, FIELDS))

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
        rows = self._draw(numbers, times_ms)
        order = np.empty(n, dtype=np.int64)
        starts = np.empty(partitions + 1, dtype=np.int64)
        kernels.route(rows, order, starts)
        data = np.empty(n * self._bytes_max + kernels.BLOCK, dtype=np.uint8)
        offsets = np.empty(n + 1, dtype=np.int32)
        kernels.write(rows, self.kinds(numbers), order, self._texts, data, offsets)
        assert int(offsets[n]) <= len(data), "G4"
        return EncodedRun(data, offsets, rows[order, 0], starts, order)

    def _message_bytes_max(self, fields: tuple[str, ...]) -> int:
        """Longest message with these fields: what `encode` reserves for each (G4)."""
        lengths = np.diff(self._texts[1])
        total = kernels.HEADER_BYTES
        for name in fields:
            first, count = _TEXT_FIELDS.get(name, (0, 0))
            longest = lengths[first : first + count].max(initial=0)
            total += int(longest) if count else kernels.VARINT_BYTES_MAX
        return total

    def _draw(self, numbers: NDArray[np.int64], times_ms: NDArray[np.int64]) -> NDArray[np.int64]:
        assert len(numbers) == len(times_ms)
        rows = np.empty((len(numbers), _COLUMNS), dtype=np.int64)
        kernels.fields(numbers, times_ms, self._knobs, self._prices, rows)
        return rows

    def _columns(
        self, kind: int, numbers: NDArray[np.int64], times_ms: NDArray[np.int64]
    ) -> pa.RecordBatch:
        mine = self.kinds(numbers) == kind
        rows = self._draw(numbers[mine], times_ms[mine])
        columns = {}
        for position, name in enumerate(FIELDS[kind]):
            column = pa.array(rows[:, position])
            columns[name] = self._text_values.take(column) if name in _TEXT_FIELDS else column
        return pa.RecordBatch.from_pydict(columns)


def schema_text(record: str) -> str:
    """The Avro schema of `person`, `auction`, `bid` or `auction_bids`, as shipped."""
    file = resources.files("service.nexmark") / "schemas" / f"{SCHEMA_IDS[record]}.avsc"
    return file.read_text(encoding="utf-8")


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


def _word(kind: str, index: int, letters: int) -> str:
    digest = hashlib.sha256(f"{kind}/{index}".encode()).digest()
    return "".join(chr(ord("a") + byte % 26) for byte in digest[:letters])


def _card(index: int) -> str:
    digits = f"{int(hashlib.sha256(f'card/{index}'.encode()).hexdigest(), 16) % 10**16:016d}"
    return " ".join(digits[start : start + 4] for start in range(0, 16, 4))


def _texts() -> Iterator[tuple[tuple[int, int], list[str]]]:
    """Place in the table and entries of each text field; the stock of all texts ever sent."""
    yield kernels.NAME, [f"{first} {last}" for first in _FIRST_NAMES for last in _LAST_NAMES]
    yield (
        kernels.EMAIL,
        [f"{_word('user', i, 7)}@{_word('host', i, 5)}.com" for i in range(kernels.EMAIL[1])],
    )
    yield kernels.CARD, [_card(i) for i in range(kernels.CARD[1])]
    yield kernels.CITY, list(_CITIES)
    yield kernels.STATE, list(_STATES)
    yield kernels.ITEM, [_word("item", i, 6 + i % 10) for i in range(kernels.ITEM[1])]
    yield (
        kernels.DESCRIPTION,
        [
            " ".join(_word(f"text{part}", i, 4 + i % 5) for part in range(4))
            for i in range(kernels.DESCRIPTION[1])
        ],
    )
    channels = [f"channel-{i}" for i in range(kernels.CHANNEL[1] - kernels.HOT_CHANNELS)]
    yield kernels.CHANNEL, [*_HOT_CHANNELS, *channels]
    yield (
        kernels.URL,
        [f"https://www.nexmark.com/{_word('url', i, 5)}/item.htm" for i in range(kernels.URL[1])],
    )
    yield kernels.EXTRA, [_word("extra", i, i % 16) for i in range(kernels.EXTRA[1])]


def _text_values() -> pa.StringArray:
    values: list[str] = []
    for (first, count), entries in _texts():
        assert first == len(values), "texts stand where the kernels look for them"
        assert count == len(entries), "texts stand where the kernels look for them"
        values += entries
    assert len(values) == kernels.TEXTS
    return pa.array(values, type=pa.string())


def _text_table() -> kernels.Texts:
    """All texts as Avro strings, where each starts, and per kind the bit set of text fields."""
    encoded = []
    for text in _text_values().to_pylist():
        body = text.encode()
        assert len(body) < 64, "one length byte"
        encoded.append(bytes([len(body) << 1]) + body)
    starts = np.concatenate([[0], np.cumsum([len(text) for text in encoded])]).astype(np.int64)
    fields = [sum((name in _TEXT_FIELDS) << i for i, name in enumerate(kind)) for kind in FIELDS]
    table = np.frombuffer(b"".join(encoded) + bytes(kernels.BLOCK), dtype=np.uint8)
    return table, starts, np.array(fields, dtype=np.uint16)
