"""Encoded Python objects as JSON for people, without the classes they are of.

Flow: bytes of `object_codec` -> [described] -> plain values, ready for JSON -> `megaphone state`.

What JSON has stays as it is. Everything else is `{"type": ..., "value": ...}`: a tuple with a list,
a dict of keys that are no text with a list of pairs, an object with its attributes, bytes in
base64. No class is looked up and nothing is made, so the reader needs none of the flow's code.

Invariants
  OJ1  Two states that differ in type or value have different descriptions, but for bits of a NaN.
"""

from __future__ import annotations

import math
from base64 import b64encode

import msgspec

from service.statestore.object_codec import EXTENSIONS

#: Extensions of two lists, keys and values.
_PAIRS = frozenset({"dict", "OrderedDict", "Counter"})


def described(encoded: bytes) -> object:
    """A state as plain values.

    Raises:
        ValueError: these are no bytes of `object_codec`.
    """
    try:
        return plain(_DECODER.decode(encoded))
    except (msgspec.DecodeError, TypeError, IndexError, RecursionError) as error:
        raise ValueError(f"no encoded object: {error}") from error


def plain(value: object) -> object:
    """A plain value, a column's cell say, as JSON can hold it."""
    match value:
        case float() if not math.isfinite(value):
            return _typed("float", str(value))
        case bytes():
            return _typed("bytes", b64encode(value).decode())
        case list():
            return [plain(each) for each in value]
        case dict() if set(value) == {"type", "value"}:
            # A state that looks like one of ours must not be taken for it (OJ1).
            return _typed("dict", [[name, plain(each)] for name, each in value.items()])
        case dict():
            return {name: plain(each) for name, each in value.items()}
        case _Extension():
            return _typed_extension(value)
        case _:
            return value


class _Extension:
    """An extension of the encoding, its parts decoded."""

    def __init__(self, name: str, parts: object) -> None:
        self.name = name
        self.parts = parts


def _typed(name: str, value: object) -> dict[str, object]:
    return {"type": name, "value": value}


def _typed_extension(found: _Extension) -> object:
    name, parts = found.name, found.parts
    match name, parts:
        case "int", str():
            return _typed("int", str(int(parts, 16)))
        case (("object" | "struct"), [[module, qualname], dict() as attributes]):
            shown = {str(key): plain(each) for key, each in attributes.items()}
            return _typed(f"{module}.{qualname}", shown)
        case (("enum" | "named"), [[module, qualname], content]):
            return _typed(f"{module}.{qualname}", plain(content))
        case "defaultdict", [factory, list() as keys, list() as values]:
            made = ".".join(factory) if isinstance(factory, list) else "None"
            return _typed(f"defaultdict({made})", _paired(keys, values))
        case _, [list() as keys, list() as values] if name in _PAIRS:
            return _typed(name, _paired(keys, values))
        case "array", [kind, shape, body, whole]:
            label = f"numpy.{'ndarray' if whole else 'generic'}[{kind}]"
            return _typed(label, {"shape": shape, "bytes": plain(body)})
        case (("UUID" | "bytearray"), bytes()):
            return _typed(name, parts.hex())
        case _:
            return _typed(name, plain(parts))


def _paired(keys: list[object], values: list[object]) -> list[object]:
    return [[plain(key), plain(value)] for key, value in zip(keys, values, strict=True)]


def _extended(code: int, data: memoryview) -> _Extension:
    if not 0 <= code < len(EXTENSIONS):
        raise ValueError(f"extension {code} is not known to this version")
    return _Extension(EXTENSIONS[code], _DECODER.decode(data))


_DECODER = msgspec.msgpack.Decoder(ext_hook=_extended)
