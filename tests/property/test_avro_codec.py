"""Avro kernels against fastavro on generated schemas and records.

Differential: two implementations, one specification. It cannot show an error both share; the unit
tests of the decoder hold the byte sequences of the specification for that.
"""

from __future__ import annotations

import io
import json
import struct
from dataclasses import dataclass
from functools import cache

import fastavro
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.avro.checker import Checker
from service.avro.decoder import compile_decoder
from service.avro.encoder import compile_encoder
from service.avro.row_error import RowError
from service.avro.schema import parse_schema

#: Every example compiles a kernel, unless its schema was seen before; so schemas come from a list
#: that covers all kinds, plain and nullable in both orders, and records are generated freely.
_FLAT = [
    "boolean",
    "int",
    "long",
    "float",
    "double",
    "bytes",
    "string",
    {"type": "enum", "name": "colour", "symbols": ["RED", "GREEN", "BLUE"]},
    {"type": "fixed", "name": "digest", "size": 5},
    {"type": "long", "logicalType": "timestamp-millis"},
]
_RECORDS = [
    _FLAT,
    [["null", each] for each in _FLAT],
    [[each, "null"] for each in _FLAT],
    ["null", "long", ["null", "string"]],
    ["string", "string", "long"],
]
_NESTED = [
    [{"type": "array", "items": "long"}, "string"],
    [{"type": "map", "values": ["null", "int"]}, {"type": "array", "items": "string"}],
    [
        {
            "type": "record",
            "name": "inner",
            "fields": [
                {"name": "a", "type": ["null", "long", "string"]},
                {
                    "name": "b",
                    "type": {"type": "array", "items": {"type": "map", "values": "boolean"}},
                },
            ],
        },
        ["null", "inner"],
        {"type": "array", "items": "inner"},
    ],
]


def _schema(types: list[object]) -> dict[str, object]:
    fields = [{"name": f"f{number}", "type": each} for number, each in enumerate(types)]
    return {"type": "record", "name": "generated", "namespace": "tests", "fields": fields}


_SCHEMAS = [_schema(types) for types in _RECORDS]
_NESTED_SCHEMAS = [_schema(types) for types in _NESTED]

_LONG = st.integers(-(2**63), 2**63 - 1) | st.integers(-200, 200)
_FLOAT = st.floats(width=32, allow_nan=False)


def _values(shape: object, named: dict[str, object]) -> st.SearchStrategy[object]:
    """Values of an Avro type given as JSON."""
    if isinstance(shape, list):
        return st.one_of([_values(branch, named) for branch in shape])
    if isinstance(shape, str):
        simple: dict[str, st.SearchStrategy[object]] = {
            "null": st.none(),
            "boolean": st.booleans(),
            "int": st.integers(-(2**31), 2**31 - 1),
            "long": _LONG,
            "float": _FLOAT,
            "double": st.floats(allow_nan=False),
            "bytes": st.binary(max_size=20),
            "string": st.text(max_size=20),
        }
        return simple[shape] if shape in simple else _values(named[shape], named)
    assert isinstance(shape, dict)
    if "name" in shape:
        named[shape["name"]] = shape
    if shape["type"] == "enum":
        return st.sampled_from(shape["symbols"])
    if shape["type"] == "fixed":
        return st.binary(min_size=shape["size"], max_size=shape["size"])
    if shape["type"] == "array":
        return st.lists(_values(shape["items"], named), max_size=4)
    if shape["type"] == "map":
        return st.dictionaries(st.text(max_size=4), _values(shape["values"], named), max_size=4)
    if shape["type"] == "record":
        return st.fixed_dictionaries(
            {field["name"]: _values(field["type"], named) for field in shape["fields"]}
        )
    return _values(shape["type"], named)


@dataclass(frozen=True)
class Case:
    """A schema and some records of it."""

    schema: dict[str, object]
    records: list[dict[str, object]]

    def bodies(self) -> list[bytes]:
        """The records as fastavro writes them."""
        parsed = fastavro.parse_schema(_without_logical_types(self.schema))
        written = []
        for record in self.records:
            body = io.BytesIO()
            fastavro.schemaless_writer(body, parsed, record)
            written.append(body.getvalue())
        return written


def _without_logical_types(schema: dict[str, object]) -> dict[str, object]:
    return parse_schema(json.dumps(schema)).to_json()


def _cases(schemas: list[dict[str, object]]) -> st.SearchStrategy[Case]:
    return st.sampled_from(schemas).flatmap(
        lambda schema: st.builds(Case, st.just(schema), st.lists(_values(schema, {}), max_size=12))
    )


