"""The configuration of the local broker: one node, KRaft, small, quick to start. Pure.

One table serves both kinds that we start: written as `server.properties` for the Java child, turned
into environment variables for the container.

Invariants
  B1  Every internal topic can exist with one node: replication factor and minimum in-sync are 1.
  B2  No topic comes into being by a typing error: automatic creation is off.
  B3  Nothing that a run reads back is deleted while it runs: no record is too old to be kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

KAFKA_VERSION = "4.1.1"
CLUSTER_ID = "bWVnYXBob25lLWxvY2FsLQ"  # 16 bytes, base64: "megaphone-local-"

HEAP = ("-Xms512m", "-Xmx512m", "-Xmn192m")
# For a machine with few cores beside a busy job: a young generation that a poll's records do not
# outlive, and the collector without concurrent threads. [measured on 2 cores at 100,000 records/s:
# p99 of the demo was higher with G1, the choice of Kafka's own scripts, with the first compiler
# (C1) alone, and with compiler threads at low priority.]
JVM_FLAGS = (
    *HEAP,
    "-XX:+UseParallelGC",
    "-XX:ParallelGCThreads=2",
    # Its statistics in a mapped file of the temporary folder: a pause of everything may wait for a
    # disk to write it.
    "-XX:+PerfDisableSharedMem",
    "-Djava.awt.headless=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)


@dataclass(frozen=True, slots=True)
class Guarded:
    """Listeners beside the plain one, for clients that prove who they are."""

    #: Name of each, in capitals, and how it is spoken to: SSL, SASL_PLAINTEXT, SASL_SSL.
    protocols: Mapping[str, str] = field(default_factory=dict)
    #: Settings of theirs, such as listener.name.tls.ssl.keystore.location.
    settings: Mapping[str, str] = field(default_factory=dict)

    def properties(self, plain: Mapping[str, str], ports: Mapping[str, int]) -> dict[str, str]:
        """The properties `plain` of a broker with these listeners at `ports` beside."""
        host = plain["advertised.listeners"].removeprefix("PLAINTEXT://").rpartition(":")[0]
        more = "".join(f",{name}://{host}:{ports[name]}" for name in self.protocols)
        kinds = "".join(f",{name}:{protocol}" for name, protocol in self.protocols.items())
        return {
            **plain,
            "listeners": plain["listeners"] + more,
            "advertised.listeners": plain["advertised.listeners"] + more,
            "listener.security.protocol.map": plain["listener.security.protocol.map"] + kinds,
            **self.settings,
        }


def broker_properties(
    *, listen_host: str, advertised_host: str, port: int, controller_port: int, log_dir: str
) -> dict[str, str]:
    """The whole configuration of a one-node cluster.

    Args:
        listen_host: address to bind; empty binds all of them.
        advertised_host: address that clients are told.
        port: port of the clients' listener, also the one advertised.
        controller_port: port of the quorum's listener, used by the node itself only.
        log_dir: folder of the data, as the node sees it.
    """
    voter_host = listen_host or "localhost"
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{voter_host}:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://{listen_host}:{port},CONTROLLER://{listen_host}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{advertised_host}:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        "log.dirs": log_dir,
        # B1, with few partitions: each costs two index files and time at start.
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "2",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "share.coordinator.state.topic.num.partitions": "1",
        "default.replication.factor": "1",
        "min.insync.replicas": "1",
        # B2
        "auto.create.topics.enable": "false",
        "num.partitions": "1",
        # B3: age counts from a record's own time, which a producer may set years back.
        "log.retention.ms": "-1",
        "log.retention.bytes": "-1",
        "log.segment.bytes": str(512 << 20),
        # A deleted topic gives its disk back at once, not after a minute.
        "log.segment.delete.delay.ms": "1000",
        # No waiting for members that will never come, nor batching of metadata nobody else writes.
        "group.initial.rebalance.delay.ms": "0",
        "controller.quorum.append.linger.ms": "5",
        "broker.heartbeat.interval.ms": "500",
        # Threads for two cores; the cleaner's default buffer alone is an eighth of the heap.
        "num.network.threads": "1",
        "num.io.threads": "2",
        "background.threads": "2",
        "log.cleaner.dedupe.buffer.size": str(16 << 20),
    }


def to_file(properties: dict[str, str]) -> str:
    """The text of `server.properties`. Values hold no character that the format would escape."""
    return "".join(f"{name}={value}\n" for name, value in properties.items())


def to_environment(properties: dict[str, str]) -> dict[str, str]:
    """The same as variables that Kafka's container image reads: KAFKA_ and dots as underscores."""
    return {f"KAFKA_{name.upper().replace('.', '_')}": value for name, value in properties.items()}
