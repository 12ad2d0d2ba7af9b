"""The local broker's configuration, as a file and as a container's environment."""

from __future__ import annotations

import base64
from xml.etree import ElementTree

from service.broker.container import IMAGE, container_environment
from service.broker.jars import POM
from service.broker.properties import CLUSTER_ID, KAFKA_VERSION, broker_properties, to_file

MAVEN = {"m": "http://maven.apache.org/POM/4.0.0"}


def _properties() -> dict[str, str]:
    return broker_properties(
        listen_host="127.0.0.1",
        advertised_host="127.0.0.1",
        port=1001,
        controller_port=1002,
        log_dir="/data",
    )


def test_the_node_votes_for_itself_and_advertises_the_port_it_listens_on():
    properties = _properties()
    assert properties["controller.quorum.voters"] == "1@127.0.0.1:1002"
    assert properties["listeners"] == "PLAINTEXT://127.0.0.1:1001,CONTROLLER://127.0.0.1:1002"
    assert properties["advertised.listeners"] == "PLAINTEXT://127.0.0.1:1001"


def test_every_replication_factor_and_minimum_is_one():
    counts = {
        name: value
        for name, value in _properties().items()
        if name.endswith(("replication.factor", "min.isr", "insync.replicas"))
    }
    assert len(counts) == 7
    assert set(counts.values()) == {"1"}


def test_a_topic_never_comes_into_being_by_a_typing_error():
    assert _properties()["auto.create.topics.enable"] == "false"


def test_no_record_is_too_old_to_be_kept():
    kept = {name: value for name, value in _properties().items() if "retention" in name}
    assert kept == {"log.retention.ms": "-1", "log.retention.bytes": "-1"}


def test_the_file_has_one_line_for_each_property():
    lines = to_file({"a.b": "1", "c": "x,y"})
    assert lines == "a.b=1\nc=x,y\n"


def test_the_container_listens_everywhere_and_advertises_the_host():
    variables = container_environment("docker.host", 1001)
    assert variables["KAFKA_LISTENERS"] == "PLAINTEXT://:1001,CONTROLLER://:29093"
    assert variables["KAFKA_ADVERTISED_LISTENERS"] == "PLAINTEXT://docker.host:1001"
    assert variables["KAFKA_CONTROLLER_QUORUM_VOTERS"] == "1@localhost:29093"
    assert variables["CLUSTER_ID"] == CLUSTER_ID


def test_the_cluster_id_is_sixteen_bytes_as_kafka_wants():
    assert base64.urlsafe_b64decode(CLUSTER_ID + "==") == b"megaphone-local-"


def test_maven_and_docker_bring_the_same_kafka():
    dependencies = ElementTree.parse(POM).findall("m:dependencies/m:dependency", MAVEN)
    versions = {
        found.findtext("m:artifactId", namespaces=MAVEN): found.findtext(
            "m:version", namespaces=MAVEN
        )
        for found in dependencies
    }
    assert versions["kafka_2.13"] == KAFKA_VERSION
    assert IMAGE.endswith(f":{KAFKA_VERSION}")
