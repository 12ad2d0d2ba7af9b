"""`megaphone migrate`, `rescale` and `rebalance` on a live job: each strategy, steering, exactness.

One job under load is moved about by the commands a user types; at the end the proof says whether
the stream noticed. Cannot catch: what a terminal shows while it happens.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import pytest

from service.config import load_config
from service.status import read_status
from tests.integration.bids import LoadGenerator, bids_of, faults, judge, migration_of, topics
from tests.integration.job import ROOT, STATUS_CONTRACT, Job, contract

BINS, WORKERS = 64, 3
OWNERS = [number * WORKERS // BINS for number in range(BINS)]


class User:
    """Somebody at a terminal who talks to one job."""

    def __init__(self, bootstrap_servers: str, app: str) -> None:
        self._common = ["--bootstrap-servers", bootstrap_servers, "--app", app]

    def types(self, *arguments: str, status: int = 0) -> str:
        """Run a command to its end; returns what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "service", *arguments, *self._common],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == status, (arguments, done.stdout, done.stderr)
        return done.stdout if status in (0, 1) and done.stdout else done.stderr

    def asks(self, *arguments: str, status: int = 0) -> dict[str, object]:
        """Run a command with --output json; returns the one document it printed, checked."""
        document = json.loads(self.types(*arguments, "--output", "json", status=status))
        STATUS_CONTRACT.validate(document)
        return dict(document)


@pytest.mark.timeout(420)
def test_a_job_is_moved_about_by_hand_and_stays_exact(
    bootstrap_servers, app_name, unique_name, tmp_path
):
    names = topics(bootstrap_servers, unique_name("t"))
    user = User(bootstrap_servers, app_name)
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
        world = Moved(job, bootstrap_servers)
        a_dry_run_moves_nothing(user, world)
        every_strategy_brings_the_bins_where_they_should_be(user, world, tmp_path)
        a_plan_is_paused_resumed_and_aborted(user, world)
        load_is_evened_out(user, world)
        what_cannot_be_is_refused(user)
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
            migrations=world.migrations,
        )
    assert set(faults(verdict)) <= {"moved"}, faults(verdict)
    assert verdict.bids_counted == bids_of(published)


class Moved:
    """What has moved so far, as the job says."""

    def __init__(self, job: Job, bootstrap_servers: str) -> None:
        self.job = job
        self._bootstrap = bootstrap_servers
        self.owners = list(OWNERS)
        self.migrations: list[object] = []

    def took(self, status: dict[str, object]) -> dict[int, int]:
        """Note a plan that has ended; returns the bins it moved."""
        found: list[int] = []

        def settled() -> bool:
            nonlocal found
            found = read_status(self._bootstrap, self.job.app, load_config()).owners or []
            metrics = self.job.metrics()
            hosted = [
                metrics[f"worker-{w}"]["megaphone_migration_owned_bins"] for w in range(WORKERS)
            ]
            return [found.count(worker) for worker in range(WORKERS)] == hosted

        self.job.await_(settled, "owners that match what workers host")
        moved = {b: found[b] for b in range(BINS) if found[b] != self.owners[b]}
        self.owners = found
        assert status["bins"] == len(moved)
        self.migrations.append(migration_of(status, moved))
        return moved


def a_dry_run_moves_nothing(user, world):
    applied = "megaphone_state_applied_rows_total"
    world.job.await_(lambda: world.job.total(applied) > 2_000, "some state")
    told = user.asks("rescale", "--workers", "2", "--dry-run")
    assert (told["state"], told["dry_run"], told["bins"]) == ("completed", True, 21)
    assert told["duration_ms"] > 0
    assert told["longest_wait_ms"] > 0
    assert world.job.lines("wave.completed") == []


