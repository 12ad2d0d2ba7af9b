"""The encoder's checks of its columns; its bytes are compared with fastavro's elsewhere."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from service.avro.encoder import compile_encoder
from service.avro.schema import parse_schema
from service.avro.wire import header
from service.errors import DataError, SchemaError


def _encoder(*types: object):
    fields = [{"name": f"f{at}", "type": each} for at, each in enumerate(types)]
    return compile_encoder(
        parse_schema(json.dumps({"type": "record", "name": "r", "fields": fields}))
    )


_ENUM = {"type": "enum", "name": "e", "symbols": ["A", "B"]}
_FIXED = {"type": "fixed", "name": "x", "size": 2}


def test_every_row_follows_its_own_prefix():
    data, offsets = _encoder("long").encode({"f0": np.array([1, -1, 64])}, header(7))
    rows = [data[offsets[at] : offsets[at + 1]].tobytes() for at in range(3)]
    assert rows == [header(7) + body for body in (b"\x02", b"\x01", b"\x80\x01")]


def test_columns_of_other_types_are_converted_if_nothing_is_lost():
    encoder = _encoder("long", "double")
    plain = encoder.encode({"f0": np.array([5]), "f1": np.array([2.0])})
    other = encoder.encode({"f0": np.array([5], np.uint8), "f1": np.array([2], np.int32)})
    assert plain[0].tobytes() == other[0].tobytes()


def test_a_slice_of_an_arrow_array_is_encoded_as_that_slice():
    text = pa.array(["zero", "one", None, "three", "four"])
    encoder = _encoder(["null", "string"])
    part, _ = encoder.encode({"f0": text.slice(1, 3)})
    whole, _ = encoder.encode({"f0": pa.array(["one", None, "three"])})
    assert part.tobytes() == whole.tobytes() == b"\x02\x06one\x00\x02\x0athree"


def test_columns_that_are_neither_contiguous_nor_aligned_are_taken():
    encoder = _encoder("long")
    wide = np.arange(20)[::2]
    crooked = np.frombuffer(b"x" + np.arange(0, 20, 2).tobytes(), np.int64, offset=1)
    expected = encoder.encode({"f0": wide.copy()})[0].tobytes()
    assert encoder.encode({"f0": wide})[0].tobytes() == expected
    assert encoder.encode({"f0": crooked})[0].tobytes() == expected


def test_infinities_and_nan_are_floats():
    data, _ = _encoder("float").encode({"f0": np.array([np.inf, -np.inf, np.nan, 0.1])})
    read = np.frombuffer(data.tobytes(), "<f4")
    assert np.isnan(read[2])
    assert read[[0, 1, 3]].tolist() == [np.inf, -np.inf, float(np.float32(0.1))]


def test_dictionary_and_large_string_columns_are_taken():
    encoder = _encoder("string")
    plain = encoder.encode({"f0": pa.array(["a", "b", "a"])})[0].tobytes()
    for kind in (pa.dictionary(pa.int32(), pa.string()), pa.large_string()):
        assert encoder.encode({"f0": pa.array(["a", "b", "a"]).cast(kind)})[0].tobytes() == plain


@pytest.mark.parametrize(
    ("kind", "column", "complaint"),
    [
        ("long", pa.array([1, None]), "cannot be null"),
        ("string", pa.array(["a", None]), "cannot be null"),
        ("int", np.array([2**31]), "does not fit"),
        ("long", np.array([2**63], np.uint64), "does not fit"),
        ("long", np.array([1.5]), "does not fit"),
        ("long", pa.array(["x"]), "does not fit"),
        ("float", np.array([1e300]), "too large"),
        ("string", pa.array([b"\xff"]), "does not fit"),
        (_ENUM, pa.array(["A", "C"]), "none of: A, B"),
        (_FIXED, pa.array([b"ab", b"abc"]), "must have 2 bytes"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_the_name_of_its_column(kind, column, complaint):
    with pytest.raises(DataError, match=f"f0.*{complaint}|{complaint}") as caught:
        _encoder(kind).encode({"f0": column})
    assert "f0" in str(caught.value)


def test_columns_must_be_there_and_of_one_length():
    encoder = _encoder("long", "long")
    with pytest.raises(DataError, match="no column for f1"):
        encoder.encode({"f0": np.array([1])})
    with pytest.raises(DataError, match="different lengths"):
        encoder.encode({"f0": np.array([1]), "f1": np.array([1, 2])})


def test_schemas_that_no_kernel_covers_are_refused():
    with pytest.raises(SchemaError, match="not covered: f0"):
        _encoder({"type": "array", "items": "long"})
    with pytest.raises(SchemaError, match="nothing to encode"):
        _encoder()


def test_warming_needs_no_data():
    encoder = _encoder("long", ["null", "string"], _ENUM, _FIXED, "null", "boolean")
    encoder.warm()
    data, offsets = encoder.encode({f"f{at}": pa.nulls(0) for at in range(6)})
    assert (data.shape, offsets.tolist()) == ((0,), [0])
