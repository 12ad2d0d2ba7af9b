"""What is lost, refused or interrupted ends a job with a clear error, and nothing hangs.

Real processes, a real Kafka. Deadlines lie far above what is promised, as cores may be busy.
Cannot catch: losses between machines, and a disk that fails.
"""

from __future__ import annotations

import signal

import psutil
import pytest
from confluent_kafka import Producer

from service.broker.lookup import find_broker
from service.config import load_config
from service.errors import BrokerError, UsageError
from service.status import read_status
from tests.integration.bids import publish, topics
from tests.integration.command import Command, Roles, query
from tests.integration.job import Job

#: Knobs that make losses show quickly.
QUICK = {
    "MEGAPHONE_LIMITS__PEER_TIMEOUT_S": "3",
    "MEGAPHONE_LIMITS__BROKER_TIMEOUT_S": "3",
}


@pytest.fixture
def names(bootstrap_servers, unique_name):
    """Input and output topic of this test, with some events."""
    found = topics(bootstrap_servers, unique_name("t"))
    publish(bootstrap_servers, found[0], 5_000)
    return found


@pytest.fixture
def job(bootstrap_servers, app_name, names, tmp_path):
    """A running job of two workers and a gateway."""
    with Job(
        bootstrap_servers,
        app_name,
        tmp_path,
        workers=2,
        arguments=query(names),
        environment=QUICK,
        forked=False,  # this is about the launcher and its processes themselves
    ) as running:
        running.await_running()
        yield running


def await_member(bootstrap_servers, app, slot, state, command):
    """Wait until `megaphone status` shows a process of the job in a state."""
    config = load_config()

    def there():
        try:
            status = read_status(bootstrap_servers, app, config)
        except (UsageError, BrokerError):
            return False  # it has not made its topics yet
        return any(member.slot == slot and member.state == state for member in status.members)

    command.await_(there, f"{slot} {state}")


@pytest.mark.parametrize("lost", ["controller", "worker-1", "gateway-0"])
def test_a_lost_process_stops_the_job_and_is_named(job, lost):
    processes = job.processes()
    processes[lost].kill()
    job.finish(status=1, timeout_s=20)
    told = job.lines("job.failed")
    assert [lost in str(line["message"]) for line in told] == [True]
    assert not [each for each in processes.values() if each.is_running()]


@pytest.mark.parametrize("lost", ["controller", "worker-1", "gateway-0"])
def test_processes_without_a_launcher_notice_a_loss(
    bootstrap_servers, app_name, names, tmp_path, lost
):
    with Roles(bootstrap_servers, app_name, tmp_path, names, environment=QUICK) as roles:
        roles.await_running()
        roles.commands[lost].signal(signal.SIGKILL)
        roles.finish(1, timeout_s=20, but=lost)
        for slot, command in roles.commands.items():
            if slot != lost:
                (message,) = command.errors()
                assert lost in message
                assert command.noise == []


def test_a_broker_that_dies_ends_every_process(unique_name, tmp_path):
    environment = {**QUICK, "KAFKA_BOOTSTRAP_SERVERS": ""}
    broker = find_broker(environment)
    try:
        names = topics(broker.bootstrap_servers, unique_name("t"))
        publish(broker.bootstrap_servers, names[0], 1_000)
        app = unique_name("app")
        with Roles(
            broker.bootstrap_servers, app, tmp_path, names, workers=1, environment=environment
        ) as roles:
            roles.await_running()
            broker.close()
            roles.finish(1, timeout_s=25)
            for command in roles.commands.values():
                assert command.noise == []
                assert any("has not answered for 3 s" in each for each in command.errors())
    finally:
        broker.close()


@pytest.mark.parametrize("asked", ["launcher", "controller", "worker-0", "gateway-0"])
def test_whoever_is_asked_stops_the_whole_job_plainly(job, asked):
    if asked == "launcher":
        job.stop()
    else:
        job.processes()[asked].send_signal(signal.SIGTERM)
        job.finish(status=0)
    assert len(job.lines("checkpoint.written")) == 1
    assert len(job.lines("member.stopped")) == 3
    assert [line for line in job.lines() if line["level"] == "error"] == []


