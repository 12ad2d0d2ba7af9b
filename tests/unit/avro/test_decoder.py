"""The decode kernel on byte sequences written out by hand, above all on bad ones."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from service.avro.decoder import compile_decoder
from service.avro.row_error import RowError
from service.avro.schema import parse_schema
from service.errors import SchemaError

_COLOUR = {"type": "enum", "name": "colour", "symbols": ["RED", "GREEN"]}
_DIGEST = {"type": "fixed", "name": "digest", "size": 2}
_TYPES = ["long", "int", "boolean", "string", ["null", "long"], _COLOUR, "double", "float", _DIGEST]
_FIELDS = [{"name": f"f{at}", "type": each} for at, each in enumerate(_TYPES)]
_SCHEMA = parse_schema(json.dumps({"type": "record", "name": "r", "fields": _FIELDS}))
_ALL = [field.name for field in _SCHEMA.fields]

#: One good row, field by field.
_GOOD = [
    b"\x02",  # 1
    b"\x03",  # -2
    b"\x01",  # true
    b"\x04ab",
    b"\x02\x54",  # branch 1: 42
    b"\x02",  # GREEN
    b"\x00\x00\x00\x00\x00\x00\xf8\x3f",  # 1.5
    b"\x00\x00\x00\xc0",  # -2.0
    b"\xca\xfe",
]
_GOOD_VALUES = [1, -2, True, "ab", 42, "GREEN", 1.5, -2.0, b"\xca\xfe"]


def _decode(bodies: list[bytes], wanted: list[str] = _ALL):
    sizes = np.array([len(body) for body in bodies], dtype=np.int64)
    ends = np.cumsum(sizes)
    data = np.frombuffer(b"".join(bodies), dtype=np.uint8)
    return compile_decoder(_SCHEMA, wanted).decode(data, ends - sizes, ends)


def _with(at: int, piece: bytes) -> bytes:
    return b"".join([*_GOOD[:at], piece, *_GOOD[at + 1 :]])


def test_every_kind_of_field_is_read():
    columns, codes = _decode([b"".join(_GOOD), _with(4, b"\x00")])
    assert codes.tolist() == [0, 0]
    assert [columns[name][0].as_py() for name in _ALL] == _GOOD_VALUES
    assert columns["f4"].to_pylist() == [42, None]


def test_columns_have_canonical_types():
    columns, _ = _decode([b"".join(_GOOD)])
    types = [column.type for column in columns.values()]
    expected = [pa.int64(), pa.int64(), pa.bool_(), pa.string(), pa.int64(), pa.string()]
    assert types == [*expected, pa.float64(), pa.float64(), pa.binary()]
    assert compile_decoder(_SCHEMA, _ALL).arrow_schema.types == types


_OVERLONG = b"\x80" * 10 + b"\x00"
_CASES = [
    (0, b"\x80" * 9 + b"\x02", RowError.VARINT_OVERFLOW),
    (0, _OVERLONG, RowError.VARINT_OVERFLOW),
    (0, b"\xff" * 60, RowError.VARINT_OVERFLOW),
    (1, b"\x80\x80\x80\x80\x10", RowError.INT_OUT_OF_RANGE),  # 2**31
    (2, b"\x02", RowError.BAD_BOOLEAN),
    (3, b"\x01", RowError.BAD_LENGTH),  # -1
    (3, b"\x7e", RowError.BAD_LENGTH),  # 63 bytes, fewer are left
    (3, b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01", RowError.BAD_LENGTH),  # 2**63 - 1 bytes
    (4, b"\x04\x02", RowError.BAD_UNION_INDEX),
    (4, b"\x01\x02", RowError.BAD_UNION_INDEX),  # -1: fastavro would take the last branch
    (5, b"\x04", RowError.BAD_ENUM_INDEX),
    (5, b"\x01", RowError.BAD_ENUM_INDEX),
    (8, b"\xca\xfe\x00", RowError.TRAILING_BYTES),
    (8, b"\xca", RowError.TRUNCATED),
    (8, b"", RowError.TRUNCATED),
]


@pytest.mark.parametrize("wanted", [_ALL, []], ids=["wanted", "skipped"])
@pytest.mark.parametrize(("at", "piece", "error"), _CASES)
def test_a_bad_field_is_noticed_whether_or_not_it_is_wanted(at, piece, error, wanted):
    good = b"".join(_GOOD)
    columns, codes = _decode([good, _with(at, piece), good], wanted)
    assert codes.tolist() == [0, error, 0]
    assert all(columns[name][2].as_py() == _GOOD_VALUES[_ALL.index(name)] for name in wanted)


def test_the_extremes_of_integers_are_read():
    least, most = b"\xff" * 9 + b"\x01", b"\xfe" + b"\xff" * 8 + b"\x01"
    columns, codes = _decode([_with(0, least), _with(0, most), _with(1, b"\xff\xff\xff\xff\x0f")])
    assert not codes.any()
    assert columns["f0"].to_pylist() == [-(2**63), 2**63 - 1, 1]
    assert columns["f1"].to_pylist() == [-2, -2, -(2**31)]


@pytest.mark.parametrize(
    "text",
    [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x80", b"\xf5a"],
)
def test_text_that_is_no_utf8_costs_only_its_row(text):
    with pytest.raises(UnicodeDecodeError):
        text.decode()
    body = _with(3, bytes([2 * len(text)]) + text)
    columns, codes = _decode([b"".join(_GOOD), body, b"".join(_GOOD)])
    assert codes.tolist() == [0, RowError.BAD_UTF8, 0]
    columns["f3"].validate(full=True)
    assert columns["f3"].to_pylist() == ["ab", "", "ab"]


def test_text_that_is_not_wanted_is_not_checked_for_utf8():
    _, codes = _decode([_with(3, b"\x02\xff")], ["f0"])
    assert codes.tolist() == [RowError.OK]


def test_a_signalling_nan_is_read_without_a_warning():
    columns, codes = _decode([_with(7, b"\x01\x00\x80\x7f"), _with(7, b"\x00\x00\x80\xff")])
    assert not codes.any()
    assert np.isnan(columns["f7"][0].as_py())
    assert columns["f7"][1].as_py() == -np.inf


def test_two_bad_rows_whose_lengths_cancel_leave_the_rows_between_alone():
    """One byte too few, then one too many: joined, the payloads have the right length in total."""
    good = b"".join(_GOOD)
    short, long = good[:-1], b"\x00" + good
    bodies = [good, short, good, _with(3, b"\x04xy"), long, good]
    assert sum(map(len, bodies)) == len(good) * len(bodies)
    columns, codes = _decode(bodies)
    assert [code == RowError.OK for code in codes] == [True, False, True, True, False, True]
    rows = pa.table(columns).to_pylist()
    expected = dict(zip(_ALL, _GOOD_VALUES, strict=True))
    assert [rows[at] for at in (0, 2, 3, 5)] == [
        expected,
        expected,
        expected | {"f3": "xy"},
        expected,
    ]


def test_every_prefix_of_a_row_is_truncated_and_reads_nothing_beyond_itself():
    good = b"".join(_GOOD)
    _, codes = _decode([good[:size] for size in range(len(good))] + [good])
    assert set(codes[:-1].tolist()) <= {RowError.TRUNCATED, RowError.BAD_LENGTH}
    assert codes[-1] == RowError.OK


def test_spans_outside_the_buffer_are_refused_row_by_row():
    data = np.frombuffer(b"".join(_GOOD) * 2, dtype=np.uint8)
    size = data.shape[0] // 2
    starts = np.array([-1, 0, size, size, 2 * size, 0], dtype=np.int64)
    ends = np.array([size, size, 2 * size + 1, 2 * size, size, 2**62], dtype=np.int64)
    columns, codes = compile_decoder(_SCHEMA, ["f0"]).decode(data, starts, ends)
    out = RowError.OUT_OF_BOUNDS
    assert codes.tolist() == [out, RowError.OK, out, RowError.OK, out, out]
    assert len(columns["f0"]) == 6


def test_no_rows_make_empty_columns():
    columns, codes = _decode([])
    assert codes.shape == (0,)
    assert {len(column) for column in columns.values()} == {0}


def test_an_unknown_or_repeated_field_is_refused():
    with pytest.raises(SchemaError, match="no field 'nope'"):
        compile_decoder(_SCHEMA, ["f0", "nope"])
    with pytest.raises(SchemaError, match="twice"):
        compile_decoder(_SCHEMA, ["f0", "f0"])


def test_a_nested_schema_is_not_covered():
    fields = [
        {"name": "a", "type": "long"},
        {"name": "b", "type": {"type": "map", "values": "int"}},
    ]
    schema = parse_schema(json.dumps({"type": "record", "name": "r", "fields": fields}))
    with pytest.raises(SchemaError, match="not covered: b"):
        compile_decoder(schema, ["a"])


def test_every_error_has_words():
    assert all(error.text for error in RowError)
