"""Python objects as bytes and back, the same in type and value; reading runs no code it names.

Flow: ObjectStore -> [encode] -> chunks and checkpoints -> [decode] -> ObjectStore.

The bytes are msgpack. Plain values, lists, and dicts of text keys are what msgpack has; everything
else is an extension whose code says its type, so that a tuple comes back as a tuple and not as a
list. An object of a class is the class's name and its attributes; it is made again without calling
the class, and only of a class that the reading process has loaded.

Invariants
  OC1  decode(encode(x)) has the type and the value of x, or encode raises.
  OC2  Reading imports no module and calls no function that the bytes name: a class is looked up
       among the modules already loaded.
  OC3  What is referred to twice comes back as two copies; a cycle is refused.
Cost: 0.5 us for a number or text, 1 to 2 us for each container or object within.
"""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from functools import partial
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import numpy as np

_PLAIN = frozenset({type(None), bool, float, str, bytes})
_INT_LEAST, _INT_GREATEST = -(1 << 63), (1 << 64) - 1
_DEPTH_MAX = 200


class CannotEncode(TypeError):
    """A part of an object has no encoding."""


def encode(value: object) -> bytes:
    """The bytes of `value`.

    Raises:
        CannotEncode: some part of it has none; the text names its type.
    """
    return _ENCODER.encode(_packable(value, 0))


def decode(encoded: bytes | memoryview) -> Any:
    """The value that `encode` was given.

    Raises:
        msgspec.DecodeError, LookupError, TypeError, ValueError: these are no such bytes, or a class
            that they name is not loaded.
    """
    return _DECODER.decode(encoded)


