"""Rows as bodies of frames."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from service.dataflow.transport.base import Received
from service.dataflow.transport.frame import FLAG_ORIGIN, FLAG_SCHEMA, FrameKind
from service.dataflow.transport.rows import SchemaCache
from service.errors import GraphError, ProtocolViolation

ROWS = pa.record_batch({"key": pa.array([3, 1, 2]), "price": pa.array([1.5, 2.5, None])})


def received(flags, parts, sender=0, channel=1):
    return Received(sender, FrameKind.DATA, channel, (1,), tuple(parts), flags)


def test_the_second_batch_of_a_channel_goes_without_schema():
    sender, receiver = SchemaCache(), SchemaCache()
    for expected in (FLAG_SCHEMA, 0, 0):
        flags, parts = sender.encode(1, 1, ROWS)
        assert flags == expected
        rows, origin = receiver.decode(received(flags, parts))
        assert rows.equals(ROWS)
        assert origin is None


def test_a_changed_schema_is_sent_again():
    sender, receiver = SchemaCache(), SchemaCache()
    other = pa.record_batch({"name": pa.array(["ä", "b", None])})
    for batch, expected in (
        (ROWS, FLAG_SCHEMA),
        (other, FLAG_SCHEMA),
        (other, 0),
        (ROWS, FLAG_SCHEMA),
    ):
        flags, parts = sender.encode(1, 1, batch)
        assert flags == expected
        assert receiver.decode(received(flags, parts))[0].equals(batch)


def test_slices_and_empty_batches_travel():
    sender, receiver = SchemaCache(), SchemaCache()
    for batch in (ROWS.slice(1, 2), ROWS.slice(3), ROWS.slice(0, 0)):
        flags, parts = sender.encode(1, 1, batch, np.arange(batch.num_rows))
        assert flags & FLAG_ORIGIN
        rows, origin = receiver.decode(received(flags, parts))
        assert rows.equals(batch)
        assert origin is not None
        assert origin.tolist() == list(range(batch.num_rows))


def test_decoded_columns_share_the_bytes_of_the_frame_if_it_is_aligned():
    _, (_, body) = SchemaCache().encode(1, 1, ROWS)
    schema = ROWS.schema.serialize()
    frame = pa.py_buffer(bytes(body))
    rows, _ = SchemaCache().decode(received(FLAG_SCHEMA, [schema, frame]))
    assert frame.address <= rows.column(0).buffers()[1].address < frame.address + frame.size


def test_columns_are_aligned_even_if_the_frame_is_not():
    _, (_, body) = SchemaCache().encode(1, 1, ROWS)
    schema = ROWS.schema.serialize()
    shifted = memoryview(b"x" + bytes(body))[1:]
    origin = memoryview(b"x" + np.arange(3).tobytes())[1:]
    rows, origin_read = SchemaCache().decode(
        received(FLAG_SCHEMA | FLAG_ORIGIN, [schema, shifted, origin])
    )
    assert rows.equals(ROWS)
    assert rows.column(0).to_numpy().flags.aligned
    assert origin_read is not None
    assert origin_read.flags.aligned


def test_rows_before_their_schema_are_a_violation():
    _, (_, body) = SchemaCache().encode(1, 1, ROWS)
    with pytest.raises(ProtocolViolation, match="before their schema"):
        SchemaCache().decode(received(0, [body]))


def test_schemas_of_other_senders_and_channels_do_not_count():
    flags, parts = SchemaCache().encode(1, 1, ROWS)
    receiver = SchemaCache()
    receiver.decode(received(flags, parts))
    for sender, channel in ((0, 2), (1, 1)):
        with pytest.raises(ProtocolViolation, match="before their schema"):
            receiver.decode(received(0, parts[1:], sender, channel))


@pytest.mark.parametrize("flags", [0, FLAG_SCHEMA, FLAG_ORIGIN, FLAG_SCHEMA | FLAG_ORIGIN])
@pytest.mark.parametrize("count", [0, 1, 2, 3, 4])
def test_a_wrong_number_of_parts_is_a_violation(flags, count):
    expected = 1 + bool(flags & FLAG_SCHEMA) + bool(flags & FLAG_ORIGIN)
    if count != expected:
        with pytest.raises(ProtocolViolation, match="parts"):
            SchemaCache().decode(received(flags, [b"x"] * count))


def test_origins_of_the_wrong_length_are_a_violation():
    flags, parts = SchemaCache().encode(1, 1, ROWS, np.arange(3))
    with pytest.raises(ProtocolViolation, match="16 bytes of origin for 3 rows"):
        SchemaCache().decode(received(flags, [*parts[:2], bytes(16)]))


def test_a_dictionary_encoded_column_is_refused_by_name():
    rows = pa.record_batch({"city": pa.array(["a", "b", "a"]).dictionary_encode()})
    with pytest.raises(GraphError, match="'city'"):
        SchemaCache().encode(1, 1, rows)
