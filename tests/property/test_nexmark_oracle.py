"""The oracle answers as plain Python does, for whatever stream; and it tells what is wrong.

Claims: OR1, OR2, OR3; the rules of service.nexmark.rules.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.bench.nexmark.oracle import differences, expected
from service.nexmark.rules import RULES, QueryWindows
from tests.fakes.nexmark import LONG_MAX, rows_of, streams, table_of, tables_of

_QUERIES = sorted(RULES)
_WINDOWS = st.sampled_from([QueryWindows(), QueryWindows(7_000, 3_000, 4_000, 60_000)])


@pytest.mark.parametrize("query", _QUERIES)
@settings(max_examples=20)
@given(streams(), _WINDOWS, st.randoms(use_true_random=False))
def test_it_agrees_with_plain_python(query, stream, windows, random):
    rows = rows_of(query, stream, windows)
    random.shuffle(rows)
    wanted = expected(query, tables_of(stream), windows)
    assert wanted.schema.names == list(RULES[query].columns)
    assert differences(query, table_of(query, rows), wanted) == []
    if RULES[query].upsert is None:
        assert sorted(map(tuple, (row.values() for row in wanted.to_pylist()))) == sorted(rows)


@pytest.mark.parametrize("query", _QUERIES)
@settings(max_examples=10)
@given(streams().filter(lambda stream: all(stream.values())), st.data())
def test_a_row_lost_doubled_or_changed_is_found(query, stream, data):
    rows = rows_of(query, stream)
    wanted = expected(query, tables_of(stream))
    if not rows:
        return
    place = data.draw(st.integers(0, len(rows) - 1))
    without = rows[:place] + rows[place + 1 :]
    assert differences(query, table_of(query, without), wanted)
    *values, last = rows[place]
    changed = f"{last}x" if isinstance(last, str) else last - 1 if last == LONG_MAX else last + 1
    if float(changed) != float(last) if RULES[query].upsert else True:
        wrong = [*without, (*values, changed)]
        assert differences(query, table_of(query, wrong), wanted)
    doubled = differences(query, table_of(query, [*rows, rows[place]]), wanted)
    assert bool(doubled) == (RULES[query].upsert is None)


def test_of_an_upsert_the_last_row_of_a_key_counts():
    stream = {
        "person": [],
        "auction": [_auction(id=1, expires=10), _auction(id=2, expires=20)],
        "bid": [_bid(auction=1, price=4), _bid(auction=2, price=7)],
    }
    wanted = expected("q4", tables_of(stream))
    assert wanted.to_pylist() == [{"category": 10, "avg": 5.5}]
    assert differences("q4", table_of("q4", [(10, 4.0), (10, 5.5)]), wanted) == []
    assert differences("q4", table_of("q4", [(10, 5.5), (10, 4.0)]), wanted) == [
        "q4: 1 rows missing, such as [{'category': 10, 'avg': 5.5}]",
        "q4: 1 rows too many or wrong, such as [{'category': 10, 'avg': 4.0}]",
    ]


def test_a_mean_of_the_greatest_prices_does_not_overflow():
    stream = {
        "person": [],
        "auction": [_auction(id=1, expires=10), _auction(id=2, expires=20)],
        "bid": [_bid(auction=1, price=LONG_MAX), _bid(auction=2, price=LONG_MAX)],
    }
    assert expected("q6", tables_of(stream)).to_pylist() == [{"seller": 5, "avg": float(2**63)}]


def test_the_product_of_the_greatest_price_is_exact():
    stream = {"person": [], "auction": [], "bid": [_bid(price=LONG_MAX), _bid(price=0)]}
    prices = expected("q1", tables_of(stream))["price"].to_pylist()
    assert sorted(prices) == ["0.000", "8374821809464136432.756"]


def _auction(**given):
    fields = {"date_time": 0, "expires": 10, "seller": 5, "category": 10, "reserve": 0}
    texts = dict.fromkeys(("item_name", "description", "extra"), "")
    return {"id": 1, "initial_bid": 0, **fields, **texts, **given}


def _bid(**given):
    texts = dict.fromkeys(("channel", "url", "extra"), "")
    return {"auction": 1, "bidder": 1, "price": 1, "date_time": 5, **texts, **given}
