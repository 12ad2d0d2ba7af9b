"""State of typed rows and under text keys, read without the flow that wrote it."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from service.errors import FormatMismatch, StateCorrupt
from service.statestore.aggregate import AggregateProgram, Count, Max
from service.statestore.checkpoint import StoredVertex
from service.statestore.columns import KEY_ID
from service.statestore.contents import StoredRows
from service.statestore.join import SIDE, JoinProgram
from service.statestore.row_format import RowFormat, is_typed
from service.statestore.row_kinds import as_json, formats_of, row_columns, split_text, type_named
from service.statestore.row_store import RowStore
from service.statestore.stored_keys import kept_of, wanted_key
from service.statestore.stored_kinds import blank_store, value_of
from service.statestore.text_keys import key_hashes
from service.statestore.text_store import TextKeyedStore
from service.statestore.vertex_store import VertexStore
from tests.fakes.typed_rows import VALUES

BITS = 2
MORE = (
    pa.timestamp("ns"),
    pa.timestamp("s", "+01:00"),
    pa.time32("ms"),
    pa.float16(),
    pa.list_(pa.field("x", pa.int8(), nullable=False), 4),
    pa.list_(pa.timestamp("us", "Europe/Berlin"), 1),
)


@pytest.mark.parametrize("kind", [*VALUES, *MORE], ids=str)
def test_a_types_name_leads_back_to_it(kind):
    assert is_typed(kind)
    assert type_named(str(kind)) == kind


@pytest.mark.parametrize(
    "name", ["", "int65", "list<item: int64>", "fixed_size_list<item: list<item: int8>>[2]", "null"]
)
def test_other_names_lead_nowhere(name):
    assert type_named(name) is None


def test_columns_of_rows_lead_back_to_their_formats():
    schemas = (pa.schema([("a.b", pa.int8()), ("c", pa.string())]), pa.schema([]))
    formats = formats_of(row_columns([RowFormat(schema) for schema in schemas]))
    assert [form.schema for form in formats] == list(schemas)
    assert formats_of([("n", "int64")]) is None
    with pytest.raises(FormatMismatch, match="a column 'c' of type 'int65'"):
        formats_of([("0.c", "row of int65")])


def joined():
    out = pa.schema([(KEY_ID, pa.int64()), ("n", pa.date32()), ("text", pa.string())])
    store = RowStore("j", JoinProgram(KEY_ID, ["join.0.n"], ["join.1.text"], out), BITS)
    rows = {
        "key": ["Ada", "Ada", "Ada", "Bob"],
        KEY_ID: pa.array([1, 1, 1, 2]),
        SIDE: pa.array([0, 1, 1, 1]),
        "join.0.n": pa.array([dt.date(2026, 1, 2), None, None, None], pa.date32()),
        "join.1.text": [None, "one", None, "two"],
    }
    return store, pa.record_batch(rows)


def stored(store):
    return StoredVertex(store.vertex, store.columns, store.row_count, 0)


def same_through_a_blank_store(store):
    """What the store gives, given by a blank one that was given it."""
    blank = blank_store(stored(store), BITS)
    keys, values = store.stored_rows(np.arange(1 << BITS))
    blank.load_rows(keys, values.tolist())
    for bin_id in range(1 << BITS):
        given, expected = (list(each.extract(bin_id, cut=3)) for each in (blank, store))
        again = type(store) is type(blank) and blank.assembler(bin_id)
        for chunk in given:
            again.feed(chunk)
        blank.install(bin_id, again)
        assert len(given) == len(expected)
    found, same = blank.stored_rows(np.arange(1 << BITS))
    assert dict(zip(found.tolist(), same.tolist())) == dict(zip(keys.tolist(), values.tolist()))
    assert blank.columns == store.columns
    return dict(zip(keys.tolist(), values.tolist()))


def test_rows_are_read_without_their_flow():
    store, rows = joined()
    store.apply_rows(rows, (1,))
    kept = same_through_a_blank_store(store)
    found = {key: value_of(stored(store), value) for key, value in kept.items()}
    one, two = {"join.1.text": "one"}, {"join.1.text": "two"}
    assert found == {
        1: [[{"join.0.n": "2026-01-02"}], [one, {"join.1.text": None}]],
        2: [[], [two]],
    }
    value = store.stored_rows(np.arange(4))[1][0]
    for wrong in (value[:-1], value[:8], value[:-8]):
        with pytest.raises(StateCorrupt):
            value_of(stored(store), wrong)


def test_state_under_text_is_read_without_its_flow():
    inner, rows = joined()
    store = TextKeyedStore(inner, "key", pa.string())
    place = rows.schema.get_field_index(KEY_ID)
    store.apply_rows(rows.set_column(place, KEY_ID, pa.array(key_hashes(rows["key"]))), (1,))
    same_through_a_blank_store(store)
    ids, values = store.stored_rows(np.arange(1 << BITS))
    rows = StoredRows(ids, values.tolist())
    found = {
        text: kept_of(stored(store), wanted_key(stored(store), text), rows, BITS)
        for text in ("Ada", "Bob", "Eve", "Ad")
    }
    assert found["Ada"].value[0] == [{"join.0.n": "2026-01-02"}]
    assert found["Bob"].value == [[], [{"join.1.text": "two"}]]
    assert found["Eve"] is found["Ad"] is None
    with pytest.raises(StateCorrupt, match="a stored key has"):
        split_text(b"\x08")


def test_numbers_of_any_type_are_read_without_their_flow():
    outputs = {"n": Count(), "top": Max("c")}
    kind = pa.timestamp("ms", "UTC")
    store = VertexStore("v", AggregateProgram("k", outputs, {"c": kind}), BITS)
    moment = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
    rows = pa.record_batch([pa.array([5]), pa.array([moment], kind)], names=["k", "c"])
    store.apply_rows(rows, (1,))
    (value,) = same_through_a_blank_store(store).values()
    assert value_of(stored(store), value) == {"n": 1, "top": "2026-01-02T00:00:00+00:00"}


def test_values_of_typed_columns_are_json():
    values = [dt.time(1, 2), dt.timedelta(1), Decimal("1.50"), [dt.date(2026, 1, 2), None], b"x"]
    text = json.dumps([as_json(value) for value in values])
    assert json.loads(text)[:4] == ["01:02:00", "1 day, 0:00:00", "1.50", ["2026-01-02", None]]
