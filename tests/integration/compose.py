"""docker-compose.yml without a container engine: our services as processes of this machine.

Flow: docker-compose.yml, variables -> [Composition] -> command and environment of each service, as
written there; only what a container has of its own is replaced: the name of Kafka's, the one port
that all may use, the folder of a volume.

Cannot catch: what an image lacks, what a network keeps apart, what a read-only file system refuses.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import yaml

from tests.integration.command import ROOT, Command

FILE = ROOT / "docker-compose.yml"
#: An innermost one: defaults may hold others.
_VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(?::-([^${}]*))?\}")
_MODULES = {"megaphone": "service", "nexmark-loadgen": "loadgen"}
_CHECK_S = 30.0
#: Four processes import and compile at once; cores may be shared with others.
_START_S = 150.0

Service = Mapping[str, object]


def interpolate(text: str, variables: Mapping[str, str]) -> str:
    """A compose file's text with its `${NAME:-default}` replaced, `$$` standing for `$`."""

    def value(found: re.Match[str]) -> str:
        given = variables.get(found[1]) or found[2]
        assert given is not None, f"{found[0]} has no default"
        return given

    replaced = 1
    while replaced:
        text, replaced = _VARIABLE.subn(value, text)
    return text.replace("$$", "$")


def services(variables: Mapping[str, str]) -> dict[str, Service]:
    """The services of docker-compose.yml by name."""
    text = interpolate(FILE.read_text(encoding="utf-8"), variables)
    found: dict[str, Service] = yaml.safe_load(text)["services"]
    return found


class Container:
    """One container of a service of ours, as a process."""

    def __init__(self, service: Service, here: Callable[[object], str]) -> None:
        """Start it; `here` replaces what a container has of its own."""
        command, environment = service["command"], service["environment"]
        assert isinstance(command, list)
        assert isinstance(environment, dict)
        self.environment = {name: here(value) for name, value in environment.items()}
        if "MEGAPHONE_HTTP__PORT" in self.environment:
            self._port = self.environment["MEGAPHONE_HTTP__PORT"] = str(_free_port())
        self._check = service["healthcheck"]
        self.command = Command(
            *map(here, command[1:]), environment=self.environment, module=_MODULES[command[0]]
        )

    @property
    def ready(self) -> bool:
        """What its health check asks, asked without a process of its own."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/readyz", timeout=_CHECK_S):
                return True
        except OSError:
            return False  # it is not up, or it answers and is not ready yet

    @property
    def healthy(self) -> bool:
        """Whether its own health check says so."""
        assert isinstance(self._check, dict)
        kind, program, *arguments = self._check["test"]
        assert (kind, program) == ("CMD", "python")
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            timeout=_CHECK_S,
            check=False,
        )
        return done.returncode == 0

    @property
    def slot(self) -> str:
        """Which one it was given."""
        return str(self.command.await_line("member.started")["slot"])


class Composition:
    """The job of docker-compose.yml; use it in a `with` statement, which leaves nothing behind."""

    def __init__(self, kafka: str, volumes: Path, variables: Mapping[str, str]) -> None:
        """Let the service `topics` make the topics; start nothing yet."""
        tool = f"{sys.executable} -m tests.integration.kafka_topics"
        self._own = {
            "/opt/kafka/bin/kafka-topics.sh": tool,
            "kafka:19092": kafka,
            "tcp://0.0.0.0:7070": "tcp://0.0.0.0:*",
            "/var/lib/": f"{volumes}/",
        }
        self._stack = ExitStack()
        self.services = services(variables)
        #: Containers by service.
        self.up: dict[str, list[Container]] = {}
        (script,) = self.services["topics"]["command"]
        (listed,) = re.findall(r"for topic in (.*); do", script)
        self.topics = [name.partition(":")[0] for name in listed.split()]
        self.run("topics")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def _here(self, text: object) -> str:
        found = str(text)
        for theirs, ours in self._own.items():
            found = found.replace(theirs, ours)
        return found

    def run(self, name: str) -> None:
        """Let a service that is a script come to its end, with the image's commands."""
        service = self.services[name]
        words = [*service.get("entrypoint", ()), *service["command"]]
        for mount in service.get("volumes", ()):
            Path(self._here(mount.rpartition(":")[2])).mkdir(parents=True, exist_ok=True)
        commands = f"{Path(sys.executable).parent}:{ROOT / 'deploy' / 'image'}:{os.environ['PATH']}"
        done = subprocess.run(
            [self._here(word) for word in words],
            cwd=ROOT,
            env={"PATH": commands, "PYTHONPATH": str(ROOT), "HOME": os.environ["HOME"]},
            capture_output=True,
            text=True,
            timeout=_START_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    def start(self, *names: str) -> None:
        """Start services, as many containers of each as they say."""
        for name in names:
            service = self.services[name]
            deploy = service.get("deploy", {})
            assert isinstance(deploy, dict)
            self.up[name] = []
            for _ in range(int(deploy.get("replicas", 1))):
                container = Container(service, self._here)
                self._stack.enter_context(container.command)
                self.up[name].append(container)

    def await_healthy(self, *names: str) -> None:
        """Wait until every container of these services is what its health check calls healthy."""
        for name in names:
            for container in self.up[name]:
                container.command.await_(
                    lambda found=container: found.ready, f"{name} ready", timeout_s=_START_S
                )
                assert container.healthy, name

    def containers(self, *names: str) -> list[Container]:
        """All containers of these services."""
        return [container for name in names for container in self.up[name]]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
