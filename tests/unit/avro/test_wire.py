"""The five bytes before every body."""

from __future__ import annotations

import numpy as np
import pytest

from service.avro.wire import NO_SCHEMA, SCHEMA_ID_MAX, header, split_header


def _split(rows: list[bytes]):
    ends = np.cumsum([len(row) for row in rows]).astype(np.int64)
    starts = ends - np.array([len(row) for row in rows], dtype=np.int64)
    ids, bodies = split_header(np.frombuffer(b"".join(rows), dtype=np.uint8), starts, ends)
    return ids.tolist(), (bodies - starts).tolist()


@pytest.mark.parametrize("schema_id", [0, 1, 255, 256, 70_000, SCHEMA_ID_MAX])
def test_a_header_is_read_as_it_was_written(schema_id):
    assert header(schema_id) == b"\x00" + schema_id.to_bytes(4, "big")
    assert _split([header(schema_id) + b"body"]) == ([schema_id], [5])


def test_rows_without_a_header_are_marked_and_their_neighbours_kept():
    rows = [
        header(3),
        b"",
        b"\x00\x00\x00\x01",
        b"\x01" + header(3),
        header(9) + b"x",
        b"\x00\xff" * 4,
    ]
    ids, bodies = _split(rows)
    assert ids == [3, NO_SCHEMA, NO_SCHEMA, NO_SCHEMA, 9, NO_SCHEMA]
    assert bodies == [5, 0, 0, 0, 5, 0]


def test_spans_outside_the_buffer_have_no_header():
    data = np.frombuffer(header(1) * 2, dtype=np.uint8)
    starts = np.array([-1, 6, 5], dtype=np.int64)
    ends = np.array([5, 11, 10], dtype=np.int64)
    assert split_header(data, starts, ends)[0].tolist() == [NO_SCHEMA, NO_SCHEMA, 1]
