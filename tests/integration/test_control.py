"""Requests to a running job: what cannot be is refused with its reason and changes nothing.

One job under load takes everything that the contract speaks of, in the order of the file; at the
end the proof says whether the stream noticed. Cannot catch: a controller that dies.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter

import pytest

from service.config import load_config
from service.status import read_status
from tests.integration.bids import LoadGenerator, bids_of, faults, judge, migration_of, topics
from tests.integration.job import ROOT, Job, contract, read_topic

BINS, WORKERS = 64, 3
OWNERS = [number * WORKERS // BINS for number in range(BINS)]
NOW_US = time.time_ns() // 1000
HOUR_US = 3_600_000_000

#: (what is published, id of its status or None for invalid@<offset>, what the reason must hold).
IMPOSSIBLE = [
    (b"{not json", None, "not JSON"),
    (b'"move"', None, "a string, not a JSON object"),
    (b"\xff\xfe\x00", None, "not JSON"),
    (b"", None, "empty"),
    (None, None, "empty"),
    ({"kind": "move", "moves": [[0, 1]]}, None, "no id"),
    ({"id": 7, "kind": "move", "moves": [[0, 1]]}, None, "id is a number, not a string"),
    ({"id": "no-kind", "moves": [[0, 1]]}, "no-kind", "no kind"),
    ({"id": "explode", "kind": "explode"}, "explode", 'unknown kind "explode"'),
    ({"id": "admit", "kind": "admit"}, "admit", "not supported in this version"),
    ({"id": "pause", "kind": "pause"}, "pause", "no plan is under way"),
    ({"id": "both", "kind": "move", "moves": [], "waves": []}, "both", "exclude each other"),
    ({"id": "waves", "kind": "move", "waves": [[[0, 1]], [[0, 9]]]}, "waves", "unknown worker 9"),
    ({"id": "field", "kind": "move", "moves": [[0, 1]], "bins": 3}, "field", "unknown field"),
    ({"id": "no-moves", "kind": "move"}, "no-moves", "needs moves"),
    ({"id": "bin", "kind": "move", "moves": [[0, 1], [BINS, 1]]}, "bin", f"unknown bin {BINS}"),
    ({"id": "below", "kind": "move", "moves": [[-1, 1]]}, "below", "unknown bin -1"),
    ({"id": "worker", "kind": "move", "moves": [[0, 3]]}, "worker", "unknown worker 3"),
    ({"id": "twice", "kind": "move", "moves": [[0, 1], [0, 2]]}, "twice", "bin 0 is named twice"),
    ({"id": "half", "kind": "move", "moves": [[0.5, 1]]}, "half", "bin 0.5 is not an integer"),
    ({"id": "past", "kind": "move", "moves": [[0, 1]], "at": NOW_US - 1}, "past", "in the past"),
    (
        {"id": "far", "kind": "move", "moves": [[0, 1]], "at": NOW_US + 2 * HOUR_US},
        "far",
        "too far in the future",
    ),
    ({"id": "grow", "kind": "rescale", "workers": 4}, "grow", "the job has 3"),
    ({"id": "none", "kind": "rescale", "workers": 0}, "none", "must be from 1"),
    (
        {"id": "luck", "kind": "move", "moves": [[0, 1]], "strategy": "luck"},
        "luck",
        "unknown strategy 'luck'",
    ),
]


@pytest.fixture
def names(bootstrap_servers, unique_name):
    return topics(bootstrap_servers, unique_name("t"))


def test_requests_are_answered_as_the_contract_says_and_the_stream_is_undisturbed(
    bootstrap_servers, app_name, names, tmp_path
):
    prefix = ["--topic-prefix", names[0].removesuffix("-events")]
    with (
        Job(
            bootstrap_servers,
            app_name,
            tmp_path / "state",
            workers=WORKERS,
            bins=BINS,
            arguments=prefix,
        ) as job,
        LoadGenerator(bootstrap_servers, names[0], 4_000) as load,
    ):
        job.await_running()
        refuse_the_impossible(job, bootstrap_servers)
        migrations = [
            refuse_a_taken_id(job),
            refuse_a_second_plan(job, bootstrap_servers),
            *rescale_there_and_back(job, bootstrap_servers),
        ]
        nothing_to_do_is_done_at_once(job)
        published = load.stop()
        job.await_total("megaphone_state_applied_rows_total", bids_of(published))
        job.stop()
        verdict = judge(
            bootstrap_servers,
            job,
            names,
            tmp_path / "proof",
            published=published,
            owners=OWNERS,
            migrations=migrations,
        )
    assert set(faults(verdict)) <= {"moved"}, faults(verdict)
    assert verdict.bids_counted == bids_of(published)


def refuse_the_impossible(job, bootstrap_servers):
    applied = job.total("megaphone_state_applied_rows_total")
    job.request(*(body for body, _, _ in IMPOSSIBLE))
    job.await_(lambda: len(job.statuses()) >= len(IMPOSSIBLE), "answer to every request")
    answers = job.statuses()
    for offset, ((body, identity, reason), answer) in enumerate(zip(IMPOSSIBLE, answers)):
        assert answer["id"] == identity or (not identity and answer["id"] == f"invalid@{offset}")
        assert answer["state"] == "rejected", body
        assert reason in answer["reason"], answer
        assert (answer["at"], answer["bins"], answer["waves"], answer["bytes"]) == (None, 0, 0, 0)
    assert len(answers) == len(IMPOSSIBLE)
    job.await_(lambda: job.total("megaphone_state_applied_rows_total") > applied, "rows after them")
    assert moves_written(job, bootstrap_servers) == []
    assert told_owners(job, bootstrap_servers) == OWNERS


def refuse_a_taken_id(job):
    """A request that was accepted keeps its id: the same body again has no second effect."""
    targets = {0: 1, 1: 2, 2: 1, 3: 2}
    first = {"id": "taken", "kind": "move", "moves": [[b, w] for b, w in targets.items()]}
    job.request({**first, "strategy": "fluid"})
    done = job.await_status("taken", "completed")
    assert (done["bins"], done["waves"], done["reason"]) == (4, 4, None)
    states = [each["state"] for each in job.statuses("taken")]
    assert states == ["accepted", *["running"] * 4, "completed"]
    known = len(job.statuses("taken"))
    for again in (first, {**first, "moves": [[9, 2]]}, {"id": "taken", "kind": "rescale"}):
        job.request(again)
        job.await_(lambda least=known + 2: len(job.statuses("taken")) >= least, "two records")
        refusal, last_word = job.statuses("taken")[known:]
        assert refusal["state"] == "rejected"
        assert "taken" in refusal["reason"] or "needs workers" in refusal["reason"]
        assert last_word == done
        known += 2
    return migration_of(done, targets)


def refuse_a_second_plan(job, bootstrap_servers):
    """While a plan waits for its time it is under way; what was refused may be sent again."""
    at = time.time_ns() // 1000 + 6_000_000
    targets = dict.fromkeys(range(4), 0)
    job.request(
        {"id": "later", "kind": "move", "moves": [[b, 0] for b in targets], "at": at},
        {"id": "second", "kind": "rescale", "workers": 1},
    )
    accepted = job.await_status("later", "accepted")
    assert (accepted["at"], accepted["bins"], accepted["waves"]) == (at, 4, 4)
    job.await_(lambda: bool(job.statuses("second")), "answer to the second plan")
    (refusal,) = job.statuses("second")
    assert refusal["state"] == "rejected"
    assert "'later' is under way" in refusal["reason"]
    plan = read_status(bootstrap_servers, job.app, load_config()).plan
    assert plan is not None
    assert (plan.id, plan.state) == ("later", "accepted")
    done = job.await_status("later", "completed")
    assert done["at"] == at
    return migration_of(done, targets)


def rescale_there_and_back(job, bootstrap_servers):
    migrations = []
    owners = told_owners(job, bootstrap_servers)
    for identity, workers, shares in (
        ("second", 2, {32: 2}),  # refused above, so its id is free
        ("third", 3, {22: 1, 21: 2}),
    ):
        known = len(job.statuses(identity))
        job.request({"id": identity, "kind": "rescale", "workers": workers})
        done = job.await_status(identity, "completed", known=known)
        before, owners = owners, told_owners(job, bootstrap_servers)
        moved = {b: owners[b] for b in range(BINS) if owners[b] != before[b]}
        assert Counter(Counter(owners).values()) == shares
        assert done["bins"] == len(moved)
        migrations.append(migration_of(done, moved))
    counts = Counter(told_status(job, bootstrap_servers)["owners"])
    assert hosted_bins(job) == [counts[worker] for worker in range(WORKERS)]
    return migrations


def nothing_to_do_is_done_at_once(job):
    job.request({"id": "idle", "kind": "rescale", "workers": WORKERS})
    done = job.await_status("idle", "completed")
    assert (done["bins"], done["waves"], done["duration_ms"]) == (0, 0, 0)
    assert [each["state"] for each in job.statuses("idle")] == ["accepted", "completed"]


def told_status(job, bootstrap_servers):
    """What `megaphone status --output json` prints: one document on stdout, checked."""
    arguments = ["status", "--bootstrap-servers", bootstrap_servers, "--app", job.app]
    done = subprocess.run(
        [sys.executable, "-m", "service", *arguments, "--output", "json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    contract("status").validate(document)
    assert document["app"] == job.app
    slots = ["controller", "gateway-0", *(f"worker-{w}" for w in range(WORKERS))]
    assert sorted(member["slot"] for member in document["members"]) == slots
    assert {member["state"] for member in document["members"]} == {"running"}
    assert set(document["frontiers"]) == {"stats", "out"}
    return document


def told_owners(job, bootstrap_servers):
    """Owners as told once no plan is under way; heartbeats are half a second behind."""
    found: list[int] = []

    def settled():
        nonlocal found
        found = read_status(bootstrap_servers, job.app, load_config()).owners or []
        counts = Counter(found)
        return [counts[worker] for worker in range(WORKERS)] == hosted_bins(job)

    job.await_(settled, "owners that match what workers host")
    return found


def hosted_bins(job):
    """How many bins each worker says it hosts."""
    metrics = job.metrics()
    return [metrics[f"worker-{w}"]["megaphone_migration_owned_bins"] for w in range(WORKERS)]


def moves_written(job, bootstrap_servers):
    """Moves in the accepted log."""
    records = [json.loads(m.value()) for m in read_topic(bootstrap_servers, f"{job.app}.accepted")]
    return [record for record in records if record["type"] == "move"]