def _packable(value: Any, depth: int) -> Any:
    """`value` as msgpack takes it."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is int:
        if _INT_LEAST <= value <= _INT_GREATEST:
            return value
        return _extension("int", hex(value), depth)
    if depth > _DEPTH_MAX:
        raise CannotEncode("it is nested too deeply, or contains itself")
    if kind is list:
        return _packable_list(value, depth)
    if kind is dict and all(type(key) is str for key in value):
        return dict(zip(value, _packable_list(list(value.values()), depth), strict=True))
    parts_of = _PARTS.get(kind)
    if parts_of is not None:
        return _extension(kind.__name__, parts_of(value), depth)
    if isinstance(value, Enum):
        return _extension("enum", [_name_of(kind), value.name], depth)
    if isinstance(value, msgspec.Struct):
        fields = {name: getattr(value, name) for name in value.__struct_fields__}
        return _extension("struct", [_name_of(kind), fields], depth)
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        return _extension("named", [_name_of(kind), list(value)], depth)
    if isinstance(value, np.ndarray | np.generic):
        return _extension("array", _array_parts(np.asarray(value), kind), depth)
    return _extension("object", [_name_of(kind), _attributes(value)], depth)


def _packable_list(values: list[Any], depth: int) -> list[Any]:
    kinds = set(map(type, values))
    if kinds <= _PLAIN:
        return values
    if kinds == {int} and min(values) >= _INT_LEAST and max(values) <= _INT_GREATEST:
        return values
    return [_packable(each, depth + 1) for each in values]


def _extension(name: str, parts: Any, depth: int) -> msgspec.msgpack.Ext:
    return msgspec.msgpack.Ext(_CODES[name], _ENCODER.encode(_packable(parts, depth + 1)))


def _name_of(kind: Any) -> list[str]:
    """Where a class or factory is found again (OC2)."""
    name = [str(kind.__module__), str(getattr(kind, "__qualname__", ""))]
    try:
        found = _find(*name)
    except LookupError:
        found = None
    if found is not kind:
        raise CannotEncode(f"{name[0]}.{name[1]} is not found under its name in its module")
    return name


def _find(module: str, qualname: str) -> Any:
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise LookupError(f"{module}.{qualname} is not loaded here")
    return found


def _attributes(value: object) -> dict[str, Any]:
    """All attributes of an object of a class written in Python."""
    kind = type(value)
    try:
        object.__new__(kind)
    except TypeError:
        raise CannotEncode(f"{kind.__module__}.{kind.__qualname__} has no encoding") from None
    if callable(value) and not hasattr(value, "__dict__"):
        raise CannotEncode(f"{kind.__qualname__} has no encoding")
    slots = {}
    for each in kind.__mro__:
        for name in _listed(each.__dict__.get("__slots__", ())):
            hidden = name.startswith("__") and not name.endswith("__")
            called = f"_{each.__name__.lstrip('_')}{name}" if hidden else name
            if name not in ("__dict__", "__weakref__") and hasattr(value, called):
                slots[called] = getattr(value, called)
    return slots | getattr(value, "__dict__", {})


def _listed(slots: Any) -> list[str]:
    return [slots] if isinstance(slots, str) else list(slots)


def _array_parts(array: np.ndarray[Any, Any], kind: type) -> list[Any]:
    if array.dtype.hasobject or kind not in (np.ndarray, array.dtype.type):
        raise CannotEncode(f"a {kind.__name__} of {array.dtype} has no encoding")
    return [array.dtype.str, list(array.shape), array.tobytes(), kind is np.ndarray]


def _clock_parts(value: datetime | time) -> list[Any]:
    """As text with its offset, and the fold; of a zone with a name, without offset, and the name.

    The offset of a named zone would not say which zone it was.
    """
    zone = value.tzinfo
    if zone is None or type(zone) is timezone:
        return [value.isoformat(), value.fold]
    if type(zone) is not ZoneInfo or zone.key is None:
        raise CannotEncode(f"a {type(value).__name__} of zone {zone} has no encoding")
    return [value.replace(tzinfo=None).isoformat(), value.fold, zone.key]


def _made_clock(kind: type[datetime] | type[time], parts: list[Any]) -> datetime | time:
    made = kind.fromisoformat(parts[0]).replace(fold=parts[1])
    return made if len(parts) == 2 else made.replace(tzinfo=ZoneInfo(parts[2]))


def _made_array(parts: list[Any]) -> Any:
    kind, shape, body, whole = parts
    array = np.frombuffer(body, dtype=np.dtype(kind)).reshape(shape).copy()
    return array if whole else array[()]


def _made_object(parts: list[Any]) -> object:
    name, attributes = parts
    made = object.__new__(_find(*name))
    for attribute, value in attributes.items():
        object.__setattr__(made, attribute, value)
    return made


def _made_default(parts: list[Any]) -> defaultdict[Any, Any]:
    factory, keys, values = parts
    make = None if factory is None else _find(*factory)
    return defaultdict(make, zip(keys, values, strict=True))


#: Type -> its parts, as something that has an encoding.
_PARTS: dict[type, Callable[[Any], Any]] = {
    tuple: list,
    set: list,
    frozenset: list,
    dict: lambda value: [list(value), list(value.values())],
    OrderedDict: lambda value: [list(value), list(value.values())],
    Counter: lambda value: [list(value), list(value.values())],
    defaultdict: lambda value: [
        None if value.default_factory is None else _name_of(value.default_factory),
        list(value),
        list(value.values()),
    ],
    deque: lambda value: [value.maxlen, list(value)],
    bytearray: bytes,
    complex: lambda value: [value.real, value.imag],
    Decimal: str,
    UUID: lambda value: value.bytes,
    timedelta: lambda value: [value.days, value.seconds, value.microseconds],
    date: date.isoformat,
    datetime: _clock_parts,
    time: _clock_parts,
}

#: Name of an extension -> what makes the value of its parts; its code is its place. New ones are
#: added at the end: codes are in checkpoints.
_MADE: dict[str, Callable[[Any], Any]] = {
    "int": lambda text: int(text, 16),
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "dict": lambda parts: dict(zip(*parts, strict=True)),
    "OrderedDict": lambda parts: OrderedDict(zip(*parts, strict=True)),
    "Counter": lambda parts: Counter(dict(zip(*parts, strict=True))),
    "defaultdict": _made_default,
    "deque": lambda parts: deque(parts[1], parts[0]),
    "bytearray": bytearray,
    "complex": lambda parts: complex(*parts),
    "Decimal": Decimal,
    "UUID": lambda value: UUID(bytes=value),
    "timedelta": lambda parts: timedelta(*parts),
    "date": date.fromisoformat,
    "datetime": partial(_made_clock, datetime),
    "time": partial(_made_clock, time),
    "enum": lambda parts: _find(*parts[0])[parts[1]],
    "struct": lambda parts: _find(*parts[0])(**parts[1]),
    "named": lambda parts: tuple.__new__(_find(*parts[0]), parts[1]),
    "array": _made_array,
    "object": _made_object,
}
_CODES = {name: code for code, name in enumerate(_MADE)}
_MAKERS = tuple(_MADE.values())
#: Name of each extension by its code.
EXTENSIONS = tuple(_MADE)


def _extended(code: int, data: memoryview) -> Any:
    if not 0 <= code < len(_MAKERS):
        raise ValueError(f"extension {code} is not known to this version")
    return _MAKERS[code](_DECODER.decode(data))


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(ext_hook=_extended)
