"""What the doctor sees on a machine: folders, room, ports, versions, a broker that is not there."""

from __future__ import annotations

import json
import os
import resource
import socket
from importlib.metadata import PackageNotFoundError

import pytest
from typer.testing import CliRunner

from service.cli import app
from service.doctor.asking import reach
from service.doctor.finding import Verdict
from service.doctor.machine import (
    client,
    folders,
    interpreter,
    limits,
    open_files,
    packages,
    ports,
    room,
    versions,
)
from tests.integration.job import contract


def verdicts(findings):
    return {each.name: each.verdict for each in findings}


def found_in(versions_of):
    def version(package):
        if package not in versions_of:
            raise PackageNotFoundError(package)
        return versions_of[package]

    return version


def test_a_folder_that_can_be_made_or_written_is_good_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("MEGAPHONE_CACHE_DIR", str(tmp_path / "cache"))
    found = [*folders(tmp_path / "state", "bids")]
    assert verdicts(found)["disk.state"] is Verdict.GOOD
    assert "which will be made" in found[0].says
    assert [*tmp_path.iterdir()] == []


def test_a_file_in_the_place_of_the_folder_is_bad(tmp_path):
    (tmp_path / "state").write_text("no folder")
    found = [*folders(tmp_path / "state", "bids")]
    assert verdicts(found)["disk.state"] is Verdict.BAD
    assert "is no folder" in found[0].says
    assert "disk.room" not in verdicts(found)


def test_room_is_held_against_the_newest_checkpoint_of_each_worker(tmp_path):
    for slot, cut, size in (("worker-0", 1, 9_000), ("worker-0", 2, 70), ("worker-1", 2, 30)):
        part = tmp_path / "bids" / slot / f"cut-{cut}"
        part.mkdir(parents=True)
        (part / "rows.sst").write_bytes(b"x" * size)
    (room,) = (each for each in folders(tmp_path, "bids") if each.name == "disk.room")
    assert "the newest checkpoint took 100 B" in room.says


MIB = 1 << 20


@pytest.mark.parametrize(
    ("free", "total", "newest", "verdict"),
    [
        (20_000 * MIB, 100_000 * MIB, 0, Verdict.GOOD),
        (4_999 * MIB, 100_000 * MIB, 0, Verdict.WARNING),
        (300 * MIB, 1_000 * MIB, 0, Verdict.GOOD),
        (255 * MIB, 1_000 * MIB, 0, Verdict.BAD),
        (2_000 * MIB, 10_000 * MIB, 1_000 * MIB, Verdict.GOOD),
        (1_999 * MIB, 10_000 * MIB, 1_000 * MIB, Verdict.WARNING),
        (999 * MIB, 10_000 * MIB, 1_000 * MIB, Verdict.BAD),
    ],
)
def test_room_is_for_two_more_checkpoints_and_a_part_of_the_disk(free, total, newest, verdict):
    found = room(free, total, newest)
    assert found.verdict is verdict
    assert ("--state-dir" in (found.mend or "")) is (verdict is not Verdict.GOOD)


@pytest.mark.parametrize(
    ("found", "verdict", "mend"),
    [
        (open_files(1_023), Verdict.BAD, "ulimit -n"),
        (open_files(1_024), Verdict.GOOD, None),
        (open_files(resource.RLIM_INFINITY), Verdict.GOOD, None),
        (interpreter((3, 10, 14), optimised=True), Verdict.BAD, "3.11"),
        (interpreter((3, 11, 0), optimised=False), Verdict.WARNING, "--enable-optimizations"),
        (interpreter((3, 11, 0), optimised=True), Verdict.GOOD, None),
        (client("1.9.2", "1.9.2"), Verdict.BAD, "confluent-kafka"),
        (client("2.16.0", "2.16.1"), Verdict.GOOD, None),
    ],
)
def test_limits_and_versions_that_will_not_do_say_how_to_mend_it(found, verdict, mend):
    assert (found.verdict, found.mend is None) == (verdict, mend is None)
    assert mend is None or mend in found.mend


