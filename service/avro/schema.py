"""Avro schemas as values, checked before a single byte is decoded with them.

Flow: text of a registry -> [parse_schema] -> RecordSchema -> decoder, encoder, ingest.decode.
Pure: no I/O, no clock. A schema comes from outside, so this is the gate (invariants A1-A4).

Invariants
  A1  No type contains itself: a recursive schema lets a small payload exhaust the C stack.
  A2  Nesting is at most DEPTH_MAX and the schema, written out without sharing, at most NODES_MAX.
  A3  Nothing inside an array or a map is free of bytes, so no payload of n bytes can ask for more
      than a multiple of n values (the "array of null" bomb).
  A4  A logical type means its base type: values stay what was written.

Source: Apache Avro 1.12 specification, "Schema Declaration"; the limits follow AVRO-4302 and
AVRO-4327, which bring them to the Avro libraries themselves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from service.errors import SchemaError

DEPTH_MAX = 64
#: Fields and branches of a schema with every named type written out where it is used.
NODES_MAX = 4096
TEXT_BYTES_MAX = 1 << 20
FIXED_BYTES_MAX = 1 << 20

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


class Kind(StrEnum):
    """Kinds of Avro types."""

    NULL = "null"
    BOOLEAN = "boolean"
    INT = "int"
    LONG = "long"
    FLOAT = "float"
    DOUBLE = "double"
    BYTES = "bytes"
    STRING = "string"
    ENUM = "enum"
    FIXED = "fixed"
    UNION = "union"
    ARRAY = "array"
    MAP = "map"
    RECORD = "record"


_PRIMITIVES = frozenset(
    {Kind.NULL, Kind.BOOLEAN, Kind.INT, Kind.LONG, Kind.FLOAT, Kind.DOUBLE, Kind.BYTES, Kind.STRING}
)
#: What the kernels read and write themselves; the rest is left to fastavro.
_FLAT = _PRIMITIVES | {Kind.ENUM, Kind.FIXED}


@dataclass(frozen=True, slots=True)
class AvroType:
    """One type. Which attributes mean something depends on `kind`; the others stay empty.

    Named types are shared, so the tree is really an acyclic graph: walk it with care (A2).
    """

    kind: Kind
    #: Full name of an enum, fixed or record.
    name: str = ""
    #: Symbols of an enum, in the order of their indices.
    symbols: tuple[str, ...] = ()
    #: Bytes of a fixed.
    size: int = 0
    #: Branches of a union, or the single item type of an array or map.
    branches: tuple[AvroType, ...] = ()
    #: Fields of a record.
    fields: tuple[AvroField, ...] = ()
    #: Levels below this type, itself included.
    depth: int = 1
    #: Types below this type, itself included, written out without sharing.
    nodes: int = 1
    #: Whether some value of it, or inside it, takes no bytes (A3).
    free_of_bytes: bool = False

    @property
    def items(self) -> AvroType:
        """Type of the items of an array, or of the values of a map."""
        assert self.kind in (Kind.ARRAY, Kind.MAP), self.kind
        return self.branches[0]

    @property
    def null_branch(self) -> int:
        """Index of the null branch of a union of null and one other type, otherwise -1."""
        if self.kind is not Kind.UNION or len(self.branches) != 2:
            return -1
        nulls = [at for at, branch in enumerate(self.branches) if branch.kind is Kind.NULL]
        return nulls[0] if len(nulls) == 1 else -1

    @property
    def present(self) -> AvroType:
        """The type of a value that is not null: the other branch of a nullable union, or itself."""
        return self if self.null_branch < 0 else self.branches[1 - self.null_branch]

    @property
    def covered(self) -> bool:
        """Whether the kernels decode and encode it: a flat type, or null and a flat type."""
        return self.present.kind in _FLAT


@dataclass(frozen=True, slots=True)
class AvroField:
    """A field of a record."""

    name: str
    type: AvroType


@dataclass(frozen=True, slots=True)
class RecordSchema:
    """The schema of one kind of record, safe to decode with (A1-A3)."""

    type: AvroType

    @property
    def fullname(self) -> str:
        """Name with its namespace."""
        return self.type.name

    @property
    def name(self) -> str:
        """Name without its namespace."""
        return self.type.name.rpartition(".")[2]

    @property
    def fields(self) -> tuple[AvroField, ...]:
        """Fields in the order in which they are written."""
        return self.type.fields

    @property
    def not_covered(self) -> tuple[str, ...]:
        """Names of the fields that the kernels cannot read; empty if they serve the schema."""
        return tuple(each.name for each in self.fields if not each.type.covered)

    def is_named(self, name: str) -> bool:
        """Whether `name` is its name, with or without the namespace."""
        return name in (self.fullname, self.name)

    def field(self, name: str) -> AvroField:
        """The field `name`.

        Raises:
            SchemaError: there is none.
        """
        for each in self.fields:
            if each.name == name:
                return each
        known = ", ".join(each.name for each in self.fields)
        raise SchemaError(f"record {self.fullname} has no field {name!r}; it has: {known}")

    def to_json(self) -> dict[str, object]:
        """The schema as plain JSON values, logical types and other attributes left out (A4).

        A named type is written out where it first occurs and named afterwards.
        """
        shown = _json_of(self.type, set())
        assert isinstance(shown, dict)
        return shown

    def canonical(self) -> str:
        """One text for all spellings of the schema: the key of caches."""
        return json.dumps(self.to_json(), separators=(",", ":"))


def parse_schema(text: str) -> RecordSchema:
    """Parse the JSON `text` of a record schema and pass it through the gate.

    Raises:
        SchemaError: it is no JSON, no valid Avro record schema, or unsafe (A1-A3).
    """
    if len(text) > TEXT_BYTES_MAX:
        raise SchemaError(f"schema of {len(text)} characters; at most {TEXT_BYTES_MAX} are read")
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SchemaError(f"schema is no JSON: {error}") from error
    found = _Parser().parse(parsed, namespace="", level=0)
    if found.kind is not Kind.RECORD:
        raise SchemaError(f"schema is of type {found.kind}; a record is needed")
    return RecordSchema(found)


def _json_of(of: AvroType, named: set[str]) -> object:
    if of.kind in _PRIMITIVES:
        return of.kind.value
    if of.kind is Kind.UNION:
        return [_json_of(branch, named) for branch in of.branches]
    if of.kind is Kind.ARRAY:
        return {"type": "array", "items": _json_of(of.items, named)}
    if of.kind is Kind.MAP:
        return {"type": "map", "values": _json_of(of.items, named)}
    if of.name in named:
        return of.name
    named.add(of.name)
    shown: dict[str, object] = {"type": of.kind.value, "name": of.name}
    if of.kind is Kind.ENUM:
        shown["symbols"] = list(of.symbols)
    elif of.kind is Kind.FIXED:
        shown["size"] = of.size
    else:
        shown["fields"] = [
            {"name": each.name, "type": _json_of(each.type, named)} for each in of.fields
        ]
    return shown


@dataclass(slots=True)
class _Parser:
    """One pass over the JSON. Stays linear because named types are parsed once and shared."""

    #: Finished named types by full name.
    known: dict[str, AvroType] = field(default_factory=dict)
    #: Full names of the records being read right now; naming one of them is recursion (A1).
    open: set[str] = field(default_factory=set)

    def parse(self, shape: object, namespace: str, level: int) -> AvroType:
        if level > DEPTH_MAX:
            raise SchemaError(f"schema nests deeper than {DEPTH_MAX} levels")
        if isinstance(shape, str):
            return self._by_name(shape, namespace)
        if isinstance(shape, list):
            return self._union(shape, namespace, level)
        if not isinstance(shape, Mapping):
            raise SchemaError(f"a type is a name, a list or an object, not {shape!r}")
        inner = shape.get("type")
        if inner in (Kind.ARRAY, Kind.MAP):
            return self._repeated(Kind(str(inner)), shape, namespace, level)
        if inner in (Kind.ENUM, Kind.FIXED, Kind.RECORD, "error"):
            return self._named(shape, namespace, level)
        return self.parse(inner, namespace, level + 1)

    def _by_name(self, name: str, namespace: str) -> AvroType:
        if name in _PRIMITIVES:
            return _checked(AvroType(Kind(name), free_of_bytes=name == Kind.NULL))
        full = name if "." in name or not namespace else f"{namespace}.{name}"
        for candidate in (full, name):
            if candidate in self.open:
                raise SchemaError(f"record {candidate} contains itself; recursion is refused")
            if candidate in self.known:
                return self.known[candidate]
        raise SchemaError(f"unknown type {name!r}")

    def _union(self, shapes: list[object], namespace: str, level: int) -> AvroType:
        if not shapes:
            raise SchemaError("a union has no branches")
        branches = tuple(self.parse(each, namespace, level + 1) for each in shapes)
        if any(branch.kind is Kind.UNION for branch in branches):
            raise SchemaError("a union stands directly inside a union")
        labels = [branch.name or branch.kind.value for branch in branches]
        if len(set(labels)) != len(labels):
            raise SchemaError(f"a union has a branch twice: {', '.join(labels)}")
        # The index of the branch takes a byte, so a null branch is not free; a record of nulls is.
        free = any(each.free_of_bytes and each.kind is not Kind.NULL for each in branches)
        return _checked(AvroType(Kind.UNION, branches=branches, free_of_bytes=free))

    def _repeated(
        self, kind: Kind, shape: Mapping[str, object], namespace: str, level: int
    ) -> AvroType:
        key = "items" if kind is Kind.ARRAY else "values"
        if key not in shape:
            raise SchemaError(f"{kind} without {key!r}")
        items = self.parse(shape[key], namespace, level + 1)
        if items.free_of_bytes:
            raise SchemaError(f"{kind} of values that take no bytes; a few bytes could ask for any")
        return _checked(AvroType(kind, branches=(items,)))

    def _named(self, shape: Mapping[str, object], namespace: str, level: int) -> AvroType:
        full = _fullname(shape, namespace)
        if full in self.known or full in self.open:
            raise SchemaError(f"type {full} is defined twice")
        if shape["type"] == Kind.ENUM:
            made = AvroType(Kind.ENUM, name=full, symbols=_symbols(shape, full))
        elif shape["type"] == Kind.FIXED:
            size = _fixed_size(shape, full)
            made = AvroType(Kind.FIXED, name=full, size=size, free_of_bytes=size == 0)
        else:
            self.open.add(full)
            fields = self._fields(shape, full, level)
            self.open.discard(full)
            free = not fields or any(each.type.free_of_bytes for each in fields)
            made = AvroType(Kind.RECORD, name=full, fields=fields, free_of_bytes=free)
        self.known[full] = _checked(made)
        return self.known[full]

    def _fields(self, shape: Mapping[str, object], full: str, level: int) -> tuple[AvroField, ...]:
        listed = shape.get("fields")
        if not isinstance(listed, list):
            raise SchemaError(f"record {full} has no list of fields")
        namespace = full.rpartition(".")[0]
        fields = tuple(self._field(each, full, namespace, level) for each in listed)
        names = [each.name for each in fields]
        if len(set(names)) != len(names):
            raise SchemaError(f"record {full} has a field twice")
        return fields

    def _field(self, shape: object, full: str, namespace: str, level: int) -> AvroField:
        if not isinstance(shape, Mapping) or "type" not in shape:
            raise SchemaError(f"record {full} has a field without a type")
        return AvroField(
            _name(shape.get("name"), f"a field of {full}"),
            self.parse(shape["type"], namespace, level + 1),
        )


def _checked(made: AvroType) -> AvroType:
    """`made` with its depth and node count filled in.

    Raises:
        SchemaError: it is too deep or too large (A2).
    """
    below = made.branches + tuple(each.type for each in made.fields)
    depth = 1 + max((each.depth for each in below), default=0)
    nodes = 1 + sum(each.nodes for each in below)
    if depth > DEPTH_MAX:
        raise SchemaError(f"schema nests deeper than {DEPTH_MAX} levels")
    if nodes > NODES_MAX:
        raise SchemaError(f"schema has more than {NODES_MAX} types when written out")
    object.__setattr__(made, "depth", depth)
    object.__setattr__(made, "nodes", nodes)
    return made


def _name(name: object, what: str) -> str:
    if not isinstance(name, str) or not _NAME.match(name):
        raise SchemaError(f"{what} is named {name!r}; letters, digits and _ are allowed")
    return name


def _fullname(shape: Mapping[str, object], namespace: str) -> str:
    name, own = shape.get("name"), shape.get("namespace", namespace)
    if not isinstance(name, str) or not isinstance(own, str):
        raise SchemaError(f"{shape['type']} without a name")
    full = name if "." in name or not own else f"{own}.{name}"
    for part in full.split("."):
        _name(part, f"part of {full!r}")
    return full


def _symbols(shape: Mapping[str, object], full: str) -> tuple[str, ...]:
    symbols = shape.get("symbols")
    if not isinstance(symbols, list) or not symbols:
        raise SchemaError(f"enum {full} has no symbols")
    if len(set(map(str, symbols))) != len(symbols):
        raise SchemaError(f"enum {full} has a symbol twice")
    return tuple(_name(each, f"a symbol of {full}") for each in symbols)


def _fixed_size(shape: Mapping[str, object], full: str) -> int:
    size = shape.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= FIXED_BYTES_MAX:
        raise SchemaError(f"fixed {full} has size {size!r}; 0 to {FIXED_BYTES_MAX} is allowed")
    return size
