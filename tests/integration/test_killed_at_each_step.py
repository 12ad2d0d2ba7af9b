"""Real processes die by SIGKILL at every step of a copy, a move, a checkpoint and a stop.

A job is begun again and again, each time with another fail point armed in one of its processes:
what a life begins with is the checkpoint that was whole before it. A life is over when the armed
process has killed itself; then

* every other process has ended by itself, with one error, which names the lost one, and status 1;
* the newest manifest is the one that was there before, but where it was, or may have been, written
  at that very step;
* every file of it matches its digest, and every count its entries;
* the next life begins from it, and the last one, which nothing ends, gives the sums that DuckDB
  finds in the input; results of lives that were lost come again.

Processes are forked from one that has loaded the service: most of a life would be spent starting
otherwise. Cannot catch: a machine that loses power, and what it had not written.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka import Producer

from service.fail_points import ALLOWED, FAIL_POINTS, VARIABLE
from service.migration.records import ManifestRecord
from service.nexmark.events import NexmarkConfig
from service.slot_folder import files_of
from service.state_files import SlotCheckpoint, verify_checkpoint
from tests.integration.bids import publish
from tests.integration.flows import SCHEMAS
from tests.integration.forked import ForkedRoles
from tests.integration.job import registry
from tests.integration.test_checkpoint import manifests
from tests.integration.test_losses import TWOFOLD, WRONG
from tests.integration.user_flow import input_of, table_of, topics

#: Most bids go to different auctions, each of which is a wide row.
WIDE = NexmarkConfig().with_state(100_000)
FIRST, MORE = 4_000, 400
WORKERS, BINS = 2, 8
#: A controller has no links to break: others miss it only when it has promised nothing for so long.
SILENCE = {"MEGAPHONE_LIMITS__PEER_TIMEOUT_S": "4"}

#: What a life is asked for, by the first word of its fail point.
MOVE, CHECKPOINT, STOP = "move", "checkpoint", "stop"
ASKED = {
    "copy": MOVE,
    "move": MOVE,
    "checkpoint": CHECKPOINT,
    "manifest": CHECKPOINT,
    "tiers": STOP,
}


def losses(*kinds: str) -> list[tuple[str, str]]:
    """(fail point, slot that is to die there) of these kinds, each role that comes to it once."""
    found = []
    for number, (point, each) in enumerate(FAIL_POINTS.items()):
        if point.partition(".")[0] in kinds:
            slots = {"controller": "controller", "gateway": "gateway-0"}
            slots["worker"] = f"worker-{number % WORKERS}"
            found += [(point, slots[role]) for role in each.by]
    return found


#: Whether a loss there leaves a new manifest. Who has told its part may be the last to do so, and
#: the controller then as quick with the manifest as with the loss.
WRITTEN = {"manifest.written": {True}, "checkpoint.told": {False, True}}

CHAINS = {
    "copies": losses("copy"),
    "moves and stops": losses("move", "tiers"),
    "checkpoints": losses("checkpoint", "manifest"),
}


@dataclass
class Chain:
    """One job in many lives."""

    bootstrap_servers: str
    app: str
    prefix: str
    folder: Path
    published: int = 0
    lives: int = 0

    def publish(self, count: int) -> None:
        """Send so many further events."""
        publish(
            self.bootstrap_servers,
            f"{self.prefix}-events",
            count,
            first=self.published,
            config=WIDE,
        )
        self.published += count

    def life(self, lost: str = "", *more: str) -> ForkedRoles:
        """Begin again, with a fail point armed."""
        self.lives += 1
        environment = {"FLOW_PREFIX": self.prefix}
        if lost:
            environment |= {VARIABLE: lost, ALLOWED: "1"}
        if lost.startswith("controller"):
            environment |= SILENCE
        common = ["--bootstrap-servers", self.bootstrap_servers, "--app", self.app]
        members = ["--registry", str(self.folder / "schemas")]
        members += ["--state-dir", str(self.folder / "state")]
        return ForkedRoles(
            "tests.integration.flows:wide",
            common,
            self.folder / f"life-{self.lives}",
            workers=WORKERS,
            gateways=1,
            bins=BINS,
            controller=more,
            members=members,
            worker=["--state-memory", "16MiB"],
            environment=environment,
        )

    def request(self, body: dict[str, object]) -> None:
        """Publish a request; its id is this life's."""
        producer = Producer({"bootstrap.servers": self.bootstrap_servers, "linger.ms": 0})
        value = json.dumps({"id": f"asked-{self.lives}", **body})
        producer.produce(f"{self.app}.control", value, partition=0)
        assert producer.flush(10) == 0

    def ask(self, job: ForkedRoles, what: str, owners: list[int]) -> None:
        """Let the job do what leads to its loss."""
        if what == STOP:
            job.roles["controller"].process.terminate()
        elif what == CHECKPOINT:
            self.request({"kind": "checkpoint"})
        else:
            # Every worker gives all of its bins and takes the other's.
            moves = [[bin_, (owner + 1) % WORKERS] for bin_, owner in enumerate(owners)]
            body = {"kind": "move", "moves": moves, "strategy": "batched", "batch": BINS // 2}
            self.request({**body, "precopy": True})

    def restored(self, job: ForkedRoles) -> set[object]:
        """Cuts that the workers' state is of as they began: one, if all is well."""
        workers = [job.roles[f"worker-{number}"] for number in range(WORKERS)]
        told = [role.lines("state.restored") for role in workers]
        assert list(map(len, told)) == [1] * WORKERS
        return {line["cut"] for (line,) in told}

    def newest(self) -> ManifestRecord:
        """The newest manifest, every file and count of which was found to be as it says."""
        manifest = manifests(self.bootstrap_servers, self.app)[-1]
        for worker in range(WORKERS):
            slot = f"worker-{worker}"
            files = files_of(manifest, slot)
            assert files is not None
            folder = self.folder / "state" / self.app / slot
            assert verify_checkpoint(SlotCheckpoint(slot, folder, files)) == files.rows > 0
        return manifest


@pytest.fixture
def chain(bootstrap_servers, app_name, unique_name, tmp_path):
    """A job that has a checkpoint to begin with."""
    prefix = topics(bootstrap_servers, unique_name("t"), "sums")
    registry(tmp_path / "schemas", SCHEMAS)
    chain = Chain(bootstrap_servers, app_name, prefix, tmp_path)
    chain.publish(FIRST)
    with chain.life("", "--until-end") as job:
        assert set(job.await_ends().values()) == {0}
    return chain


def test_every_fail_point_has_a_life_for_each_role_that_comes_to_it():
    found = {(point, slot.partition("-")[0]) for each in CHAINS.values() for point, slot in each}
    assert found == {(name, by) for name, point in FAIL_POINTS.items() for by in point.by}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", CHAINS)
def test_whoever_dies_is_named_and_the_job_goes_on_from_a_whole_checkpoint(name, chain, tmp_path):
    before = chain.newest()
    for point, lost in CHAINS[name]:
        chain.publish(MORE)
        with chain.life(f"{lost}/{point}") as job:
            job.await_running()
            assert chain.restored(job) == {before.cut}
            chain.ask(job, ASKED[point.partition(".")[0]], before.bin_owners)
            statuses = job.await_ends()
            assert statuses == {slot: -9 if slot == lost else 1 for slot in job.roles}, point
            for slot, role in job.roles.items():
                named = [lost in message for message in role.errors()]
                assert named == ([] if slot == lost else [True]), (point, slot)
        found = chain.newest()
        assert (found.cut > before.cut) in WRITTEN.get(point, {False}), point
        before = found

    chain.publish(MORE)
    with chain.life("", "--until-end") as job:
        assert set(job.await_ends().values()) == {0}
        assert chain.restored(job) == {before.cut}
    found = input_of(chain.bootstrap_servers, f"{chain.prefix}-events", tmp_path)
    sums = table_of(chain.bootstrap_servers, f"{chain.prefix}-sums", 15)
    found.register("sums", sums)
    assert found.sql("select count(*) > 1000 from sums").fetchall() == [(True,)]
    assert found.sql(WRONG).fetchall() == []
    assert found.sql(TWOFOLD).fetchall() == []
