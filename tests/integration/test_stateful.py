"""State of Python objects on real processes: moved while rows come, stopped, and gone on with.

The oracle is DuckDB over the input as fastavro reads it.
"""

from __future__ import annotations

import pytest

from tests.integration.bids import LoadGenerator
from tests.integration.user_flow import input_of, start, table_of, topics


@pytest.fixture
def prefix(bootstrap_servers, unique_name):
    """The test's prefix of topics."""
    return topics(bootstrap_servers, unique_name("t"), "seen")


#: With a budget the second start has every row on disk, and brings it back as it is asked for.
@pytest.mark.parametrize("memory", [(), ("--state-memory", "16MiB")], ids=["memory", "disk"])
def test_objects_move_stop_and_go_on_exactly(bootstrap_servers, app_name, prefix, tmp_path, memory):
    events = f"{prefix}-events"
    with LoadGenerator(bootstrap_servers, events, 2_000) as load:
        with start(bootstrap_servers, app_name, prefix, tmp_path, "remembering", *memory) as job:
            job.await_running()
            job.await_(lambda: job.total("megaphone_state_applied_rows_total") > 2_000, "rows")
            for number, workers in enumerate((1, 2)):
                job.request({"id": f"a{number}", "kind": "rescale", "workers": workers, "batch": 8})
                done = job.await_status(f"a{number}", "completed")
                assert (done["bins"], done["waves"]) == (32, 4)
            job.stop()
            assert job.lines("state.restored") == []
        load.stop()
    options = ("--until-end", *memory)
    with start(bootstrap_servers, app_name, prefix, tmp_path, "remembering", *options) as job:
        job.finish()
        restored = job.lines("state.restored")
        assert len(restored) == 2
    found = input_of(bootstrap_servers, events, tmp_path)
    seen = table_of(bootstrap_servers, f"{prefix}-seen", 14)
    found.register("seen", seen)
    assert found.sql("select count(distinct worker) from seen").fetchall() == [(2,)]
    assert found.sql("select count(*) > 1000 from seen").fetchall() == [(True,)]
    assert found.sql(WRONG).fetchall() == []
    assert found.sql(UNCOUNTED).fetchall() == []


#: Auctions whose last output is not that of all their bids.
WRONG = """
with expected as (select auction, count(*) as bids, sum(price) as total,
                         count(distinct price) as prices from bids group by auction),
last as (select auction, max(bids) as bids, arg_max(total, bids) as total,
                arg_max(prices, bids) as prices from seen group by auction)
select * from expected full join last using (auction, bids, total, prices)
where expected.auction is null or last.auction is null
"""
#: Outputs that do not count one more than the output before.
UNCOUNTED = """
select * from (select bids, row_number() over (partition by auction order by place) as nth
               from seen) where bids <> nth
"""
