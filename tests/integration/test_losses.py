"""Processes that die by SIGKILL in the middle of a move and of a checkpoint, most rows on disk.

One job in three lives, each but the last ended at a fail point of its own: what the next one begins
with is the one checkpoint that was whole. Before the first loss a user moves half of the bins,
copied ahead. The oracle is DuckDB over the input; results of lives that were lost come again.

Every fail point is reached in tests/simulation/test_losses.py, in a job in one process. Cannot
catch: a machine that loses power, and what it had not written.
"""

from __future__ import annotations

import pytest

from service.fail_points import ALLOWED, VARIABLE
from service.nexmark.events import NexmarkConfig
from tests.integration.bids import publish
from tests.integration.test_checkpoint import manifests
from tests.integration.test_migrate import User
from tests.integration.user_flow import input_of, start, table_of, topics

#: Most bids go to different auctions, each of which is a wide row.
WIDE = NexmarkConfig().with_state(100_000)
PUBLISHED, MORE = 30_000, 5_000
APPLIED = "megaphone_state_applied_rows_total"

#: Auctions whose last sums are not those of their bids.
WRONG = """
select auction, expected, last
from (select auction, {'bids': count(*), 'total': sum(price)::bigint, 'highest': max(price)}
      as expected from bids group by auction)
full join (select auction, max_by({'bids': bids, 'total': total, 'highest': highest}, bids)
           as last from sums group by auction) using (auction)
where expected is distinct from last
"""
#: Sums that were told in two ways.
TWOFOLD = """
select auction, bids from sums group by auction, bids
having min(total) <> max(total) or min(highest) <> max(highest)
"""


@pytest.fixture
def prefix(bootstrap_servers, unique_name):
    """The test's prefix of topics."""
    return topics(bootstrap_servers, unique_name("t"), "sums")


@pytest.mark.timeout(240)
def test_rows_on_disk_move_copied_ahead_and_outlive_whoever_is_lost(
    bootstrap_servers, app_name, prefix, tmp_path
):
    events = f"{prefix}-events"
    published = PUBLISHED
    bids = publish(bootstrap_servers, events, published, config=WIDE)

    def life(lost, *more):
        environment = {VARIABLE: lost, ALLOWED: "1"} if lost else {}
        arguments = ["--state-memory", "16MiB", *more]
        return start(
            bootstrap_servers,
            app_name,
            prefix,
            tmp_path,
            "wide",
            *arguments,
            gateways=1,
            environment=environment,
        )

    def was_lost(job, slot):
        job.finish(status=1)
        (line,) = job.lines("process.lost")
        assert (line["lost"], line["status"]) == (slot, -9)
        assert [slot in str(line["message"]) for line in job.lines("job.failed")] == [True]
        kept = manifests(bootstrap_servers, app_name)
        assert [manifest.cut for manifest in kept] == [cut]

    with life("worker-1/move.received") as job:
        job.await_running()
        job.await_total(APPLIED, bids)
        # They change while they are copied.
        bids += publish(bootstrap_servers, events, MORE, first=published, config=WIDE)
        published += MORE
        done = User(bootstrap_servers, app_name).asks(
            "migrate", "apply", "--target", "worker:0", "--strategy", "all-at-once", "--precopy"
        )
        assert (done["state"], done["bins"], done["waves"]) == ("completed", 32, 1)
        job.await_total(APPLIED, bids)
        job.await_(lambda: job.metrics()["worker-0"]["megaphone_state_away_rows"] > 0, "rows away")
        job.request({"id": "kept", "kind": "checkpoint"})
        job.await_status("kept", "completed")
        (manifest,) = manifests(bootstrap_servers, app_name)
        cut = manifest.cut
        job.request({"id": "back", "kind": "move", "moves": [[bin_, 1] for bin_ in range(8)]})
        was_lost(job, "worker-1")

    with life("worker-0/checkpoint.half-written") as job:
        job.await_running()
        assert {line["cut"] for line in job.lines("state.restored")} == {cut}
        job.request({"id": "half", "kind": "checkpoint"})
        was_lost(job, "worker-0")

    published += MORE
    publish(bootstrap_servers, events, MORE, first=published - MORE, config=WIDE)
    with life("", "--until-end") as job:
        job.finish()
        assert {line["cut"] for line in job.lines("state.restored")} == {cut}
    found = input_of(bootstrap_servers, events, tmp_path)
    sums = table_of(bootstrap_servers, f"{prefix}-sums", 15)
    found.register("sums", sums)
    assert found.sql("select count(*) > 10000 from sums").fetchall() == [(True,)]
    assert found.sql(WRONG).fetchall() == []
    assert found.sql(TWOFOLD).fetchall() == []
