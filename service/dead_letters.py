"""Dead letters as values: which record each is about, and what of it can be written again.

Flow: records of `<topic>.dlq` -> [letter_of] -> Letter; with the record where it was, if that is
still there -> [remade] -> what a replay writes. Pure.

Invariants
  DL1  What a replay writes has the bytes of the record, never a part of them: a letter that was cut
       gives nothing unless the record itself is still there.
  DL2  A record counts as the letter's only if its key and value begin as the letter's do; a topic
       that was made anew has other records at the same offsets.
  DL3  Headers and time are the record's where it is still there; the headers that a gateway gave
       the letter never leave it.
  DL4  No replay writes a record that Kafka would delete for its age before anybody reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

Headers = Sequence[tuple[str, bytes | None]]
#: Says of a replayed record which letter it comes from.
REPLAYED_HEADER = "replayed"
SUFFIX = ".dlq"


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a record is, or was."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter."""

    place: Place
    origin: Place
    #: A word of the table of bad records, and what was wrong in full.
    reason: str
    detail: str
    key: bytes | None
    value: bytes | None
    #: Key or value are shorter than they were.
    cut: bool


@dataclass(frozen=True, slots=True)
class Original:
    """A record as its topic has it."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    #: Milliseconds since 1970 that its producer said; None: its topic stamps records itself.
    timestamp_ms: int | None


@dataclass(frozen=True, slots=True)
class Remade:
    """What is written for a letter."""

    letter: Letter
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int | None
    #: With bytes, headers and time of the record itself.
    whole: bool


def letter_of(
    place: Place, headers: Headers, key: bytes | None, value: bytes | None
) -> Letter | None:
    """Read a letter; None if no gateway wrote it."""
    said = {name: text for name, text in headers if text is not None}
    try:
        origin = Place(
            said["topic"].decode(), int(said["partition"].decode()), int(said["offset"].decode())
        )
        error = said["error"].decode(errors="replace")
    except (KeyError, ValueError):
        return None
    reason, _, detail = error.partition(": ")
    return Letter(place, origin, reason, detail, key, value, "cut" in said)


def remade(letter: Letter, original: Original | None) -> Remade | None:
    """What a replay writes for a letter; None if nothing whole is left of it (DL1).

    Args:
        letter: to be replayed.
        original: what stands at its origin now; None if nothing does.
    """
    mark = (REPLAYED_HEADER, str(letter.place).encode())
    if original is not None and _is_of(letter, original):
        kept = [each for each in original.headers if each[0] != REPLAYED_HEADER]
        return Remade(
            letter, original.key, original.value, (*kept, mark), original.timestamp_ms, whole=True
        )
    if letter.cut:
        return None
    return Remade(letter, letter.key, letter.value, (mark,), None, whole=False)


def kept(record: Remade, retention_ms: int | None, now_ms: int) -> Remade:
    """The record, without its time if it is so old that its topic would not keep it (DL4).

    Kafka counts the age of a record from the record's own time, and stamps one that has none. A
    tenth of what a topic keeps is left for those who read it.

    Args:
        record: to be written.
        retention_ms: how long the topic keeps a record; None: for ever.
        now_ms: milliseconds since 1970.
    """
    if retention_ms is None or record.timestamp_ms is None:
        return record
    if now_ms - record.timestamp_ms < 0.9 * retention_ms:
        return record
    return replace(record, timestamp_ms=None)


def _is_of(letter: Letter, original: Original) -> bool:
    """Whether a record is the one that the letter is about (DL2)."""
    pairs = ((letter.key, original.key), (letter.value, original.value))
    if not letter.cut:
        return all(one == other for one, other in pairs)
    return all((other or b"").startswith(one or b"") for one, other in pairs)


def letters_topic(topic: str) -> str:
    """The dead-letter topic of an input, or the one that was named.

    >>> letters_topic("bids"), letters_topic("bids.dlq")
    ('bids.dlq', 'bids.dlq')
    """
    return topic if topic.endswith(SUFFIX) else topic + SUFFIX
