"""Kafka as a child process: one Java node in KRaft mode, its data in a temporary folder.

Two ports are chosen, the folder is formatted by Kafka's own tool, the server is started under
`guard.py`, and the broker is handed out once a real client got an answer. [measured on 2 cores:
0.6 s to format, 2 s to the first answer.]

Invariants
  C1  The process and its folder are gone after `close`, and after our own end, whatever its cause.
  C2  A port that somebody else took in between costs another attempt, not the start.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from service.broker.jars import find_java, resolve_jars
from service.broker.probe import answers
from service.broker.properties import (
    CLUSTER_ID,
    JVM_FLAGS,
    Guarded,
    broker_properties,
    to_file,
)
from service.clock import Clock, SystemClock
from service.errors import BrokerError

HOST = "127.0.0.1"
START_SECONDS = 90.0
ATTEMPTS = 3
GUARD = Path(__file__).with_name("guard.py")
# The formatting tool lives for half a second: no optimising compiler, no concurrent collector.
_FORMAT_FLAGS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx128m")
_QUIET = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"


class JavaBroker:
    """A running Java child and the pipe that keeps it alive (see `guard.py`)."""

    def __init__(
        self,
        bootstrap_servers: str,
        folder: Path,
        guard: subprocess.Popen[bytes],
        guarded: Mapping[str, str],
    ) -> None:
        #: Addresses of the listeners beside the plain one, by name.
        self.guarded = guarded
        self._bootstrap_servers = bootstrap_servers
        self._folder = folder
        self._guard = guard

    @property
    def bootstrap_servers(self) -> str:
        """Address of the only node."""
        return self._bootstrap_servers

    @property
    def alive(self) -> bool:
        """Whether Kafka still runs: the guard closes its output when it does not (G2)."""
        output = self._guard.stdout
        if output is None or output.closed:
            return False
        ready, _, _ = select.select([output], [], [], 0)
        return not ready

    @property
    def folder(self) -> Path:
        """Where the data and `kafka.log` lie while the broker lives."""
        return self._folder

    def last_words(self) -> str:
        """The end of what Kafka wrote to its log."""
        log = self._folder / "kafka.log"
        return log.read_text(errors="replace")[-2000:].strip() if log.exists() else ""

    def close(self) -> None:
        """Let go of the guard, which ends Kafka and removes the folder, and wait until it has."""
        for pipe in (self._guard.stdin, self._guard.stdout):
            if pipe is not None:
                pipe.close()
        self._guard.wait()


def start_java(
    environment: Mapping[str, str] | None = None,
    clock: Clock | None = None,
    *,
    guarded: Guarded | None = None,
) -> JavaBroker:
    """Start a broker of our own and wait until it answers.

    Args:
        environment: where `JAVA_HOME`, `PATH` and the cache are looked up; our own if None.
        clock: what the start is timed with.
        guarded: listeners beside the plain one.

    Raises:
        KindMissing: Java or the jars are not to be had here.
        BrokerError: Kafka ended or did not answer in time; its last words are in the message.
    """
    environment = os.environ if environment is None else environment
    clock = clock or SystemClock()
    java = find_java(environment)
    jars = resolve_jars(environment)
    for attempt in range(1, ATTEMPTS + 1):
        broker = _launch(java, jars, guarded or Guarded())
        try:
            _await_answer(broker, clock)
        except BrokerError as failure:
            broker.close()
            if attempt == ATTEMPTS or "Address already in use" not in str(failure):
                raise
        except BaseException:  # Ctrl-C while it starts: nothing of it may stay (C1)
            broker.close()
            raise
        else:
            return broker
    raise AssertionError("the last attempt returns or raises")


def _launch(java: str, jars: Path, guarded: Guarded) -> JavaBroker:
    """Start the guard with the two commands; returns at once."""
    folder = Path(tempfile.mkdtemp(prefix="megaphone-kafka-"))
    port, controller_port, *others = _free_ports(2 + len(guarded.protocols))
    ports = dict(zip(guarded.protocols, others, strict=True))
    properties = folder / "server.properties"
    plain = broker_properties(
        listen_host=HOST,
        advertised_host=HOST,
        port=port,
        controller_port=controller_port,
        log_dir=str(folder / "data"),
    )
    properties.write_text(to_file(guarded.properties(plain, ports)))
    classpath = ("-cp", str(jars / "*"))
    formatting = [java, *_FORMAT_FLAGS, _QUIET, *classpath, "kafka.tools.StorageTool", "format"]
    formatting += ["--cluster-id", CLUSTER_ID, "--config", str(properties)]
    serving = [java, *JVM_FLAGS, *classpath, "kafka.Kafka", str(properties)]
    order = json.dumps({"folder": str(folder), "commands": [formatting, serving]})
    guard = subprocess.Popen(
        [sys.executable, "-I", "-S", str(GUARD), order],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # A group of its own, so that Ctrl-C at the terminal ends us first and then the broker. No
        # session of its own: Linux schedules each session as one unit (autogroup), and beside a
        # session with two busy processes the broker was seen to get no core for seconds.
        process_group=0,
    )
    addresses = {name: f"{HOST}:{number}" for name, number in ports.items()}
    return JavaBroker(f"{HOST}:{port}", folder, guard, addresses)


def _await_answer(broker: JavaBroker, clock: Clock) -> None:
    deadline = clock.monotonic_ns() + int(START_SECONDS * 1e9)
    while clock.monotonic_ns() < deadline:
        if not broker.alive:
            raise BrokerError(
                f"the local Kafka ended while starting; it said: {broker.last_words()}"
            )
        if answers(broker.bootstrap_servers, 0.5):
            return
    raise BrokerError(
        f"the local Kafka did not answer within {START_SECONDS:g} s; it said: {broker.last_words()}"
    )


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, all different; another process may still be faster (C2)."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for held in sockets:
            held.bind((HOST, 0))
        return [int(held.getsockname()[1]) for held in sockets]
    finally:
        for held in sockets:
            held.close()