def test_a_port_in_use_is_bad_unless_the_job_itself_says_it_is_there():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert ports("127.0.0.1", port, 1, {}).verdict is Verdict.BAD
        own = ports("127.0.0.1", port, 1, {f"127.0.0.1:{port}": "controller"})
    assert (own.verdict, "controller" in own.says) == (Verdict.GOOD, True)
    assert ports("127.0.0.1", 0, 5, {}).verdict is Verdict.GOOD
    assert ports("203.0.113.1", 0, 5, {}).verdict is Verdict.BAD


def test_this_machine_has_versions_and_limits():
    found = verdicts([*versions(), *limits(2, 0, 1 << 20)])
    assert found["versions.librdkafka"] is Verdict.GOOD
    assert found["versions.python"] in (Verdict.GOOD, Verdict.WARNING)
    assert found["limits.memory"] is Verdict.GOOD
    many = [*limits(1_000, 1 << 40, 1 << 20)]
    assert verdicts(many)["limits.memory"] is Verdict.WARNING


@pytest.mark.parametrize(
    ("have", "verdict", "says"),
    [
        ({"numpy": "2.10.0", "polars": "2.1"}, Verdict.GOOD, "2 packages"),
        ({"numpy": "2.3.9", "polars": "2.1"}, Verdict.BAD, "numpy is 2.3.9, below 2.4"),
        ({"numpy": "2.4"}, Verdict.BAD, "polars is absent"),
    ],
)
def test_packages_are_held_against_their_lower_bounds(have, verdict, says):
    asked = ["numpy>=2.4", "polars>=2.1", "pytest>=9 ; extra == 'dev'"]
    found = packages(lambda: asked, found_in(have))
    assert (found.verdict, says in found.says) == (verdict, True)


def test_a_source_that_was_not_installed_has_packages_unknown():
    def absent():
        raise PackageNotFoundError("megaphone-kafka")

    assert packages(absent, found_in({})).verdict is Verdict.UNKNOWN


def test_an_installation_that_names_no_packages_has_them_unknown():
    found = packages(lambda: (), found_in({}))
    assert (found.verdict, "does not say" in found.says) == (Verdict.UNKNOWN, True)


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("nowhere.invalid:9092", "is not known here"),
        ("localhost", "is no host:port"),
        ("localhost:99999", "is no host:port"),
        ("127.0.0.1:1", "refused"),
    ],
)
def test_an_address_where_nothing_is_says_why(address, problem):
    assert problem in str(reach(address, 5).problem)


def test_an_address_where_something_listens_is_reached():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        assert reach(f"127.0.0.1:{listening.getsockname()[1]}", 5).problem is None


def test_without_a_broker_the_doctor_says_so_with_status_2(tmp_path):
    arguments = ["doctor", "--bootstrap-servers", "127.0.0.1:1", "--app", "bids"]
    arguments += ["--state-dir", str(tmp_path), "--output", "json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    report = json.loads(result.stdout)
    contract("doctor").validate(report)
    (broker,) = (each for each in report["checks"] if each["name"] == "broker.reachable")
    assert broker["verdict"] == "bad"
    assert "refused" in broker["says"]
    assert "megaphone broker" in broker["mend"]


def test_a_listener_that_is_no_kafka_is_told_from_nobody(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = f"127.0.0.1:{listening.getsockname()[1]}"
        arguments = ["doctor", "--bootstrap-servers", server, "--state-dir", str(tmp_path)]
        arguments += ["--set", "limits.broker_timeout_s=0.5", "--output", "json"]
        result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "does not speak Kafka with us" in result.stdout


def test_with_no_broker_named_only_the_machine_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)
    monkeypatch.setitem(os.environ, "COLUMNS", "200")
    result = CliRunner().invoke(app, ["doctor", "--state-dir", str(tmp_path)])
    assert result.exit_code == 0
    assert "unknown  broker.reachable" in result.stdout
    assert "good     disk.state" in result.stdout
