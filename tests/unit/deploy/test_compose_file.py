"""docker-compose.yml as a text: a composition by its specification, and what it promises.

That services run as written is tested in tests/integration/test_compose.py.
"""

from __future__ import annotations

import base64
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from service.broker.properties import KAFKA_VERSION
from service.config import load_config
from tests.integration.compose import FILE, interpolate, services

ROOT = Path(__file__).parents[3]
OURS = {"keys", "controller", "gateway", "worker", "loadgen"}
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
#: What `docker compose` reads beside the file.
DEFAULTS = dict(
    line.split("=", 1)
    for line in (ROOT / ".env").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
)


@pytest.fixture(scope="module")
def composed():
    return services(DEFAULTS)


def test_it_is_a_composition_by_the_specification():
    done = subprocess.run(
        [
            *(sys.executable, "-m", "check_jsonschema"),
            *("--builtin-schema", "vendor.compose-spec", str(FILE)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_check_would_see_a_wrong_key(tmp_path):
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(FILE.read_text(encoding="utf-8").replace("healthcheck:", "helthcheck:"))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "check_jsonschema"),
            *("--builtin-schema", "vendor.compose-spec", str(wrong)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "helthcheck" in done.stdout


def test_variables_are_read_as_compose_reads_them():
    text = "a ${A:-1} ${B:-} $${C} ${A} ${D:-${A:-2} or ${E:-3}}"
    assert interpolate(text, {"A": "7", "B": ""}) == "a 7  ${C} 7 7 or 3"


def test_every_variable_has_a_default_or_is_in_the_file_beside():
    used = re.findall(r"(?<!\$)\$\{(\w+)(:-[^}]+)?\}", FILE.read_text(encoding="utf-8"))
    assert {name for name, default in used if not default} <= set(DEFAULTS)
    assert {"WORKERS", "APP", "TOPICS"} <= {name for name, _ in used}


def test_images_are_pinned(composed):
    for name, service in composed.items():
        image, _, tag = service["image"].partition(":")
        assert re.fullmatch(r"v?\d+\.\d+\.\d+", tag), name
        assert (image == "megaphone-kafka") == (name in OURS)
    assert {composed[name]["image"] for name in OURS} == {f"megaphone-kafka:{VERSION}"}


def test_kafka_is_the_version_that_tests_run_on(composed):
    for name in ("kafka", "topics"):
        assert composed[name]["image"] == f"apache/kafka:{KAFKA_VERSION}"


def test_kafka_is_told_everything_since_one_variable_drops_all_defaults(composed):
    told = composed["kafka"]["environment"]
    assert len(base64.urlsafe_b64decode(told["CLUSTER_ID"] + "==")) == 16
    listeners = dict(each.split("://") for each in told["KAFKA_LISTENERS"].split(","))
    advertised = dict(each.split("://") for each in told["KAFKA_ADVERTISED_LISTENERS"].split(","))
    mapped = {
        each.split(":")[0] for each in told["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(",")
    }
    quorum = told["KAFKA_CONTROLLER_LISTENER_NAMES"]
    assert set(listeners) == mapped == {*advertised, quorum}
    assert told["KAFKA_INTER_BROKER_LISTENER_NAME"] in advertised
    assert told["KAFKA_PROCESS_ROLES"] == "broker,controller"
    voter = f"{told['KAFKA_NODE_ID']}@kafka{listeners[quorum]}"
    assert told["KAFKA_CONTROLLER_QUORUM_VOTERS"] == voter
    # One node: every internal topic has to make do with it.
    for name in (
        "DEFAULT_REPLICATION_FACTOR",
        "MIN_INSYNC_REPLICAS",
        "OFFSETS_TOPIC_REPLICATION_FACTOR",
        "TRANSACTION_STATE_LOG_REPLICATION_FACTOR",
        "TRANSACTION_STATE_LOG_MIN_ISR",
        "SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR",
        "SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR",
    ):
        assert told[f"KAFKA_{name}"] == "1"
    assert told["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"
    assert f"kafka:{told['KAFKA_LOG_DIRS']}" in composed["kafka"]["volumes"]
    inside = composed["worker"]["environment"]["KAFKA_BOOTSTRAP_SERVERS"]
    assert advertised["INTERNAL"] == inside


def test_who_is_waited_for_has_a_health_check(composed):
    waits = 0
    for service in composed.values():
        for other, how in service.get("depends_on", {}).items():
            waits += 1
            if how["condition"] == "service_healthy":
                assert composed[other]["healthcheck"]["test"]
            else:
                assert how["condition"] == "service_completed_successfully"
                assert composed[other]["restart"] == "no"
    assert waits >= 6
    assert {name for name, each in composed.items() if "healthcheck" not in each} == {"topics"}


def test_profiles_start_what_they_are_called(composed):
    def started(*profiles):
        return {name for name, each in composed.items() if set(profiles) & set(each["profiles"])}

    core = {"kafka", "topics", "keys", "controller", "gateway", "worker"}
    assert DEFAULTS["COMPOSE_PROFILES"] == "core"
    assert started("core") == core
    assert started("loadgen") == {*core, "loadgen"}
    assert started("monitoring") == {*core, "prometheus", "grafana"}
    for profile in ("core", "loadgen", "monitoring"):
        for name in started(profile):
            assert set(composed[name].get("depends_on", {})) <= started(profile)


@pytest.mark.parametrize("workers", ["2", "4"])
def test_the_job_has_as_many_slots_as_workers_are_started(workers):
    found = services({**DEFAULTS, "WORKERS": workers})
    assert found["worker"]["deploy"]["replicas"] == workers
    assert f"--workers={workers}" in found["controller"]["command"]
    assert "--slot=any" in found["worker"]["command"]
    assert "--slot=any" in found["gateway"]["command"]


def test_a_flow_of_ones_own_needs_no_other_file():
    """The lines of .env that are commented out, taken in."""
    lines = re.findall(r"^# ([A-Z]+)=(.+)$", (ROOT / ".env").read_text("utf-8"), re.MULTILINE)
    own = dict(lines)
    assert set(own) == {"IMAGE", "TARGET", "REGISTRY", "CREATE"}
    found = services({**DEFAULTS, **own})
    assert {found[name]["image"] for name in OURS} == {own["IMAGE"]}
    for role in ("controller", "gateway", "worker"):
        assert found[role]["command"][2] == own["TARGET"]
        assert found[role]["environment"]["MEGAPHONE_REGISTRY"] == own["REGISTRY"]
    (script,) = found["topics"]["command"]
    assert f"for topic in {own['CREATE']}; do" in script


def test_our_containers_may_do_nothing_they_need_not(composed):
    for name in OURS:
        service = composed[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert any(each.startswith("/tmp") for each in service["tmpfs"])
        assert "user" not in service, "the image says who it is"
        assert "ports" not in service, "nobody outside needs to reach it"


def test_only_this_machine_reaches_the_ports(composed):
    ports = [port for each in composed.values() for port in each.get("ports", [])]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_what_is_kept_is_in_volumes_that_are_declared(composed):
    mounts = [mount for each in composed.values() for mount in each.get("volumes", [])]
    named = {mount.partition(":")[0] for mount in mounts if not mount.startswith(".")}
    text = FILE.read_text(encoding="utf-8")
    declared = set(re.findall(r"^  (\w+): \{\}$", text[text.index("\nvolumes:") :], re.MULTILINE))
    assert named == declared == {"kafka", "keys", "state", "prometheus", "grafana"}
    shown = [mount.split(":") for mount in mounts if mount.startswith(".")]
    assert len(shown) == 3
    for role in ("controller", "gateway", "worker"):
        assert "keys:/var/lib/megaphone-keys:ro" in composed[role]["volumes"]
    assert composed["keys"]["volumes"] == ["keys:/var/lib/megaphone-keys"]
    assert all(mode == "ro" and (ROOT / path).is_dir() for path, _, mode in shown)


def test_prometheus_asks_the_services_at_the_port_they_answer_at(composed):
    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text(encoding="utf-8"))
    asked = [
        (name, str(found["port"]))
        for scrape in config["scrape_configs"]
        for found in scrape.get("dns_sd_configs", [])
        for name in found["names"]
    ]
    answering = [
        (name, composed[name]["environment"]["MEGAPHONE_HTTP__PORT"])
        for name in ("controller", "gateway", "worker")
    ]
    assert sorted(asked) == answering
    for name, port in answering:
        assert composed[name]["environment"]["MEGAPHONE_HTTP__HOST"] == "0.0.0.0", port


def test_a_plain_stop_is_given_the_time_it_may_take(composed):
    grace = int(composed["worker"]["stop_grace_period"].removesuffix("s"))
    assert grace > load_config().limits.stop_timeout_s
