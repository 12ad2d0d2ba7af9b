"""What a query must give for a recorded input, by DuckDB, which knows nothing of streams.

Flow: recorded events -> [expected] -> rows; rows of a run beside them -> [differences] -> what is
wrong, in sentences. The rules are those of `service.nexmark.rules`.

Invariants
  OR1  An answer depends on the events alone, in no order: one statement over whole tables.
  OR2  Whatever 64-bit numbers an event has, nothing overflows or is rounded before the last
       division of a mean.
  OR3  Rows are compared as a multiset, every column by its exact value; an upsert by the last row
       of each key, its mean within 1e-12 of its size, as sums beyond 2^53 are rounded on the way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from service.errors import UsageError
from service.nexmark.rules import (
    Q1_THOUSANDTHS,
    Q2_MODULUS,
    Q3_CATEGORY,
    Q3_STATES,
    Q6_PRICES,
    RULES,
    QueryWindows,
)

if TYPE_CHECKING:
    import duckdb

_MEAN_ERROR = 1e-12
#: Rows shown of each difference.
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Recorded:
    """Events as they were sent, one table a type; a column that no query reads may be missing."""

    person: pa.Table
    auction: pa.Table
    bid: pa.Table

    def recorded(self) -> Recorded:
        """They are it."""
        return self


_WINNING = """
    WITH opened AS (SELECT *, row_number() OVER () AS number FROM auction),
    winning AS (
        SELECT any_value(opened.id) AS id, any_value(opened.seller) AS seller,
            any_value(opened.category) AS category, any_value(opened.expires) AS expires,
            max(bid.price) AS price
        FROM opened JOIN bid ON bid.auction = opened.id
        WHERE bid.date_time >= opened.date_time AND bid.date_time < opened.expires
            AND bid.price >= opened.reserve
        GROUP BY opened.number
    )
"""
_NUMBERS = {
    "winning": _WINNING,
    "mean": "sum(price::HUGEINT)::DOUBLE / count(*)",
    "decimals": f"0.{Q1_THOUSANDTHS:03d}::DECIMAL(3, 3)",
    "modulus": Q2_MODULUS,
    "category": Q3_CATEGORY,
    "states": Q3_STATES,
    "prices": Q6_PRICES,
}
_WON = "{winning} SELECT * FROM winning"

_QUERIES = {
    "q0": "SELECT {columns} FROM bid",
    "q1": """
        SELECT auction, bidder, (price::DECIMAL(19, 0) * {decimals})::VARCHAR AS price,
            date_time, extra
        FROM bid
    """,
    "q2": "SELECT auction, price FROM bid WHERE auction % {modulus} = 0",
    "q3": """
        SELECT person.name, person.city, person.state, auction.id
        FROM auction JOIN person ON auction.seller = person.id
        WHERE auction.category = {category} AND person.state IN {states}
    """,
    "q4": "{winning} SELECT category, {mean} AS avg FROM winning GROUP BY category",
    "q5": """
        WITH counts AS (
            SELECT auction, count(*) AS num, start AS window_start
            FROM (
                SELECT auction, date_time,
                    {q5_floor} - {q5_slide} * unnest(range({q5_each})) AS start
                FROM bid
            )
            WHERE start + {q5_size} > date_time
            GROUP BY ALL
        )
        SELECT auction, num, window_start::BIGINT AS window_start
        FROM counts JOIN (SELECT window_start, max(num) AS num FROM counts GROUP BY ALL)
            USING (window_start, num)
    """,
    "q6": """
        {winning}, ranked AS (
            SELECT seller, price, row_number() OVER (
                PARTITION BY seller ORDER BY expires DESC, id DESC, price DESC
            ) AS place
            FROM winning
        )
        SELECT seller, {mean} AS avg FROM ranked WHERE place <= {prices} GROUP BY seller
    """,
    "q7": """
        WITH placed AS (SELECT *, {q7_floor} AS window_start FROM bid)
        SELECT auction, bidder, price, date_time, extra, window_start::BIGINT AS window_start
        FROM placed
            JOIN (SELECT window_start, max(price) AS price FROM placed GROUP BY window_start)
            USING (window_start, price)
    """,
    "q8": """
        SELECT person.id, person.name, person.start::BIGINT AS window_start
        FROM (SELECT id, name, {q8_floor} AS start FROM person) AS person
            JOIN (SELECT DISTINCT seller, {q8_floor} AS start FROM auction) AS auction
            ON person.id = auction.seller AND person.start = auction.start
    """,
}


#: Rows that are only in the one, or for an upsert whose last rows differ.
_ALL = "SELECT * FROM {this} EXCEPT ALL SELECT * FROM {other}"
_LAST = """
    WITH last AS (SELECT {key}, max_by(avg, place) AS avg FROM given GROUP BY {key})
    SELECT {this}.* FROM last FULL JOIN wanted ON last.{key} = wanted.{key}
    WHERE (abs(last.avg - wanted.avg) <= {error} * abs(wanted.avg)) IS NOT TRUE
        AND {this}.{key} IS NOT NULL
