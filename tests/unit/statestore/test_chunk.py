"""Chunks of a bin: their form, their limits, and each kind of wrong chunk by name.

Cannot catch: damage at a place nobody thought of; the property flips every byte.
"""

from __future__ import annotations

import struct

import numpy as np
import pytest
import xxhash

from service.errors import FormatMismatch, StateCorrupt, StateError
from service.statestore.chunk import (
    CHUNK_BYTES_MAX,
    CHUNK_FORMAT,
    BinAssembler,
    bin_of_chunk,
    encode_bin,
)
from service.statestore.columns import Rows


def rows_of(count, first=0):
    keys = np.arange(first, first + count)
    return Rows(keys, keys + 1, {"n": keys * 3, "x": keys / 2})


def encoded(count=3, bin_id=6, cut=50, timers=(), first=0, metadata=None):
    return list(encode_bin(bin_id, cut, rows_of(count, first), timers, metadata))


def assembled(chunks, bin_id=6):
    assembler = BinAssembler(bin_id)
    for chunk in chunks:
        assembler.feed(chunk)
    return assembler


def sealed(chunk):
    """The chunk with a right digest, as a sender with other intentions would make it."""
    return chunk[:-16] + xxhash.xxh3_128_digest(chunk[:-16])


def test_state_arrives_as_it_was_sent_in_numbered_chunks_of_bounded_size():
    timers = [b"", b"a\0b", b"z" * 600_000, b"y" * 600_000]
    chunks = encoded(count=100_000, timers=timers, metadata={"vertex": "stats"})
    assert len(chunks) == 4 + 2 + 1
    assert max(map(len, chunks)) <= CHUNK_BYTES_MAX
    assert max(map(len, chunks)) > CHUNK_BYTES_MAX * 0.95
    assembler = assembled(chunks)
    assert assembler.complete
    assert assembler.cut == 50
    assert assembler.nbytes == sum(map(len, chunks))
    assert assembler.metadata == {"vertex": "stats"}
    assert assembler.timers() == timers
    rows, expected = assembler.rows(), rows_of(100_000)
    assert np.array_equal(rows.keys, expected.keys)
    assert np.array_equal(rows.versions, expected.versions)
    assert list(rows.columns) == ["n", "x"]
    for name, values in rows.columns.items():
        assert values.dtype == expected.columns[name].dtype
        assert np.array_equal(values, expected.columns[name])


def test_an_empty_bin_arrives_with_its_columns():
    chunks = encoded(count=0)
    assert len(chunks) == 2
    rows = assembled(chunks).rows()
    assert len(rows) == 0
    assert {name: str(v.dtype) for name, v in rows.columns.items()} == {
        "n": "int64",
        "x": "float64",
    }


def test_only_the_last_chunk_completes():
    assembler = BinAssembler(6)
    assert [assembler.feed(chunk) for chunk in encoded(timers=[b"t"])] == [False, False, True]


def test_nothing_is_given_before_the_last_chunk():
    assembler = assembled(encoded()[:-1])
    for ask in (assembler.rows, assembler.timers, lambda: assembler.metadata):
        with pytest.raises(StateError, match="bin 6 is not complete: 1 chunks came"):
            ask()


def test_sender_and_receiver_have_the_same_digest_and_other_rows_another():
    first, again, other = (assembled(encoded(first=f)) for f in (0, 0, 1))
    assert len(first.digest) == 16
    assert first.digest == again.digest != other.digest


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c[1:], "chunk 1 came where 0 was due"),
        (lambda c: [c[0], *c[2:]], "chunk 2 came where 1 was due"),
        (lambda c: [c[0], c[0], *c[1:]], "chunk 0 came where 1 was due"),
        (lambda c: [*c, c[-1]], "after the end chunk"),
        (lambda c: [c[0][:20], *c[1:]], "has 20 bytes"),
        (lambda c: [c[0][:-1], *c[1:]], "does not match its digest"),
        (lambda c: [b"", *c], "has 0 bytes"),
        (lambda c: [c[0] + bytes(CHUNK_BYTES_MAX)], "bytes"),
        (lambda c: [b"X" + c[0][1:], *c[1:]], "no chunk of state"),
        (lambda c: [c[0], *encoded(bin_id=7, timers=[b"t"])[1:]], "is of bin 7"),
        (lambda c: [c[0], *encoded(cut=51, timers=[b"t"])[1:]], "of cut 51, not 50"),
        (lambda c: [*c[:-1], encoded(first=9, timers=[b"t"])[-1]], "final digest"),
        (lambda c: [*c[:-1], encoded(count=4, timers=[b"t"])[-1]], "counts 4 rows, 3 came"),
        (lambda c: [*c[:-1], encoded(timers=[b"t", b"u"])[-1]], "counts other timers"),
        (lambda c: [sealed(c[0][:5] + b"\3" + c[0][6:]), *c[1:]], "of section 3, after section 1"),
        (lambda c: [sealed(c[0][:5] + b"\2" + c[0][6:]), *c[1:]], "of section 2, after section 1"),
        (lambda c: [c[0], sealed(c[1][:5] + b"\6" + c[1][6:])], "of section 6"),
        (lambda c: [c[0], sealed(c[1][:5] + b"\0" + c[1][6:])], "of section 0"),
    ],
)
def test_a_wrong_chunk_is_refused_with_what_is_wrong(change, reason):
    with pytest.raises(StateCorrupt, match=rf"state of bin 6: .*{reason}.*; nothing was installed"):
        assembled(change(encoded(timers=[b"t"])))


