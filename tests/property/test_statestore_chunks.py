"""Chunks of a bin: what arrives is what was sent, or nothing and a named error.

Every byte of a small snapshot is flipped, every truncation and every single loss, repetition and
swap is tried; Hypothesis draws states, bits and larger disorders. Nothing may raise anything but
the two named errors, and an assembler that raised must not be complete.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import FormatMismatch, StateCorrupt
from service.statestore.aggregate import AggregateProgram, Count, Sum
from service.statestore.chunk import CHUNK_BYTES_MAX, BinAssembler, encode_bin
from service.statestore.columns import Rows
from service.statestore.vertex_store import VertexStore
from tests.fakes.timers import entries_at

INT64 = st.integers(-(2**63), 2**63 - 1)
TIMERS = st.lists(st.binary(max_size=40), max_size=8)


@st.composite
def states(draw):
    keys = draw(st.lists(INT64, unique=True, max_size=50))
    count = len(keys)
    integers = draw(st.lists(INT64, min_size=count, max_size=count))
    floats = draw(st.lists(st.floats(), min_size=count, max_size=count))
    return Rows(
        np.array(keys, dtype=np.int64),
        np.arange(count, dtype=np.int64),
        {"n": np.array(integers, dtype=np.int64), "x": np.array(floats, dtype=np.float64)},
    )


def small_snapshot(bin_id=5, cut=77):
    rows = Rows(np.arange(3), np.arange(3), {"n": np.arange(3), "x": np.arange(3) / 2})
    return list(encode_bin(bin_id, cut, rows, [b"one", b"two"], {"vertex": "v"}))


def in_small_chunks(bin_id=5, cut=77):
    """A snapshot of three row chunks, two timer chunks and the end."""
    keys = np.arange(70_000)
    rows = Rows(keys, keys, {"n": keys, "x": keys / 2})
    return list(encode_bin(bin_id, cut, rows, [bytes(600_000), bytes(600_000)]))


def feed_all(assembler, chunks):
    for chunk in chunks:
        assembler.feed(chunk)
    if not assembler.complete:
        raise StateCorrupt(f"state of bin {assembler.bin} never became complete")


def refused(chunks, bin_id=5):
    assembler = BinAssembler(bin_id)
    with pytest.raises((StateCorrupt, FormatMismatch), match="bin 5"):
        feed_all(assembler, chunks)
    return assembler


def bits(rows):
    return [array.tobytes() for array in (rows.keys, rows.versions, *rows.columns.values())]


@given(states(), TIMERS, st.integers(0, 2**20 - 1), st.integers(0, 2**62))
def test_what_arrives_is_what_was_sent(rows, timers, bin_id, cut):
    assembler = BinAssembler(bin_id)
    chunks = list(encode_bin(bin_id, cut, rows, timers))
    assert [assembler.feed(chunk) for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert bits(assembler.rows()) == bits(rows)
    assert assembler.timers() == timers
    assert assembler.cut == cut


@given(
    st.integers(0, 200_000),
    st.integers(0, 12),
    st.lists(st.integers(0, 900_000), max_size=5),
)
def test_no_chunk_is_larger_than_the_limit(count, columns, timer_sizes):
    keys = np.zeros(count, dtype=np.int64)
    rows = Rows(keys, keys, {f"column {c}": keys for c in range(columns)})
    chunks = list(encode_bin(0, 0, rows, [bytes(size) for size in timer_sizes]))
    assert max(map(len, chunks)) <= CHUNK_BYTES_MAX
    held = sum(map(len, chunks))
    assert held >= rows.nbytes + sum(timer_sizes)
    assert held <= rows.nbytes + sum(timer_sizes) + len(chunks) * (4 << 10)


def test_a_flip_of_any_byte_is_refused():
    chunks = small_snapshot()
    for number, chunk in enumerate(chunks):
        for position in range(len(chunk)):
            wrong = bytearray(chunk)
            wrong[position] ^= 0xFF
            assembler = refused([*chunks[:number], bytes(wrong), *chunks[number + 1 :]])
            assert not assembler.complete


@given(st.data())
def test_a_flip_of_any_bits_is_refused(data):
    chunks = small_snapshot()
    number = data.draw(st.integers(0, len(chunks) - 1))
    position = data.draw(st.integers(0, len(chunks[number]) - 1))
    wrong = bytearray(chunks[number])
    wrong[position] ^= data.draw(st.integers(1, 255))
    assert not refused([*chunks[:number], bytes(wrong), *chunks[number + 1 :]]).complete


def test_any_truncation_or_extension_is_refused():
    chunks = small_snapshot()
    for number, chunk in enumerate(chunks):
        for length in range(len(chunk)):
            refused([*chunks[:number], chunk[:length], *chunks[number + 1 :]])
        refused([*chunks[:number], chunk + b"\0", *chunks[number + 1 :]])
    for count in range(len(chunks)):
        refused(chunks[:count])


def test_any_loss_repetition_or_swap_of_chunks_is_refused():
    chunks = in_small_chunks()
    assert len(chunks) == 6
    for at in range(len(chunks)):
        refused([*chunks[:at], *chunks[at + 1 :]])
        refused([*chunks[: at + 1], *chunks[at:]])
        for other in range(at):
            swapped = list(chunks)
            swapped[at], swapped[other] = swapped[other], swapped[at]
            refused(swapped)


def test_a_chunk_of_another_bin_or_cut_is_refused_at_any_place():
    chunks = in_small_chunks()
    for stranger in (in_small_chunks(bin_id=6), in_small_chunks(cut=78)):
        for at in range(len(chunks)):
            if at or stranger[0][8:12] != chunks[0][8:12]:
                refused([*chunks[:at], stranger[at], *chunks[at + 1 :]])


@given(st.lists(st.integers(0, 5), max_size=8).filter(lambda order: order[:6] != list(range(6))))
def test_any_other_order_is_refused(order):
    chunks = in_small_chunks()
    refused([chunks[number] for number in order])


@given(st.data())
def test_a_store_that_was_offered_damaged_state_is_as_before(data):
    program = AggregateProgram("k", {"n": Count(), "total": Sum("v")}, {"v": "int64"})
    source, target = (VertexStore("v", program, 1) for _ in range(2))
    keys = np.arange(40)
    for store, factor in ((source, 1), (target, 2)):
        store.apply(keys, {"v": keys * factor}, 1)
        store.set_timers(1, entries_at([factor], 1, 1))
    before = bits(target.table.extract(1))
    chunks = list(source.extract(1))
    number = data.draw(st.integers(0, len(chunks) - 1))
    wrong = bytearray(chunks[number])
    wrong[data.draw(st.integers(0, len(wrong) - 1))] ^= 1
    chunks[number] = bytes(wrong)
    assembler = target.assembler(1)
    with pytest.raises((StateCorrupt, FormatMismatch)):
        feed_all(assembler, chunks)
    assert not assembler.complete
    assert bits(target.table.extract(1)) == before
    assert target.timers(1) == tuple(entries_at([2], 1, 1))
