"""A loop with keyed state in it, on real processes: rows go round while its bins move.

The oracle is DuckDB's recursion over the input as fastavro reads it.
"""

from __future__ import annotations

import pytest

from tests.integration.bids import LoadGenerator
from tests.integration.flows import TOP
from tests.integration.user_flow import input_of, start, table_of, topics


@pytest.fixture
def prefix(bootstrap_servers, unique_name):
    """The test's prefix of topics."""
    return topics(bootstrap_servers, unique_name("t"), "tops")


def test_a_loop_is_exact_while_its_bins_move(bootstrap_servers, app_name, prefix, tmp_path):
    events = f"{prefix}-events"
    with (
        start(bootstrap_servers, app_name, prefix, tmp_path, "climb", workers=2, bins=64) as job,
        LoadGenerator(bootstrap_servers, events, 60) as load,
    ):
        job.await_running()
        job.await_(lambda: job.total("megaphone_state_applied_rows_total") > 500, "rows")
        for number, workers in enumerate((1, 2, 1, 2)):
            job.request({"id": f"r{number}", "kind": "rescale", "workers": workers, "batch": 4})
            done = job.await_status(f"r{number}", "completed")
            assert (done["bins"], done["waves"]) == (32, 8)
        published = load.stop()
        job.await_total("megaphone_ingest_records_total", published)
        job.stop()
    found = input_of(bootstrap_servers, events, tmp_path)
    tops = table_of(bootstrap_servers, f"{prefix}-tops", 13)
    found.register("tops", tops)
    assert found.sql("select count(distinct worker) from tops").fetchall() == [(2,)]
    assert found.sql("select count(*) from tops where auction < 500").fetchall() != [(0,)]
    assert found.sql(WRONG).fetchall() == []
    assert found.sql(FALLING).fetchall() == []


#: Auctions whose last output is not the highest price below them.
WRONG = f"""
with recursive up(auction, price) as (
    select auction, max(price) from bids group by auction
    union all
    select auction // 2, price from up where auction > {TOP}),
expected as (select auction, max(price) as price from up group by auction),
last as (select auction, arg_max(price, place) as price from tops group by auction)
select * from expected full join last using (auction)
where expected.price is distinct from last.price
"""
#: Outputs of an auction that are lower than one before.
FALLING = """
select * from (select price, lag(price) over (partition by auction order by place) as before
               from tops) where price < before
"""
