"""JSON by kernels is JSON as Python reads and writes it, whatever the records.

Claims: JD1, JD2, JD3, JE1, JE2, JR1, JR2, JS1.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from service.errors import DataError
from service.json_text.decoder import JsonDecoder
from service.json_text.encoder import JsonEncoder
from service.json_text.reading import GOOD, SKIPPED

_TYPES = {"n": pa.int64(), "x": pa.float64(), "yes": pa.bool_(), "t": pa.string(), "at": pa.int64()}
SCHEMA = pa.schema(
    [pa.field(name, of, nullable=name in ("x", "yes")) for name, of in _TYPES.items()]
)
DECODER = JsonDecoder(SCHEMA, frozenset({"at"}))

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_LONGS = st.integers(-(2**63), 2**63 - 1)
_DOUBLES = st.floats(allow_nan=False, allow_infinity=False)
_TIMES = st.integers(-62_135_596_800_000, 253_402_300_799_999).map(
    lambda ms: EPOCH + timedelta(milliseconds=ms)
)
_ANY = st.recursive(
    st.none() | st.booleans() | _LONGS | _DOUBLES | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
_GOOD = st.fixed_dictionaries(
    {"n": _LONGS, "x": _DOUBLES | st.none(), "t": st.text(max_size=6), "at": _LONGS | _TIMES},
    optional={"yes": st.booleans() | st.none(), "other": _ANY, "": _ANY},
)
#: Something is wrong with most of them.
_ODD = st.dictionaries(st.sampled_from([*_TYPES, "other"]), _ANY, max_size=6) | _ANY


def decode(texts, decoder=DECODER):
    """The texts as one poll, each in its place of a buffer with noise between."""
    starts, ends, buffer = [], [], b"}"
    for text in texts:
        starts.append(len(buffer))
        buffer += text
        ends.append(len(buffer))
        buffer += b'"{'
    spans = np.array(starts, dtype=np.int64), np.array(ends, dtype=np.int64)
    return decoder.decode(np.frombuffer(buffer, dtype=np.uint8), *spans)


def written(record, *, plain=False):
    """A record as text: times by ISO 8601, with blanks and escapes or without."""
    given = {
        name: value.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        if isinstance(value, datetime)
        else value
        for name, value in record.items()
    }
    if plain:
        return json.dumps(given, ensure_ascii=False, separators=(",", ":")).encode()
    return json.dumps(given, indent=1).encode()


def columns_of(record):
    """What the decoder must make of a good record."""
    at = record["at"]
    if isinstance(at, datetime):
        at = (at.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(
            milliseconds=1
        )
    return {**{name: record.get(name) for name in _TYPES}, "at": at}


@given(st.lists(_GOOD, max_size=5), st.booleans())
@example([{"n": 2**63 - 1, "x": 1e300, "t": "", "at": 0}], True)
@example(
    [{"n": 10**18, "x": 0.1, "t": "é", "at": datetime(1969, 2, 28, 1, 2, 3, tzinfo=UTC)}], True
)
def test_good_records_become_rows(records, plain):
    decoded = decode([written(record, plain=plain) for record in records])
    assert decoded.bad == []
    assert decoded.rows.schema == SCHEMA
    assert decoded.rows.to_pylist() == list(map(columns_of, records))
    assert decoded.members.tolist() == list(range(len(records)))


@given(
    st.lists(
        _GOOD.map(lambda record: (record, True)) | _ODD.map(lambda odd: (odd, False)), max_size=6
    ),
    st.booleans(),
)
def test_a_bad_record_costs_only_itself(records, plain):
    texts = [
        written(record, plain=plain) if good else json.dumps(record).encode()
        for record, good in records
    ]
    decoded = decode(texts)
    bad = {each.row for each in decoded.bad}
    assert sorted([*decoded.members.tolist(), *bad]) == list(range(len(records)))
    for place, (record, good) in enumerate(records):
        if good:
            assert place not in bad
        elif place not in bad:
            assert isinstance(record["n"], int)
            assert isinstance(record["t"], str)
    # What is taken alone is what is taken among others.
    alone = [decode([text]).rows.to_pylist() for text in texts]
    assert [row for rows in alone for row in rows] == decoded.rows.to_pylist()


@settings(max_examples=300)
@given(_GOOD, st.data())
def test_the_kernel_never_takes_what_is_no_json(record, data):
    """A byte lost, doubled or changed: the kernel agrees with Python, or leaves it to Python."""
    text = bytearray(written(record, plain=data.draw(st.booleans())))
    place = data.draw(st.integers(0, len(text) - 1))
    change = data.draw(st.integers(0, 2))
    if change == 0:
        del text[place]
    elif change == 1:
        text.insert(place, text[place])
    else:
        text[place] = data.draw(st.sampled_from(b'{}[]",:\\0-.eE tn\x00\xff'))
    codes = np.zeros(1, dtype=np.uint8)
    buffer = np.frombuffer(bytes(text), dtype=np.uint8)
    spans = np.array([0]), np.array([len(text)])
    rows = DECODER._by_kernel(buffer, *spans, codes)
    if codes[0] == GOOD:
        read = json.loads(text.decode(errors="replace"))
        assert rows["n"][0].as_py() == read["n"]
        assert type(read["n"]) is int
        assert rows["x"][0].as_py() == read.get("x")
        assert rows["t"][0].as_py() == read["t"]


@pytest.mark.parametrize(
    ("text", "reason", "detail"),
    [
        (b"", "bad_json", "value is no JSON: Input data was truncated"),
        (b"{", "bad_json", "value is no JSON: Input data was truncated"),
        (b'{"n":1,"t":"","at":0}}', "bad_json", "value is no JSON: JSON is malformed"),
        (b"[1]", "no_object", "value is an array, not an object"),
        (b"null", "no_object", "value is null, not an object"),
        (b'{"t":"","at":0}', "missing_field", "field 'n' is missing"),
        (b'{"n":null,"t":"","at":0}', "wrong_type", "field 'n' is null, not int64"),
        (b'{"n":1.0,"t":"","at":0}', "wrong_type", "field 'n' is the number 1.0, not int64"),
        (b'{"n":true,"t":"","at":0}', "wrong_type", "field 'n' is a boolean, not int64"),
        (b'{"n":"1","t":"","at":0}', "wrong_type", "field 'n' is a text, not int64"),
        (b'{"n":1,"t":7,"at":0}', "wrong_type", "field 't' is the number 7, not string"),
        (b'{"n":1,"t":"","at":0,"x":"1"}', "wrong_type", "field 'x' is a text, not double"),
        (b'{"n":9223372036854775808,"t":"","at":0}', "out_of_range", "beyond 64 bits"),
        (b'{"n":1,"t":"","at":"noon"}', "bad_time", "field 'at' is 'noon', no time in ISO 8601"),
        (b'{"n":1,"t":"","at":"2023-02-29T00:00:00Z"}', "bad_time", "no time in ISO 8601"),
        (b'{"n":1,"t":"\xff","at":0}', "bad_json", "value is no JSON"),
        (b"\x00\x00\x00\x00\x03\x02", "bad_json", "value is no JSON"),
    ],
)
def test_what_is_wrong_is_said(text, reason, detail):
    fine = b'{"n":1,"t":"","at":0}'
    decoded = decode([fine, text, fine])
    assert decoded.members.tolist() == [0, 2]
    ((row, found, words),) = decoded.bad
    assert (row, found) == (1, reason)
    assert detail in words


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("2026-11-22T05:23:11.123Z", 1_795_324_991_123),
        ("2026-11-22T05:23:11.1239Z", 1_795_324_991_123),
        ("2026-11-22T07:23:11.5+02:00", 1_795_324_991_500),
        ("2026-11-22T05:23:11", 1_795_324_991_000),
        ("1969-12-31T23:59:59.999Z", -1),
        ("2000-02-29T00:00:00Z", 951_782_400_000),
        ("0001-01-01T00:00:00Z", -62_135_596_800_000),
    ],
)
def test_times_are_read_as_milliseconds(text, ms):
    decoded = decode([json.dumps({"n": 1, "t": "", "at": text}).encode()])
    assert decoded.rows["at"].to_pylist() == [ms]


def test_records_under_a_member_are_taken_and_others_skipped():
    decoder = JsonDecoder(pa.schema([pa.field("n", pa.int64(), nullable=False)]), inside="bid")
    texts = [
        b'{"event_type":2,"person":null,"bid":{"n":1}}',
        b'{"event_type":0,"person":{"n":5,"deep":[{"n":6}]},"bid":null}',
        b'{"bid":{"n":2},"extra":"{\\"n\\""}',
        b"{}",
        b'{"bid":7}',
        b'{"bid":{"n":3}',
        b'{"bid":{"n":4}} ',
    ]
    decoded = decode(texts, decoder)
    assert decoded.rows["n"].to_pylist() == [1, 2, 4]
    assert decoded.members.tolist() == [0, 2, 6]
    assert decoded.skipped == 2
    assert [(bad.row, bad.reason) for bad in decoded.bad] == [(4, "wrong_type"), (5, "bad_json")]


def test_the_kernel_takes_what_is_usual():
    """Otherwise all would go the slow way, and nobody would notice."""
    codes = np.zeros(2, dtype=np.uint8)
    texts = (
        '{"n":-12, "t":"a é","at":"2026-11-22T05:23:11Z","x":-1.5e3,"z":[{}, {"a":[1]}]}'.encode(),
        b'{"yes":true,"at":0,"t":"","n":1,"x":null}',
    )
    data = np.frombuffer(b"".join(texts), dtype=np.uint8)
    ends = np.cumsum([len(text) for text in texts])
    DECODER._by_kernel(data, ends - [len(text) for text in texts], ends, codes)
    assert codes.tolist() == [GOOD, GOOD]
    inside = JsonDecoder(SCHEMA, inside="bid")
    data = np.frombuffer(b'{"bid": null}', dtype=np.uint8)
    codes = np.zeros(1, dtype=np.uint8)
    inside._by_kernel(data, np.array([0]), np.array([len(data)]), codes)
    assert codes.tolist() == [SKIPPED]


_COLUMNS = st.fixed_dictionaries(
    {
        "n": _LONGS | st.none(),
        "x": st.floats() | st.none(),
        "yes": st.booleans() | st.none(),
        'a "name"': st.text(max_size=8) | st.none(),
        "list": st.lists(st.integers(-9, 9), max_size=3) | st.none(),
    }
)
_ENCODED = pa.schema(
    [
        ("n", pa.int64()),
        ("x", pa.float64()),
        ("yes", pa.bool_()),
        ('a "name"', pa.string()),
        ("list", pa.list_(pa.int64())),
    ]
)


@given(st.lists(_COLUMNS, max_size=5), st.integers(0, 2))
def test_rows_are_written_as_python_reads_them(rows, cut):
    batch = pa.RecordBatch.from_pylist(rows, _ENCODED).slice(cut)
    data, offsets = JsonEncoder().encode(dict(zip(batch.schema.names, batch.columns, strict=True)))
    texts = [data[a:b].tobytes() for a, b in pairwise(offsets)]
    assert [json.loads(text) for text in texts] == [
        {**row, "x": None if row["x"] is None or not math.isfinite(row["x"]) else row["x"]}
        for row in rows[cut:]
    ]
    assert all(b"\n" not in text for text in texts)


def test_other_types_are_written_or_refused():
    columns = {
        "at": pa.array(
            [datetime(2026, 11, 22, 5, 23, 11, 123_000, tzinfo=UTC)], pa.timestamp("ms", "UTC")
        ),
        "price": pa.array(["1.50"]).cast(pa.decimal128(5, 2)),
        "small": pa.array([7], pa.int8()),
        "great": pa.array([2**64 - 1], pa.uint64()),
        "nothing": pa.nulls(1),
        "name": pa.array(["a"]).dictionary_encode(),
    }
    data, _ = JsonEncoder().encode(columns)
    assert json.loads(data.tobytes()) == {
        "at": "2026-11-22T05:23:11.123Z",
        "price": "1.50",
        "small": 7,
        "great": 2**64 - 1,
        "nothing": None,
        "name": "a",
    }
    with pytest.raises(DataError, match="column 'raw' is binary, which JSON cannot hold"):
        JsonEncoder().encode({"raw": pa.array([b"x"])})
