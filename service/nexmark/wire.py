"""The forms in which NEXMark events travel: Avro or JSON, times as numbers or text, which topics.

Flow: options -> [Wire] -> Plan for the kernel `writing.write`, names of topics, schemas.
Pure but for `schema_text`, which reads a shipped file.

Three layouts of topics:

* combined: one topic `<prefix>-events` of three Avro records, told apart by their schema ids;
* separate: `<prefix>-person`, `<prefix>-auction`, `<prefix>-bid`;
* tagged: one topic `<prefix>-events` of records with `event_type` (0 person, 1 auction, 2 bid) and
  the members `person`, `auction` and `bid`, two of which are null.

Invariants
  WI1  A message in any form reads back to the same fields; `date_time` and `expires` are epoch
       milliseconds or ISO 8601 in UTC with milliseconds.
  WI2  JSON is compact, its fields in the order of the schema; Avro has the Confluent header.

Source: issue "NEXMark, whole"; the Confluent wire format (0x00, schema id u32 big-endian, body).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources

import numpy as np

from service.errors import UsageError
from service.nexmark import writing
from service.nexmark.copying import BLOCK
from service.nexmark.forms import Format, Times, Topics, check_told_apart
from service.nexmark.texts import TEXT_FIELDS, TEXTS

#: Of the shipped registry folder.
SCHEMA_IDS = {
    "person": 1,
    "auction": 2,
    "bid": 3,
    "auction_bids": 4,
    "event": 5,
    "person_iso": 6,
    "auction_iso": 7,
    "bid_iso": 8,
    "event_iso": 9,
}
RECORDS = ("person", "auction", "bid")
#: Field names per kind, in schema order; those in `TEXT_FIELDS` are strings, the others longs.
FIELDS: tuple[tuple[str, ...], ...] = (
    ("id", "name", "email_address", "credit_card", "city", "state", "date_time", "extra"),
    (
        *("id", "item_name", "description", "initial_bid", "reserve"),
        *("date_time", "expires", "seller", "category", "extra"),
    ),
    ("auction", "bidder", "price", "channel", "url", "date_time", "extra"),
)
_TIME_FIELDS = {"date_time", "expires"}
#: Times that four digits of a year can say, with room for the longest life of an auction.
_ISO_MS = (-62_135_596_800_000, 253_402_300_799_999 - (1 << 31))

_Step = tuple[bytes, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """One form of the stream.

    Raises:
        UsageError: combined JSON, whose records nobody could tell apart.
    """

    format: Format = Format.AVRO
    times: Times = Times.MS
    topics: Topics = Topics.COMBINED

    def __post_init__(self) -> None:
        """Refuse what cannot be read back."""
        check_told_apart(self.format, self.topics)

    def topic_names(self, prefix: str) -> tuple[str, ...]:
        """Names of the topics, in the order in which `topic_of_kind` counts."""
        if self.topics is Topics.SEPARATE:
            return tuple(f"{prefix}-{record}" for record in RECORDS)
        return (f"{prefix}-events",)

    @property
    def topic_of_kind(self) -> tuple[int, int, int]:
        """Which of the topics a person, an auction and a bid go to."""
        return (0, 1, 2) if self.topics is Topics.SEPARATE else (0, 0, 0)

    def check_times(self, least_ms: int, greatest_ms: int) -> None:
        """Refuse times that this form cannot say.

        Raises:
            UsageError: a time outside of the years 1 to 9999 as text.
        """
        if self.times is Times.ISO and not _ISO_MS[0] <= least_ms <= greatest_ms <= _ISO_MS[1]:
            raise UsageError(
                f"times {least_ms}..{greatest_ms} ms as ISO 8601: the years must be 1 to 9999"
            )


def schema_text(record: str) -> str:
    """The Avro schema called `record` in SCHEMA_IDS, as shipped."""
    file = resources.files("service.nexmark") / "schemas" / f"{SCHEMA_IDS[record]}.avsc"
    return file.read_text(encoding="utf-8")


def plan_of(wire: Wire) -> writing.Plan:
    """The plan that writes events in a form."""
    avro = wire.format is Format.AVRO
    steps = [_avro_steps(wire, kind) if avro else _json_steps(wire, kind) for kind in range(3)]
    literals = sorted({literal for of_kind in steps for literal, _, _ in of_kind})
    texts = [
        bytes([len(text) << 1]) + text.encode() if avro else json.dumps(text).encode()
        for text in TEXTS
    ]
    ready = [*literals, *texts]
    table = np.zeros((3, max(map(len, steps)), 3), dtype=np.int32)
    for kind, of_kind in enumerate(steps):
        for place, (literal, form, column) in enumerate(of_kind):
            table[kind, place] = literals.index(literal), form, column
    return writing.Plan(
        ready=np.frombuffer(b"".join(ready) + bytes(BLOCK), dtype=np.uint8),
        starts=np.concatenate([[0], np.cumsum(list(map(len, ready)))]).astype(np.int64),
        texts=len(literals),
        steps=table,
        counts=np.array(list(map(len, steps)), dtype=np.int32),
    )


def message_bytes_max(plan: writing.Plan) -> int:
    """The longest message that a plan can write (W2)."""
    lengths = np.diff(plan.starts)
    widths = {
        writing.NOTHING: 0,
        writing.VARINT: writing.VARINT_BYTES_MAX,
        writing.DECIMAL: writing.DECIMAL_BYTES_MAX,
        writing.TEXT: int(lengths[plan.texts :].max()),
        writing.ISO: writing.ISO_BYTES,
    }
    return max(
        sum(int(lengths[literal]) + widths[int(form)] for literal, form, _ in of_kind[:count])
        for of_kind, count in zip(plan.steps.tolist(), plan.counts.tolist())
    )


def _avro_steps(wire: Wire, kind: int) -> list[_Step]:
    suffix = "_iso" if wire.times is Times.ISO else ""
    tagged = wire.topics is Topics.TAGGED
    name = ("event" if tagged else RECORDS[kind]) + suffix
    # Long event_type, then a branch of each union: 0 is null, 1 (zigzag 2) the record.
    before = bytes([kind << 1, *[0] * kind, 2]) if tagged else b""
    literal = bytes(1) + SCHEMA_IDS[name].to_bytes(4, "big") + before
    steps: list[_Step] = []
    for column, field in enumerate(FIELDS[kind]):
        if field in TEXT_FIELDS:
            steps.append((literal, writing.TEXT, column))
        elif field in _TIME_FIELDS and suffix:
            length = bytes([writing.ISO_BYTES << 1])
            steps.append((literal + length, writing.ISO, column))
        else:
            steps.append((literal, writing.VARINT, column))
        literal = b""
    if tagged and kind < len(RECORDS) - 1:
        steps.append((bytes(len(RECORDS) - 1 - kind), writing.NOTHING, 0))
    return steps


def _json_steps(wire: Wire, kind: int) -> list[_Step]:
    tagged = wire.topics is Topics.TAGGED
    literal, end = "{", "}"
    if tagged:
        nulls = [f'"{record}":null' for record in RECORDS]
        before = "".join(f"{null}," for null in nulls[:kind])
        literal = f'{{"event_type":{kind},{before}"{RECORDS[kind]}":{{'
        end = "".join(["}", *(f",{null}" for null in nulls[kind + 1 :]), "}"])
    steps: list[_Step] = []
    for column, field in enumerate(FIELDS[kind]):
        literal += f'"{field}":'
        if field in TEXT_FIELDS:
            steps.append((literal.encode(), writing.TEXT, column))
            literal = ","
        elif field in _TIME_FIELDS and wire.times is Times.ISO:
            steps.append(((literal + '"').encode(), writing.ISO, column))
            literal = '",'
        else:
            steps.append((literal.encode(), writing.DECIMAL, column))
            literal = ","
    steps.append(((literal[:-1] + end).encode(), writing.NOTHING, 0))
    return steps
