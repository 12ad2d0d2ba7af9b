"""A user's flow of two stateful stages on real processes, its bins moving under load.

The oracle is DuckDB over the input as fastavro reads it. Both stages emit on change, so the number
of their outputs depends on the load; what is exact is the last output of each key, and that the
second stage was told of each output of the first one once.
"""

from __future__ import annotations

import pytest

from demo.readback import spans_of
from tests.integration.bids import LoadGenerator, bids_of
from tests.integration.flows import GROUPS
from tests.integration.user_flow import input_of, start, table_of, topics

WORKERS = 2


@pytest.fixture
def prefix(bootstrap_servers, unique_name):
    """The test's prefix of topics."""
    return topics(bootstrap_servers, unique_name("t"), "counts", "groups")


def test_two_stages_are_exact_while_their_bins_move(bootstrap_servers, app_name, prefix, tmp_path):
    applied = "megaphone_state_applied_rows_total"
    with (
        start(
            bootstrap_servers,
            app_name,
            prefix,
            tmp_path,
            "two_stages",
            workers=WORKERS,
            gateways=2,
            bins=64,
        ) as job,
        LoadGenerator(bootstrap_servers, f"{prefix}-events", 5_000) as load,
    ):
        job.await_running()
        job.await_(lambda: job.total(applied) > 5_000, "rows")
        for number, workers in enumerate((1, 2, 1, 2)):
            job.request({"id": f"r{number}", "kind": "rescale", "workers": workers, "batch": 4})
            done = job.await_status(f"r{number}", "completed")
            assert (done["bins"], done["waves"]) == (32, 8)
        published = load.stop()
        # Rows of the first stage, and one of the second for each output of the first.
        job.await_(
            lambda: (
                job.total(applied) >= bids_of(published)
                and job.total(applied) - bids_of(published) == outputs_of(bootstrap_servers, prefix)
            ),
            "all rows in both stages",
        )
        job.stop()
    found = input_of(bootstrap_servers, f"{prefix}-events", tmp_path)
    counts = table_of(bootstrap_servers, f"{prefix}-counts", 10)
    groups = table_of(bootstrap_servers, f"{prefix}-groups", 11)
    found.register("counts", counts)
    found.register("groups", groups)
    assert found.sql("select count(*) from bids").fetchall() == [(bids_of(published),)]
    writers = found.sql("select distinct worker from counts order by worker").fetchall()
    assert writers == [(worker,) for worker in range(WORKERS)]
    assert counts.num_rows > groups.num_rows > GROUPS
    assert found.sql(WRONG_COUNTS).fetchall() == []
    assert found.sql(UNORDERED).fetchall() == []
    assert found.sql(WRONG_GROUPS).fetchall() == []


#: Auctions whose last count is not the number of their bids.
WRONG_COUNTS = """
select auction, expected, found
from (select auction, count(*) as expected from bids group by auction)
full join (select auction, arg_max(bids, place) as found from counts group by auction)
using (auction)
where found is distinct from expected
"""
#: Outputs of either stage that do not come behind the one before, or were written elsewhere.
UNORDERED = """
with rows as (select auction as key, 'counts' as topic, bids as value, * from counts
    union all by name select "group" as key, 'groups' as topic, changes as value, * from groups),
pairs as (select *, lag(value) over sequence as before, lag(most) over sequence as most_before,
                 first_value(partition) over sequence as home
          from rows window sequence as (partition by topic, key order by partition, place))
select * from pairs where value <= before or most < most_before or partition <> home
"""
#: Groups whose last output is not what the input, and the outputs of the first stage, make of it.
WRONG_GROUPS = f"""
with expected as (
    select "group", most, changes, increases from
    (select auction % {GROUPS} as "group", max(n) as most
     from (select auction, count(*) as n from bids group by auction) group by 1)
    join (select auction % {GROUPS} as "group", count(*) as changes, sum(bids) as increases
          from counts group by 1) using ("group")),
found as (select "group", arg_max(struct_pack(most, changes, increases), place) as last
          from groups group by "group")
select * from expected full join found using ("group")
where (most, changes, increases) is distinct from (last.most, last.changes, last.increases)
"""


def outputs_of(bootstrap_servers, prefix):
    """How many outputs of the first stage are in Kafka."""
    return sum(span.end - span.start for span in spans_of(bootstrap_servers, f"{prefix}-counts"))
