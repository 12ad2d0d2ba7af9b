"""Properties of rows as bodies: they survive, and damaged ones are refused, not believed (RW3)."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from service.dataflow.transport.base import Received
from service.dataflow.transport.frame import FLAG_SCHEMA, FrameKind
from service.dataflow.transport.rows import SchemaCache
from service.errors import ProtocolViolation

int64s = st.integers(-(2**63), 2**63 - 1)


@st.composite
def batches(draw):
    size = draw(st.integers(0, 20))

    def column(values):
        return draw(st.lists(values, min_size=size, max_size=size))

    columns = {
        "key": pa.array(column(int64s), pa.int64()),
        "price": pa.array(column(st.none() | st.floats(allow_nan=False)), pa.float64()),
        "name": pa.array(column(st.none() | st.text(max_size=5)), pa.string()),
        "sold": pa.array(column(st.booleans()), pa.bool_()),
    }
    names = draw(st.lists(st.sampled_from(sorted(columns)), min_size=1, unique=True))
    return pa.record_batch({name: columns[name] for name in names})


def frame(channel, flags, parts):
    return Received(0, FrameKind.DATA, channel, (1,), tuple(parts), flags)


@given(st.lists(st.tuples(st.integers(0, 2), batches(), st.booleans()), max_size=8))
def test_rows_of_any_schema_survive_in_any_order_of_channels(sent):
    sender, receiver = SchemaCache(), SchemaCache()
    for channel, rows, with_origin in sent:
        origin = np.arange(rows.num_rows, dtype=np.int64) if with_origin else None
        flags, parts = sender.encode(1, channel, rows, origin)
        decoded, origin_read = receiver.decode(frame(channel, flags, parts))
        assert decoded.equals(rows)
        assert (origin_read is None) == (origin is None)
        if origin is not None and origin_read is not None:
            assert np.array_equal(origin, origin_read)


def decode_or_refuse(parts):
    try:
        rows, _ = SchemaCache().decode(frame(0, FLAG_SCHEMA, parts))
    except ProtocolViolation:
        return
    rows.validate(full=True)


@given(batches(), st.data())
def test_damaged_rows_are_refused_or_valid(rows, data):
    _, parts = SchemaCache().encode(1, 0, rows)
    damaged = [bytearray(part) for part in parts]
    for _ in range(data.draw(st.integers(1, 4))):
        part = data.draw(st.sampled_from(damaged))
        part[data.draw(st.integers(0, len(part) - 1))] = data.draw(st.integers(0, 255))
    decode_or_refuse([bytes(part) for part in damaged])
    cut = data.draw(st.integers(0, len(damaged[1])))
    decode_or_refuse([bytes(parts[0]), bytes(damaged[1][:cut])])


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_any_bytes_are_rows_or_a_violation(schema, body):
    decode_or_refuse([schema, body])