def _joined(bodies: list[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    sizes = np.array([len(body) for body in bodies], dtype=np.int64)
    ends = np.cumsum(sizes)
    return np.frombuffer(b"".join(bodies), dtype=np.uint8), ends - sizes, ends


_decoder = cache(compile_decoder)
_encoder = cache(compile_encoder)


@settings(deadline=None)
@given(_cases(_SCHEMAS))
def test_decoder_reads_what_fastavro_wrote_whatever_fields_are_wanted(case):
    schema = parse_schema(json.dumps(case.schema))
    names = [field.name for field in schema.fields]
    for wanted in (names, names[:1:-1]):
        columns, codes = _decoder(schema, tuple(wanted)).decode(*_joined(case.bodies()))
        assert not codes.any()
        assert list(columns) == wanted
        for name, column in columns.items():
            column.validate(full=True)
            assert column.to_pylist() == [record[name] for record in case.records]


@settings(deadline=None)
@given(_cases(_SCHEMAS), st.binary(max_size=6))
def test_encoder_writes_the_bytes_fastavro_writes(case, prefix):
    schema = parse_schema(json.dumps(case.schema))
    columns = {
        field.name: _column(field.type.present.kind.value, [r[field.name] for r in case.records])
        for field in schema.fields
    }
    data, offsets = _encoder(schema).encode(columns, prefix)
    assert data.tobytes() == b"".join(prefix + body for body in case.bodies())
    sizes = [len(prefix) + len(body) for body in case.bodies()]
    assert np.diff(offsets).tolist() == sizes


def _column(kind: str, values: list[object]) -> pa.Array:
    types = {"int": pa.int64(), "long": pa.int64(), "float": pa.float64(), "double": pa.float64()}
    types |= {"boolean": pa.bool_(), "string": pa.string(), "enum": pa.string(), "null": pa.null()}
    return pa.array(values, types.get(kind, pa.binary()))


@settings(deadline=None)
@given(_cases(_SCHEMAS), st.data())
def test_changed_bytes_never_reach_another_row(case, data):
    """Damage one row in any way; every other row must read as before, and nothing may crash."""
    bodies = case.bodies()
    if not bodies:
        return
    schema = parse_schema(json.dumps(case.schema))
    names = [field.name for field in schema.fields]
    victim = data.draw(st.integers(0, len(bodies) - 1))
    body = bytearray(bodies[victim])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body)))
        match data.draw(st.sampled_from(["cut", "insert", "change"])):
            case "cut":
                del body[at:]
            case "insert":
                body[at:at] = data.draw(st.binary(min_size=1, max_size=12))
            case _:
                body[at : at + 1] = data.draw(st.binary(min_size=1, max_size=1))
    bodies[victim] = bytes(body)
    columns, codes = _decoder(schema, tuple(names)).decode(*_joined(bodies))
    for row, record in enumerate(case.records):
        if row != victim:
            assert codes[row] == RowError.OK
            assert {name: column[row].as_py() for name, column in columns.items()} == record
    checked = Checker(schema).check(*_joined(bodies))
    assert ((codes == RowError.OK) == (checked == RowError.OK)).all()
    if codes[victim] == RowError.OK:
        _assert_fastavro_agrees(schema.to_json(), bodies[victim], columns, victim)


def _assert_fastavro_agrees(schema, body, columns, row):
    stream = io.BytesIO(body)
    record = fastavro.schemaless_reader(stream, fastavro.parse_schema(schema))
    assert stream.tell() == len(body)
    read = {name: column[row].as_py() for name, column in columns.items()}
    for name, value in record.items():
        if isinstance(value, float):
            assert struct.pack("d", value) == struct.pack("d", read[name])
        else:
            assert read[name] == value


@settings(deadline=None)
@given(_cases(_NESTED_SCHEMAS))
def test_checker_lets_everything_through_that_fastavro_wrote(case):
    checker = Checker(parse_schema(json.dumps(case.schema)))
    assert not checker.check(*_joined(case.bodies())).any()


@settings(deadline=None)
@given(_cases(_NESTED_SCHEMAS), st.data())
def test_what_the_checker_lets_through_fastavro_reads_to_its_last_byte(case, data):
    for body in case.bodies():
        changed = bytearray(body)
        at = data.draw(st.integers(0, len(changed)))
        changed[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
        schema = parse_schema(json.dumps(case.schema))
        codes = Checker(schema).check(*_joined([bytes(changed)]))
        if codes[0] == RowError.OK:
            stream = io.BytesIO(bytes(changed))
            fastavro.schemaless_reader(stream, fastavro.parse_schema(schema.to_json()))
            assert stream.tell() == len(changed)


@pytest.mark.parametrize("schema", _NESTED_SCHEMAS)
def test_checker_refuses_random_bytes_without_a_crash(schema):
    random = np.random.default_rng(7)
    ends = np.arange(1, 20_001, dtype=np.int64) * 5
    noise = random.integers(0, 256, 100_000, dtype=np.uint8)
    codes = Checker(parse_schema(json.dumps(schema))).check(noise, ends - 5, ends)
    assert {int(RowError.TRUNCATED), int(RowError.BAD_LENGTH)} <= set(codes.tolist())
