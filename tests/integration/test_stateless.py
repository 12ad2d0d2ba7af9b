"""A flow of map and filter only: nothing is kept, nothing can move, and every row comes out.

The oracle is DuckDB over the input as fastavro reads it.
"""

from __future__ import annotations

import pytest

from tests.integration.bids import publish
from tests.integration.flows import DEAR
from tests.integration.user_flow import input_of, start, table_of, topics


@pytest.fixture
def prefix(bootstrap_servers, unique_name):
    """The test's prefix of topics."""
    return topics(bootstrap_servers, unique_name("t"), "dear")


def test_a_flow_without_state_runs_and_refuses_to_move(
    bootstrap_servers, app_name, prefix, tmp_path
):
    topic = f"{prefix}-events"
    publish(bootstrap_servers, topic, 20_000)
    with start(bootstrap_servers, app_name, prefix, tmp_path, "stateless") as job:
        job.await_running()
        job.request({"id": "move", "kind": "move", "moves": [[0, 1]]})
        job.await_(lambda: bool(job.statuses("move")), "answer")
        assert job.statuses("move")[0]["state"] == "rejected"
        assert "no keyed state" in str(job.statuses("move")[0]["reason"])
        job.await_total("megaphone_ingest_records_total", 20_000)
        job.stop()
    publish(bootstrap_servers, topic, 10_000, first=20_000)
    with start(
        bootstrap_servers, app_name, prefix, tmp_path / "again", "stateless", "--until-end"
    ) as job:
        job.finish()
    found = input_of(bootstrap_servers, topic, tmp_path)
    dear = table_of(bootstrap_servers, f"{prefix}-dear", 12)
    assert dear.num_rows > 100
    assert set(dear.column_names) >= {"gateway", "bin"}
    assert "worker" not in dear.column_names
    # Of each auction the dear bids, in the order of the input.
    differing = found.sql(
        f"""
        with expected as (select auction, list(price order by "offset") as prices
                          from bids where price >= {DEAR} group by auction),
        found as (select auction, list(price order by place) as prices from dear group by auction)
        select * from expected full join found using (auction)
        where expected.prices is distinct from found.prices
        """
    )
    assert differing.fetchall() == []
