"""Any object that is encoded comes back in type and value; anything else is refused by name.

Cannot catch: a class whose objects are more than their attributes.
"""

from __future__ import annotations

import enum
import math
import sys
import threading
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from types import ModuleType
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.statestore.object_codec import CannotEncode, decode, encode

OFFSETS = st.one_of(
    st.none(),
    st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes))),
    st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kathmandu"]).map(ZoneInfo),
)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.decimals(allow_nan=False),
    st.complex_numbers(allow_nan=False),
    st.uuids(),
    st.dates(),
    st.datetimes(timezones=OFFSETS),
    st.times(timezones=OFFSETS),
    st.timedeltas(),
)
KEYS = st.one_of(st.integers(), st.text(), st.tuples(st.integers(), st.text()), st.booleans())


def containers(inner):
    return st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.sets(KEYS),
        st.frozensets(KEYS),
        st.dictionaries(KEYS, inner),
        st.dictionaries(st.text(), inner),
        st.dictionaries(KEYS, inner).map(OrderedDict),
        st.dictionaries(KEYS, st.integers()).map(Counter),
        st.dictionaries(KEYS, st.integers()).map(lambda given: defaultdict(int, given)),
        st.tuples(st.lists(inner), st.integers(0, 5)).map(lambda given: deque(*given)),
        st.binary().map(bytearray),
        st.builds(Kept, st.integers(), inner),
        st.builds(Slotted, inner),
        st.builds(Pair, inner, inner),
        st.builds(Packed, st.integers(), st.text()),
        st.sampled_from(Colour),
    )


@dataclass
class Kept:
    number: int
    inner: object
    more: list[int] = field(default_factory=lambda: [1])


class Slotted:
    __slots__ = ("__hidden", "inner", "unset")

    def __init__(self, inner):
        self.inner = inner
        self.__hidden = [inner]

    def hidden(self):
        return self.__hidden

    def __eq__(self, other):
        return type(other) is Slotted and self.inner == other.inner

    __hash__ = None


Pair = namedtuple("Pair", "one two")


class Packed(msgspec.Struct):
    number: int
    text: str


class Colour(enum.Enum):
    RED = 1
    BLUE = (2, "b")


class Refusing:
    def __init__(self):
        raise AssertionError("made by its class")


def same(one, other):
    """Equal in value and in type, all the way down."""
    if type(one) is not type(other):
        return False
    match one:
        case list() | tuple() | deque():
            limits = getattr(one, "maxlen", None) == getattr(other, "maxlen", None)
            return limits and len(one) == len(other) and all(map(same, one, other))
        case dict():
            pairs = zip(one.items(), other.items(), strict=True)
            return len(one) == len(other) and all(same(a, b) for a, b in pairs)
        case Kept():
            return same(vars(one), vars(other))
        case Slotted():
            return (
                same([one.inner], other.hidden())
                and same(one.inner, other.inner)
                and not hasattr(other, "unset")
            )
        case float():
            return one == other and math.copysign(1, one) == math.copysign(1, other)
        case Decimal():
            return one.as_tuple() == other.as_tuple()
        case datetime() | time():
            return one == other and one.utcoffset() == other.utcoffset() and one.fold == other.fold
        case _:
            return one == other


@given(st.recursive(LEAVES, containers, max_leaves=12))
def test_what_is_encoded_comes_back_in_type_and_value(value):
    assert same(decode(encode(value)), value)


@given(st.one_of(LEAVES, st.lists(LEAVES)), st.binary(min_size=1, max_size=40))
def test_damaged_bytes_give_an_error_or_a_value_and_nothing_else(value, noise):
    """Digests tell damage from state; this is about what a decoder does when they are absent."""
    encoded = encode(value)
    for bytes_ in (noise, encoded + noise, encoded[: len(encoded) // 2] + noise):
        try:
            decode(bytes_)
        except (ValueError, LookupError, TypeError, ArithmeticError, AttributeError):
            continue
        except msgspec.MsgspecError:
            continue


@pytest.mark.parametrize(
    "value",
    [np.arange(6).reshape(2, 3), np.float32(1.5), np.array([]), np.array(["a", "bc"]), np.int8(-3)],
)
def test_arrays_and_numpys_numbers_keep_type_shape_and_bytes(value):
    found = decode(encode(value))
    assert type(found) is type(value)
    assert found.dtype == value.dtype
    assert found.tolist() == value.tolist()
    if isinstance(value, np.ndarray):
        assert found.shape == value.shape
        assert found.flags.writeable


def test_a_factory_goes_with_its_dict():
    found = decode(encode(defaultdict(list, {(1, 2): [3]})))
    assert found[9] == []
    assert found[1, 2] == [3]


def test_a_factory_may_be_none():
    found = decode(encode(defaultdict(None, {1: 2})))
    assert (found, found.default_factory) == ({1: 2}, None)


def local():
    class Local:
        pass

    return Local()


LOOP: list[object] = []
LOOP.append(LOOP)


class OwnZone(tzinfo):
    """A zone that only its own code knows."""

    def utcoffset(self, _):
        return timedelta(0)

    def __str__(self):
        return "Own"


def test_a_time_keeps_its_zone_and_which_of_two_hours_it_is():
    second = datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin"))
    back = decode(encode(second))
    assert (back, back.fold, back.tzinfo) == (second, 1, ZoneInfo("Europe/Berlin"))
    assert back.utcoffset() == timedelta(hours=1)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (lambda: 0, "function"),
        (local(), "not found under its name"),
        (threading.Lock(), "lock"),
        (iter([]), "list_iterator"),
        ([1, {2: (object(), threading.Lock())}], "lock"),
        (LOOP, "contains itself"),
        (np.array([object()]), "object"),
        (datetime(2020, 1, 1, tzinfo=OwnZone()), "zone Own"),
        (sys, "module"),
        (type("Sub", (list,), {})(), "not found"),
        (int, "type"),
        (open, "builtin_function"),
    ],
)
def test_what_cannot_come_back_is_refused_by_type(value, said):
    with pytest.raises(CannotEncode, match=said):
        encode(value)


def test_reading_imports_nothing_and_calls_no_class():
    made = Refusing.__new__(Refusing)
    made.number = 5
    assert decode(encode(made)).number == 5
    module = ModuleType("here_only")
    exec("class Kept: pass", module.__dict__)
    sys.modules["here_only"] = module
    encoded = encode(module.Kept())
    del sys.modules["here_only"]
    with pytest.raises(LookupError, match=r"here_only\.Kept is not loaded here"):
        decode(encoded)


def test_values_that_hold_others_of_their_own_kind():
    value = {"a": {1: {"b": (1, (2, [3]))}}, "d": date(2020, 1, 2), "u": UUID(int=5)}
    assert same(decode(encode(value)), value)