def test_a_launcher_that_is_killed_takes_its_job_along_plainly(job):
    processes = job.processes()
    psutil.Process(next(iter(processes.values())).ppid()).kill()
    _, alive = psutil.wait_procs(processes.values(), timeout=30)
    assert not alive
    job.await_lines("checkpoint.written")


def test_a_second_signal_ends_everything_at_once(job):
    processes = job.processes()
    launcher = psutil.Process(next(iter(processes.values())).ppid())
    # While a worker cannot answer, the plain stop cannot come to its end. Two numbers, because two
    # signals of one number may arrive as one.
    processes["worker-0"].suspend()
    launcher.send_signal(signal.SIGINT)
    launcher.send_signal(signal.SIGTERM)
    job.finish(status=1, timeout_s=10)
    assert len(job.lines("job.interrupted")) == 1
    assert not [each for each in processes.values() if each.is_running()]


@pytest.mark.parametrize("role", ["controller", "worker"])
def test_a_role_that_waits_for_others_leaves_when_it_is_asked(
    bootstrap_servers, app_name, names, tmp_path, role
):
    arguments = ["nexmark:auction_bids", "--bootstrap-servers", bootstrap_servers]
    arguments += ["--app", app_name, *query(names)]
    if role == "worker":
        arguments += ["--slot", "0", "--state-dir", str(tmp_path)]
    with Command(role, *arguments) as command:
        slot = "controller" if role == "controller" else "worker-0"
        await_member(bootstrap_servers, app_name, slot, "waiting", command)
        command.signal()
        assert command.finish(0) < 10
        assert command.errors() == []
        assert command.noise == []


def test_the_job_is_stopped_while_its_processes_still_start(
    bootstrap_servers, app_name, names, tmp_path
):
    with Job(bootstrap_servers, app_name, tmp_path, arguments=query(names), forked=False) as job:
        job.await_(lambda: len(job.processes()) == 3, "processes")
        job.stop()
        assert [line for line in job.lines() if line["level"] == "error"] == []


def test_a_plan_under_way_is_cut_off_by_a_stop(job):
    moves = [[bin_, 1] for bin_ in range(32)]
    job.request({"id": "r", "kind": "move", "moves": moves, "strategy": "fluid", "at": None})
    job.await_status("r", "running")
    job.stop()
    last = job.statuses("r")[-1]
    assert last["state"] in ("aborted", "completed")
    if last["state"] == "aborted":
        assert 0 < int(str(last["bins"])) < 32
        assert "stopped" in str(last["reason"])
    assert len(job.lines("checkpoint.written")) == 1


def test_a_second_controller_takes_the_app_over_and_the_first_job_ends(
    bootstrap_servers, app_name, names, tmp_path
):
    with Roles(bootstrap_servers, app_name, tmp_path, names, environment=QUICK) as roles:
        roles.await_running()
        second = ["controller", "nexmark:auction_bids", "--bootstrap-servers", bootstrap_servers]
        second += ["--app", app_name, *query(names)]
        with Command(*second) as taking_over:
            roles.finish(1, timeout_s=20)
            (message,) = roles.commands["controller"].errors()
            assert "another controller" in message
            await_member(bootstrap_servers, app_name, "controller", "waiting", taking_over)
            taking_over.signal()
            taking_over.finish(0)


def test_an_unknown_record_in_the_log_stops_the_processes(job, bootstrap_servers):
    producer = Producer({"bootstrap.servers": bootstrap_servers})
    producer.produce(f"{job.app}.accepted", b'{"type": "merge", "clock": 1}', partition=0)
    assert producer.flush(10) == 0
    job.finish(status=1, timeout_s=20)
    told = [str(line["message"]) for line in job.lines("process.failed")]
    assert any("unknown record in the accepted log" in each for each in told)
