"""Arrow messages that ask for more memory than they bring: refused before Arrow reads them."""

from __future__ import annotations

import io
import struct

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from service.arrow_messages import require_plain, second_message
from service.dataflow.transport.base import Received
from service.dataflow.transport.frame import FLAG_SCHEMA, FrameKind
from service.dataflow.transport.rows import ROWS_FREE, SchemaCache
from service.errors import ProtocolViolation, StateCorrupt
from service.statestore.chunk import BinAssembler, encode_bin
from service.statestore.columns import Rows

BOMB = pa.record_batch({"a": pa.array(np.zeros(4_000_000, dtype=np.int64))})


def messages(rows: pa.RecordBatch, compression: str | None = None) -> list[bytes]:
    """The schema message and the batch message of `rows`."""
    sink = io.BytesIO()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, rows.schema, options=options) as writer:
        writer.write_batch(rows)
    reader = pa.ipc.MessageReader.open_stream(sink.getvalue())
    return [reader.read_next_message().serialize().to_pybytes() for _ in range(2)]


def received(parts) -> Received:
    return Received(1, FrameKind.DATA, 0, (1,), tuple(parts), FLAG_SCHEMA)


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_a_compressed_frame_is_refused_before_it_unfolds(compression):
    schema, body = messages(BOMB, compression)
    assert len(body) < BOMB.nbytes // 100
    before = pa.total_allocated_bytes()
    with pytest.raises(ProtocolViolation, match="its body is compressed"):
        SchemaCache().decode(received([schema, body]))
    assert pa.total_allocated_bytes() - before < 1 << 20


def test_rows_that_take_no_bytes_are_bounded():
    for count in ((1 << 31) - 1, ROWS_FREE + 1):
        # `pa.nulls` would allocate a bit for each.
        nothing = pa.Array.from_buffers(pa.null(), count, [None])
        parts = messages(pa.record_batch({"a": nothing}))
        with pytest.raises(ProtocolViolation, match=f"sent {count} rows in"):
            SchemaCache().decode(received(parts))
    decoded, _ = SchemaCache().decode(received(messages(pa.record_batch({"a": pa.nulls(1000)}))))
    assert decoded.num_rows == 1000


def test_a_bit_a_row_is_enough():
    rows = pa.record_batch({"a": pa.array(np.ones(10 * ROWS_FREE, dtype=bool))})
    decoded, _ = SchemaCache().decode(received(messages(rows)))
    assert decoded.equals(rows)


@given(st.integers(0, 300), st.integers(0, 255), st.integers(0, 400))
def test_a_plain_message_passes_and_a_damaged_one_gives_a_value_error_or_passes(at, value, cut):
    (_, body) = messages(pa.record_batch({"a": pa.array([1, 2, 3]), "b": pa.array(["x", "", "z"])}))
    require_plain(body)
    require_plain(memoryview(b"four" + body)[4:])
    require_plain(b"8 bytes." + body, 8)
    damaged = bytearray(body)
    damaged[at % len(body)] = value
    for each in (bytes(damaged), bytes(damaged[:cut]), bytes(damaged[cut:])):
        try:
            require_plain(each)
            second_message(each)
        except ValueError:
            continue


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_value_error(data):
    for begin in (0, 8):
        try:
            require_plain(b"\xff\xff\xff\xff" + data, begin)
        except ValueError:
            continue


def resealed(chunk: bytes, body: bytes) -> bytes:
    """The chunk with another body and the digest that fits: damage that was meant."""
    head = chunk[:24]
    return head + body + xxhash.xxh3_128_digest(head + body)


def test_a_chunk_of_state_that_was_compressed_or_lies_is_refused_though_its_digest_fits():
    rows = Rows(np.arange(9), np.arange(9), {"n": np.arange(9)})
    first, *_ = encode_bin(3, 5, rows)
    assert struct.unpack_from("<4sBBHIIq", first)[4] == 3
    table = pa.record_batch(
        {"key": rows.keys, "version": rows.versions, "n": np.zeros(9, dtype=np.int64)}
    )
    for compression, complaint in ((None, ""), ("zstd", "compressed"), ("lz4", "compressed")):
        schema, batch = messages(table, compression)
        chunk = resealed(first, schema + batch)
        if not complaint:
            assert not BinAssembler(3).feed(chunk)
            continue
        with pytest.raises(StateCorrupt, match=complaint):
            BinAssembler(3).feed(chunk)
    plain = b"".join(messages(table))
    more = bytearray(plain)
    place = plain.index(struct.pack("<q", 9), second_message(plain))
    struct.pack_into("<q", more, place, 1 << 40)
    with pytest.raises(StateCorrupt, match="nothing was installed"):
        BinAssembler(3).feed(resealed(first, bytes(more)))
    for garbage in (b"", b"garbage", b"\xff" * 200, plain[:100]):
        with pytest.raises(StateCorrupt):
            BinAssembler(3).feed(resealed(first, garbage))
