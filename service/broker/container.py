"""Kafka in a Docker container, through testcontainers.

The image's own start script formats the data and reads its configuration from the environment. The
client port is bound to the same number outside as inside, so that the address that Kafka advertises
is known before it starts and needs no second step. testcontainers' reaper removes the container if
we die; both libraries are development dependencies and are imported only when this kind is tried.

Invariants
  D1  A Docker that does not answer, or a library that is not installed, is a missing kind.
"""

from __future__ import annotations

import socket
from importlib import import_module
from typing import Protocol, cast

from service.broker.kinds import KindMissing
from service.broker.probe import answers
from service.broker.properties import (
    CLUSTER_ID,
    HEAP,
    KAFKA_VERSION,
    broker_properties,
    to_environment,
)
from service.errors import BrokerError

IMAGE = f"apache/kafka:{KAFKA_VERSION}"
START_SECONDS = 90.0
CONTROLLER_PORT = 29093
"""Inside the container only."""


class Container(Protocol):
    """The part of a testcontainers container that we use."""

    @property
    def status(self) -> str:
        """What Docker says of it, as of the last `reload`."""
        ...

    def reload(self) -> None:
        """Ask Docker again."""
        ...

    def stop(self) -> None:
        """Kill and remove it."""
        ...


class ContainerBroker:
    """A running container."""

    def __init__(self, bootstrap_servers: str, container: Container) -> None:
        self._bootstrap_servers = bootstrap_servers
        self._container: Container | None = container

    @property
    def bootstrap_servers(self) -> str:
        """Address of the only node, as seen from outside."""
        return self._bootstrap_servers

    @property
    def alive(self) -> bool:
        """Whether Docker still calls it running. Costs a request to the daemon."""
        if self._container is None:
            return False
        self._container.reload()
        return self._container.status == "running"

    def close(self) -> None:
        """Kill and remove the container."""
        if self._container is not None:
            self._container.stop()
            self._container = None


def container_environment(host: str, port: int) -> dict[str, str]:
    """What the image reads: the broker's configuration, its cluster and its heap."""
    properties = broker_properties(
        listen_host="",
        advertised_host=host,
        port=port,
        controller_port=CONTROLLER_PORT,
        log_dir="/tmp/kraft-combined-logs",  # noqa: S108 - the image's own folder, inside it
    )
    heap = {"CLUSTER_ID": CLUSTER_ID, "KAFKA_HEAP_OPTS": " ".join(HEAP)}
    return {**to_environment(properties), **heap}


def start_container() -> ContainerBroker:
    """Start a broker in a container and wait until it answers. Pulls the image the first time.

    Raises:
        KindMissing: no testcontainers, or no Docker daemon answers (D1).
        BrokerError: the container did not start, or Kafka in it did not answer.
    """
    try:
        docker = import_module("docker")
        library = import_module("testcontainers.core.container")
    except ImportError as absent:
        raise KindMissing(f"the Python package {absent.name} is not installed") from absent
    try:
        docker.from_env().close()
        docker_host = library.DockerClient().host()
    except docker.errors.DockerException as silent:
        raise KindMissing("no Docker daemon answers") from silent
    with socket.socket() as held:
        held.bind(("", 0))
        port = int(held.getsockname()[1])
    container = library.DockerContainer(IMAGE).with_bind_ports(port, port)
    container.with_envs(**container_environment(docker_host, port))
    try:
        container.start()
    except docker.errors.DockerException as failure:
        container.stop()
        raise BrokerError(f"Docker could not start {IMAGE}: {failure}") from failure
    broker = ContainerBroker(f"{docker_host}:{port}", cast("Container", container))
    if not answers(broker.bootstrap_servers, START_SECONDS):
        said = b"".join(container.get_logs()).decode(errors="replace")[-2000:].strip()
        broker.close()
        raise BrokerError(f"Kafka in {IMAGE} did not answer; it said: {said}")
    return broker