"""


def expected(query: str, recorded: Recorded, windows: QueryWindows | None = None) -> pa.Table:
    """All that `query` must give for the events, in no order.

    Args:
        query: q0 to q8.
        recorded: the events.
        windows: sizes; those of the issue by default.

    Cost: 0.1 to 1 s for a million events.
    """
    windows = windows or QueryWindows()
    text = _QUERIES[query].format(
        **_NUMBERS,
        columns=", ".join(RULES[query].columns),
        q5_floor=_floor("date_time", windows.q5_slide_ms),
        q5_slide=windows.q5_slide_ms,
        q5_size=windows.q5_size_ms,
        q5_each=-(-windows.q5_size_ms // windows.q5_slide_ms),
        q7_floor=_floor("date_time", windows.q7_size_ms),
        q8_floor=_floor("date_time", windows.q8_size_ms),
    )
    with _connect() as database:
        for name in RULES[query].inputs:
            database.register(name, getattr(recorded, name))
        return _arrow(database.sql(text)).select(RULES[query].columns)


def winning(recorded: Recorded) -> pa.Table:
    """The auctions that somebody has won: id, seller, category, expires, price; in no order."""
    with _connect() as database:
        for name in ("auction", "bid"):
            database.register(name, getattr(recorded, name))
        return _arrow(database.sql(_WON.format(**_NUMBERS)))


def differences(query: str, found: pa.Table, wanted: pa.Table) -> list[str]:
    """What is wrong with rows that a run gave, in words; empty: nothing (OR3).

    Args:
        query: q0 to q8.
        found: rows of the run; of an upsert, those of each key in the order given.
        wanted: as `expected` gave them.
    """
    key = RULES[query].upsert
    given = found.select(RULES[query].columns).cast(wanted.schema)
    if key is not None:
        given = given.append_column("place", pa.array(range(given.num_rows), pa.int64()))
    form, mine = (_ALL, "given") if key is None else (_LAST, "last")
    found_wrong = []
    with _connect() as database:
        database.register("wanted", wanted)
        database.register("given", given)
        for what, this, other in (
            ("missing", "wanted", mine),
            ("too many or wrong", mine, "wanted"),
        ):
            text = form.format(this=this, other=other, key=key, error=_MEAN_ERROR)
            rows = _arrow(database.sql(text))
            if rows.num_rows:
                shown = rows.slice(0, _SHOWN).to_pylist()
                found_wrong.append(f"{query}: {rows.num_rows:,} rows {what}, such as {shown}")
    return found_wrong


def _connect() -> duckdb.DuckDBPyConnection:
    """A database in memory.

    Raises:
        UsageError: DuckDB is not installed.
    """
    try:
        import duckdb
    except ImportError as error:
        raise UsageError(
            "the oracle needs DuckDB; install the extra it comes with: "
            "pip install 'megaphone-kafka[demo]'"
        ) from error
    return duckdb.connect()


def _floor(column: str, size_ms: int) -> str:
    """Start of the window of a time, also before the epoch (OR2)."""
    return f"{column}::HUGEINT - (({column}::HUGEINT % {size_ms} + {size_ms}) % {size_ms})"


def _arrow(relation: duckdb.DuckDBPyRelation) -> pa.Table:
    table: pa.Table = relation.to_arrow_table()
    return table
