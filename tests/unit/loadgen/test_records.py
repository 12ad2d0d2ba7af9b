"""Record batches and protocol against a reader written here from Kafka's guide, record by record.

Cannot catch: what a broker thinks of them (tests/integration/test_loadgen.py).
"""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest

from loadgen import protocol, records
from loadgen.payloads import NOTHING, Payloads
from service.nexmark.events import EventSource, NexmarkConfig

PARTITIONS = 3


def crc32c(data):
    """Bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def varint(stream):
    bits = shift = 0
    while True:
        byte = stream.read(1)[0]
        bits |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return bits >> 1 ^ -(bits & 1)


def read_batch(batch):
    """(header fields by name, [(offset delta, key, value)]) of a whole batch."""
    names = "base length epoch magic crc attributes last first_ms max_ms producer producer_epoch"
    fields = struct.unpack_from(">qiibIhiqqqhii", batch)
    header = dict(zip([*names.split(), "sequence", "count"], fields, strict=True))
    assert header["length"] == len(batch) - 12
    assert header["crc"] == crc32c(batch[21:])
    stream = io.BytesIO(batch[61:])
    found = []
    for _ in range(header["count"]):
        size = varint(stream)
        end = stream.tell() + size
        assert stream.read(1) == b"\0"
        assert varint(stream) == 0
        delta = varint(stream)
        key = stream.read(varint(stream))
        value = stream.read(varint(stream))
        assert varint(stream) == 0
        assert stream.tell() == end
        found.append((delta, key, value))
    assert stream.read() == b""
    return header, found


def written(run, sequences, time_ms=1_750_000_000_123):
    """The bytes of each group."""
    out = np.zeros(len(run.keys) * 200 + 1_000, dtype=np.uint8)
    ends = np.zeros(PARTITIONS, dtype=np.int64)
    records.write_batches(
        run.data,
        run.offsets,
        run.keys,
        run.partition_starts,
        np.arange(PARTITIONS),
        np.array([time_ms, 2**40, 7]),
        np.array(sequences),
        records.tables(),
        out,
        ends,
    )
    starts = [0, *ends.tolist()]
    return [out[a:b].tobytes() for a, b in zip(starts, ends)]


def events(count, first=0):
    numbers = np.arange(first, first + count)
    return EventSource(NexmarkConfig(seed=3)).encode(numbers, numbers, PARTITIONS)


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 300])
def test_the_checksum_is_crc_32c(length):
    data = np.random.default_rng(length).integers(0, 256, length).astype(np.uint8)
    assert records.crc32c(data, 0, length, records.tables()) == crc32c(data.tobytes())


def test_the_checksum_of_the_standard_text():
    data = np.frombuffer(b"123456789", dtype=np.uint8)
    assert records.crc32c(data, 0, 9, records.tables()) == 0xE3069283


def test_batches_read_back_by_the_guide():
    run = events(2_000)
    values, keys = run.values(), run.key_bytes()
    for partition, written_bytes in enumerate(written(run, [5, 0, 2**31 - 1])):
        first, end = run.partition_starts[partition : partition + 2].tolist()
        assert struct.unpack_from(">ii", written_bytes) == (partition, len(written_bytes) - 8)
        header, found = read_batch(written_bytes[8:])
        assert [delta for delta, _, _ in found] == [*range(end - first)]
        assert [key for _, key, _ in found] == keys[first:end]
        assert [value for _, _, value in found] == values[first:end]
        assert header["last"] == end - first - 1
        assert header["sequence"] == [5, 0, 2**31 - 1][partition]
        assert (header["producer"], header["producer_epoch"]) == (2**40, 7)
        assert header["first_ms"] == header["max_ms"] == 1_750_000_000_123
        assert (header["magic"], header["attributes"]) == (2, 0)


def test_a_partition_without_messages_has_no_batch():
    run = events(1)
    assert sorted(map(len, written(run, [0, 0, 0])))[:2] == [0, 0]


def answer_of(batches, *, aborted=(), error=0, cut=0):
    """A fetch's answer for partition 0."""
    content = b"".join(batches)
    content = content[: len(content) - cut]
    partition = struct.pack(">ihqqi", 0, error, 99, 99, len(aborted) or -1)
    partition += b"".join(struct.pack(">qq", *each) for each in aborted)
    partition += struct.pack(">i", len(content)) + content
    return struct.pack(">ii", 0, 1) + protocol.string("out") + struct.pack(">i", 1) + partition