def every_strategy_brings_the_bins_where_they_should_be(user, world, folder):
    done = user.asks("rescale", "--workers", "2", "--strategy", "fluid", "--id", "two")
    assert (done["id"], done["state"], done["waves"]) == ("two", "completed", 21)
    assert "longest_wait_ms" in done
    world.took(done)
    assert Counter(world.owners) == {0: 32, 1: 32}

    done = user.asks("migrate", "apply", "--target", "uniform", "--strategy", "optimized")
    moved = world.took(done)
    assert world.owners == [number % WORKERS for number in range(BINS)]
    # Of three workers, one pair at a time has something to do with one another.
    assert done["waves"] == len(moved)

    done = user.asks("migrate", "apply", "--target", "worker:2", "--strategy", "all-at-once")
    assert done["waves"] == 1
    world.took(done)

    file = folder / "plan.json"
    shown = user.types("migrate", "plan", "--target", "spread:3", "--to", str(file))
    assert "worker-2" in shown
    contract("plan").validate(json.loads(file.read_text(encoding="utf-8")))
    text = user.types("migrate", "apply", str(file))
    assert "completed" in text
    world.took(world.job.statuses()[-1])
    assert Counter(Counter(world.owners).values()) == {21: 2, 22: 1}

    # As the original writes it: a whole table, and then two bins 0.3 s after the beginning.
    table = [world.owners[b] if b < 2 else b % 2 for b in range(BINS)]
    first, second = ((world.owners[b] + 1) % WORKERS for b in (0, 1))
    lines = folder / "plan.txt"
    later = f"D 300000000 0 {first} 1 {second}"
    lines.write_text(f"M 0 {' '.join(map(str, table))}\n{later}\n", "utf-8")
    done = user.asks("migrate", "apply", str(lines))
    assert done["state"] == "completed"
    assert done["duration_ms"] >= 300
    world.took(done)
    assert world.owners == [first, second, *(b % 2 for b in range(2, BINS))]


def a_plan_is_paused_resumed_and_aborted(user, world):
    # Half an hour between its waves: it is in the middle for as long as it takes.
    moves = [[b, 0] for b in range(BINS) if world.owners[b] != 0]
    waves = [moves[:1], moves[1:2], moves[2:]]
    world.job.request(
        {
            "id": "slow",
            "kind": "move",
            "waves": waves,
            "after_us": [0, 1_800_000_000, 3_600_000_000],
        }
    )
    world.job.await_(
        lambda: any(s["waves"] == 1 and s["bins"] == 1 for s in world.job.statuses("slow")),
        "the first wave",
    )
    assert user.asks("migrate", "pause")["state"] == "completed"
    world.job.await_(lambda: world.job.statuses("slow")[-1]["state"] == "paused", "a pause")
    refused = user.types("migrate", "pause", status=1)
    assert "'slow' is paused already" in refused
    assert user.asks("migrate", "resume", "slow")["state"] == "completed"
    world.job.await_(lambda: world.job.statuses("slow")[-1]["state"] == "running", "it goes on")
    user.asks("migrate", "abort", "slow")
    ended = user.asks("migrate", "watch", "slow", status=1)
    assert (ended["state"], ended["waves"]) == ("aborted", 1)
    assert ended["reason"].endswith("aborted it after 1 of 3 waves")
    world.took(ended)
    assert world.owners[moves[0][0]] == 0
    assert "no plan is under way" in user.types("migrate", "abort", status=1)


def load_is_evened_out(user, world):
    done = user.asks("rebalance", "--threshold", "0.1", "--by", "rows")
    assert done["state"] == "completed"
    assert len(world.took(done)) >= 10
    counts = Counter(world.owners)
    assert min(counts[worker] for worker in range(WORKERS)) >= 12


def what_cannot_be_is_refused(user):
    assert "the job has 3" in user.types("rescale", "--workers", "4", status=1)
    assert "workers 0 to 2" in user.types("migrate", "apply", "--target", "worker:3", status=2)
    assert "no such file" in user.types("migrate", "apply", "--target", "nowhere", status=2)
    assert "no plan is under way" in user.types("migrate", "watch", status=2)


def test_a_job_that_is_not_there_is_a_usage_error(bootstrap_servers, app_name):
    said = User(bootstrap_servers, app_name).types("rescale", "--workers", "1", status=2)
    assert f"no job '{app_name}'" in said
