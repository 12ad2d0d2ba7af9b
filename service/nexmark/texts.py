"""The stock of all texts that NEXMark events ever carry, in the order the kernels number them.

Flow: [TEXTS] -> RecordBatches, and through `wire` ready bytes of messages.
Pure; made from SHA-256 of fixed names, so the same on every machine.

Invariants
  T1  Field texts stand where `generator` looks for them: (first, how many) of each field.
  T2  No text needs an escape in JSON, and each has fewer than 64 bytes (one length byte in Avro).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from service.nexmark import generator as kernels

#: Fields that are texts, with their place in the stock; all others are longs.
TEXT_FIELDS = {
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


def _word(kind: str, index: int, letters: int) -> str:
    digest = hashlib.sha256(f"{kind}/{index}".encode()).digest()
    return "".join(chr(ord("a") + byte % 26) for byte in digest[:letters])


def _card(index: int) -> str:
    digits = f"{int(hashlib.sha256(f'card/{index}'.encode()).hexdigest(), 16) % 10**16:016d}"
    return " ".join(digits[start : start + 4] for start in range(0, 16, 4))


def _stock() -> Iterator[tuple[tuple[int, int], list[str]]]:
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


def _texts() -> tuple[str, ...]:
    values: list[str] = []
    for (first, count), entries in _stock():
        assert first == len(values), "T1"
        assert count == len(entries), "T1"
        assert all(len(text.encode()) < 64 and not {*text} & {'"', "\\"} for text in entries), "T2"
        values += entries
    assert len(values) == kernels.TEXTS, "T1"
    return tuple(values)


#: Every text, by its number.
TEXTS = _texts()