def test_rows_after_timers_are_refused():
    rows, timers, _ = encoded(timers=[b"t"])
    again = sealed(rows[:12] + struct.pack("<I", 2) + rows[16:])
    with pytest.raises(StateCorrupt, match="of section 1, after section 2"):
        assembled([rows, timers, again])


def test_heap_and_keys_come_between_rows_and_timers_and_whole():
    heap, keys = bytes(range(256)) * 10_000, b"abc"
    chunks = list(encode_bin(6, 50, rows_of(3), [b"t"], heap=memoryview(heap), keys=keys))
    assert max(map(len, chunks)) <= CHUNK_BYTES_MAX
    assembler = assembled(chunks)
    assert [chunk[5] for chunk in chunks] == [1, 4, 4, 4, 5, 2, 3]
    assert (assembler.heap(), assembler.other_keys()) == (heap, keys)
    assert assembler.timers() == [b"t"]
    with pytest.raises(StateCorrupt, match="chunk 2 came where 1 was due"):
        assembled([chunks[0], *chunks[2:]])
    late = sealed(chunks[4][:12] + struct.pack("<I", 6) + chunks[4][16:])
    with pytest.raises(StateCorrupt, match="of section 5, after section 2"):
        assembled([*chunks[:6], late])


def test_chunks_of_the_format_before_are_read():
    before = [sealed(chunk[:4] + b"\1" + chunk[5:]) for chunk in encoded()[:1]]
    assembler = BinAssembler(6)
    assert not assembler.feed(before[0])


def test_a_chunk_of_another_format_is_told_from_a_damaged_one():
    chunk = encoded()[0]
    other = sealed(chunk[:4] + bytes([CHUNK_FORMAT + 1]) + chunk[5:])
    with pytest.raises(FormatMismatch, match=f"format {CHUNK_FORMAT + 1}, .* reads {CHUNK_FORMAT}"):
        assembled([other])


@pytest.mark.parametrize("section", [1, 2])
def test_a_body_that_is_no_arrow_message_is_refused_though_its_digest_is_right(section):
    rows, timers, _ = encoded(timers=[b"t"])
    chunks = [sealed(rows[:24] + bytes(80) + rows[-16:])]
    if section == 2:
        chunks = [rows, sealed(timers[:24] + b"\xff" * 80 + timers[-16:])]
    with pytest.raises(StateCorrupt, match="body of chunk [01] is not what its section says"):
        assembled(chunks)


def test_rows_without_keys_and_versions_are_refused():
    rows = rows_of(3)
    other = Rows(rows.keys / 2, rows.versions, rows.columns)
    with pytest.raises(StateCorrupt, match="schema is not of state rows"):
        assembled(list(encode_bin(6, 50, other)))


def test_the_bin_of_a_chunk_can_be_read_before_its_assembler_is_known():
    assert {bin_of_chunk(chunk) for chunk in encoded(bin_id=2**20 - 1, timers=[b"t"])} == {
        2**20 - 1
    }


def test_an_assembler_that_refused_a_chunk_takes_the_right_one():
    chunks = encoded(timers=[b"t"])
    assembler = assembled(chunks[:1])
    with pytest.raises(StateCorrupt):
        assembler.feed(chunks[2])
    assert assembler.feed(chunks[1]) is False
    assert assembler.feed(chunks[2]) is True
    assert len(assembler.rows()) == 3


def test_a_timer_that_fits_into_no_chunk_is_refused_by_the_sender():
    with pytest.raises(StateError, match="does not fit"):
        encoded(timers=[bytes(CHUNK_BYTES_MAX)])


def test_metadata_that_fits_into_no_chunk_is_refused_by_the_sender():
    with pytest.raises(StateError, match="metadata"):
        encoded(count=100_000, metadata={"vertex": "v" * 20_000})