def batch_at(offset, run, *, attributes=0, producer=2**40, control=False):
    """The first non-empty batch of a run, as a broker at `offset` gives it."""
    batch = bytearray(next(each for each in written(run, [0, 0, 0]) if each)[8:])
    struct.pack_into(">q", batch, 0, offset)
    struct.pack_into(">h", batch, 21, attributes | (0x20 if control else 0))
    struct.pack_into(">q", batch, 43, producer)
    return bytes(batch)


def values_of(answer, position):
    """(values, next position) through the product's code."""
    (part,) = protocol.fetched(answer)
    sections, after = protocol.sections(answer, part, position)
    table = np.array(sections, dtype=np.int64).reshape(len(sections), 5)
    starts = np.empty(int(table[:, 2].sum()), dtype=np.int64)
    ends = starts.copy()
    count = records.values_in(np.frombuffer(answer, dtype=np.uint8), table, starts, ends)
    places = zip(starts[:count].tolist(), ends[:count].tolist())
    return [answer[a:b] for a, b in places], after


def values_in_batch(batch):
    return [value for _, _, value in read_batch_of(batch)]


def read_batch_of(batch):
    """Records of a batch whose attributes were changed behind its checksum."""
    plain = bytearray(batch)
    struct.pack_into(">h", plain, 21, 0)
    struct.pack_into(">q", plain, 43, 2**40)
    struct.pack_into(">q", plain, 0, 0)
    return read_batch(bytes(plain))[1]


def test_values_are_found_from_the_offset_asked_for_on():
    batches = [batch_at(0, events(600)), batch_at(1_000, events(600, 600))]
    first, second = map(values_in_batch, batches)
    assert values_of(answer_of(batches), 0) == (first + second, 1_000 + len(second))
    assert values_of(answer_of(batches), 10)[0] == first[10:] + second
    assert values_of(answer_of(batches), 1_003)[0] == second[3:]


def test_a_batch_cut_short_waits_for_the_next_answer():
    batches = [batch_at(0, events(600)), batch_at(1_000, events(600, 600))]
    first = values_in_batch(batches[0])
    assert values_of(answer_of(batches, cut=1), 0) == (first, len(first))


def test_markers_are_passed_over_and_aborted_records_are_not_given():
    kept = batch_at(0, events(300), attributes=0x10, producer=1)
    lost = batch_at(400, events(300, 300), attributes=0x10, producer=2)
    marker = batch_at(800, events(1), attributes=0x10, producer=2, control=True)
    later = batch_at(900, events(300, 900), attributes=0x10, producer=2)
    answer = answer_of([kept, lost, marker, later], aborted=[(2, 350)])
    values, after = values_of(answer, 0)
    assert values == values_in_batch(kept) + values_in_batch(later)
    assert after == 900 + len(values_in_batch(later))


def test_a_compressed_batch_is_refused_by_name():
    answer = answer_of([batch_at(0, events(300), attributes=4)])
    (part,) = protocol.fetched(answer)
    with pytest.raises(protocol.Unreadable, match="compressed"):
        protocol.sections(answer, part, 0)


def test_a_malformed_batch_is_noticed_and_never_read_beyond():
    batch = bytearray(batch_at(0, events(300)))
    batch[61] = 0xFE  # the first record claims to be longer than the batch
    batch[62:70] = b"\xff" * 8
    answer = answer_of([bytes(batch)])
    (part,) = protocol.fetched(answer)
    sections, _ = protocol.sections(answer, part, 0)
    room = np.empty(1_000, dtype=np.int64)
    table = np.array(sections, dtype=np.int64)
    found = records.values_in(np.frombuffer(answer, dtype=np.uint8), table, room, room.copy())
    assert found == -1


def test_the_errors_of_a_produce_request_are_named():
    topic = protocol.string("in") + struct.pack(">i", 2)
    stored = struct.pack(">ihqqq", 0, 0, 5, -1, 0)
    refused = struct.pack(">ihqqq", 1, 10, -1, -1, -1)
    answer = struct.pack(">i", 1) + topic + stored + refused + struct.pack(">i", 0)
    assert protocol.produce_errors(answer) == [("in", 1, 10)]
    assert "too large" in protocol.text_of(10)
    assert "77" in protocol.text_of(77)


def test_payloads_of_several_answers_stay_apart():
    values = [[b"a", b"", b"bc"], [b"def"]]
    together = Payloads.together([Payloads.of(each) for each in values])
    found = [
        together.data[a:b].tobytes()
        for a, b in zip(together.starts.tolist(), together.ends.tolist())
    ]
    assert found == [b"a", b"", b"bc", b"def"]
    assert len(Payloads.together([])) == len(NOTHING) == 0
