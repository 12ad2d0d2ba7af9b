"""Runs a page of the documents as a reader would: files saved, commands typed, Ctrl-C pressed.

Flow: page -> [steps_of] -> files, commands, what they are to print -> [Reader] -> a real broker.

What a block is stands behind its first fence: `python shop.py` (any language and a file's name) is
saved, `sh` is run to its end with status 0, each line of `sh background` goes on until it is
interrupted or ends by itself, `sh broker` is the reader's own broker and is not run here, `text` is
what the `sh` before it prints: each line in this order, others between them, `…` for anything
within a line. Comments do what a page takes for granted: `<!-- sh: COMMAND -->` and
`<!-- sh background: COMMAND -->` run one line, `<!-- ctrl-c: WORDS -->` interrupts what was begun
with these words and sees all else end that was begun beside it; `<!-- names: … -->` lists names of
topics and jobs that are made unique for the run, `<!-- ports: … -->` numbers of ports, in whose
place the run has free ones, `<!-- registry: PORT FOLDER -->` starts a schema registry there with
the schemas of the folder. Blocks without a name in a language that the page is said to show only,
such as `json` that is held against a contract, are passed over.

Invariants
  PR1  Nothing that was started outlives `Reader.close`.
  PR2  A block that only looks (`megaphone status`, `curl`, `promtool query`) is looked at again
       until it succeeds and shows what the page says, or the time is up: heartbeats are half a
       second old, and Prometheus knows only what it has read.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from tests.fakes.registry_server import RegistryServer
from tests.integration.prometheus import binary

ROOT = Path(__file__).parents[2]
WAIT_S = 150.0
_LOOK_AGAIN_S = 15.0
_STEP = re.compile(
    r"^```(?P<language>\w+)(?: (?P<label>\S+))?\n(?P<text>.*?)^```$"
    r"|^<!-- (?P<aside>ctrl-c|registry|sh|sh background): (?P<words>[^\n]*) -->$",
    re.MULTILINE | re.DOTALL,
)
_NAMES = re.compile(r"^<!-- names: (.*) -->$", re.MULTILINE)
_PORTS = re.compile(r"^<!-- ports: (.*) -->$", re.MULTILINE)
_LOOKS = ("megaphone status", "curl ", "promtool query ")


@dataclass(frozen=True)
class Step:
    """One thing that a reader does or sees."""

    kind: str
    text: str
    #: Name of a file.
    name: str = ""


def steps_of(page: str, suffix: str, shown: Collection[str] = ()) -> list[Step]:
    """What a reader does, names made unique by `suffix`; `shown`: languages to pass over."""
    replaced = {
        name: f"{name}_{suffix}" for found in _NAMES.findall(page) for name in found.split()
    }
    ports = [port for found in _PORTS.findall(page) for port in found.split()]
    replaced |= dict(zip(ports, map(str, free_ports(len(ports))), strict=True))
    own = re.compile(rf"\b({'|'.join(replaced)})\b")

    def unique(text: str) -> str:
        return own.sub(lambda found: replaced[found[1]], text) if replaced else text

    steps = []
    for found in _STEP.finditer(page):
        language, label, text = found.group("language", "label", "text")
        if (aside := found.group("aside")) is not None:
            steps.append(Step(aside.removeprefix("sh "), unique(found.group("words"))))
        elif language in shown:
            pass
        elif language == "sh":
            steps.append(Step(label or "sh", unique(text)))
        elif language == "text" and label is None:
            steps.append(Step("shows", unique(text)))
        elif label is not None:
            steps.append(Step("file", unique(text), unique(label)))
        else:
            raise AssertionError(f"a block of {language} that nothing is done with:\n{text}")
    return steps


def free_ports(count: int) -> list[int]:
    """Different ports of this machine that nobody listens at, in rising order."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return sorted(int(probe.getsockname()[1]) for probe in probes)


def shows(printed: str, expected: str) -> bool:
    """Whether the expected lines stand in what was printed, in order."""
    lines = iter(line.rstrip() for line in printed.splitlines())
    return all(
        any(re.fullmatch(pattern, line) for line in lines)
        for pattern in (
            ".*".join(map(re.escape, line.split("…"))) for line in expected.splitlines()
        )
    )


@dataclass
class _Begun:
    """A command that goes on."""

    text: str
    process: subprocess.Popen[str]
    #: Number of the block that began it.
    block: int
    said: list[str] = field(default_factory=list)

    def started(self) -> int:
        """How many gateways and workers have said that they take part."""
        return sum('"member.started"' in line for line in list(self.said))


class Reader:
    """Somebody who follows a page in a folder of his own; use it in a `with` statement (PR1)."""

    def __init__(
        self, page: Path, folder: Path, bootstrap_servers: str, shown: Collection[str] = ()
    ) -> None:
        """Put the commands on the reader's path and the examples in his folder; run nothing yet."""
        self.steps = steps_of(page.read_text(encoding="utf-8"), uuid.uuid4().hex[:6], shown)
        self._folder = folder
        for name in ("examples", "deploy"):
            (folder / name).symlink_to(ROOT / name)
        self._stack = ExitStack()
        self._begun: list[_Begun] = []
        #: Notified of each line that what was begun says.
        self._told = threading.Condition()
        bin_ = folder / "bin"
        bin_.mkdir()
        for name, module in (
            ("megaphone", "-m service"),
            ("nexmark-loadgen", "-m loadgen"),
            ("python", ""),
        ):
            (bin_ / name).write_text(f'#!/bin/sh\nexec {sys.executable} {module} "$@"\n')
            (bin_ / name).chmod(0o755)
        for name in ("prometheus", "promtool"):
            if any(re.search(rf"^{name} ", step.text, re.MULTILINE) for step in self.steps):
                (bin_ / name).symlink_to(binary(name))
        self._environment = {
            **os.environ,
            "PATH": f"{bin_}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "KAFKA_BOOTSTRAP_SERVERS": bootstrap_servers,
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            for begun in self._begun:
                error.add_note("\n".join([f"{begun.text} said, at last:", *begun.said[-20:]]))
        self.close()

    def close(self) -> None:
        """End what still runs."""
        self._stack.close()
        for begun in self._begun:
            if begun.process.poll() is None:
                family = psutil.Process(begun.process.pid).children(recursive=True)
                begun.process.kill()
                for child in family:
                    if child.is_running():
                        child.kill()
            begun.process.wait()

    def follow(self) -> None:
        """Do everything, in order."""
        for number, step in enumerate(self.steps):
            following = self.steps[number + 1] if number + 1 < len(self.steps) else None
            match step.kind:
                case "file":
                    path = self._folder / step.name
                    path.parent.mkdir(exist_ok=True)
                    path.write_text(step.text, encoding="utf-8")
                case "sh":
                    expected = following.text if following and following.kind == "shows" else ""
                    self._types(step.text, expected)
                case "background":
                    for line in step.text.replace("\\\n", " ").splitlines():
                        self._begins(line, number)
                    self._await_start(number)
                case "registry":
                    self._has_registry(*step.text.split())
                case "ctrl-c":
                    self._interrupts(step.text)
                case "shows" | "broker":
                    pass
                case _:
                    raise AssertionError(f"nobody knows what {step.kind!r} is")

    def _types(self, text: str, expected: str) -> None:
        commands = [
            line for line in text.splitlines() if line and not line.startswith(("export ", "#"))
        ]
        only_looks = all(line.startswith(_LOOKS) for line in commands)
        deadline = time.monotonic() + _LOOK_AGAIN_S
        while True:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", text],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=WAIT_S,
                check=False,
            )
            said = f"{text}\nprinted\n{done.stdout}\nand said\n{done.stderr}"
            if done.returncode == 0 and shows(done.stdout, expected):
                return
            wrong = f"status {done.returncode}: {said}\nwhere the page says\n{expected}"
            assert only_looks, wrong
            assert time.monotonic() < deadline, wrong

    def _has_registry(self, port: str, folder: str) -> None:
        files = (self._folder / folder).glob("*.avsc")
        schemas = {int(file.stem): json.loads(file.read_text(encoding="utf-8")) for file in files}
        server = RegistryServer(schemas, port=int(port), path="")
        self._stack.callback(server.close)

    def _begins(self, text: str, block: int) -> None:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {text}"],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        begun = _Begun(text.strip(), process, block)
        self._begun.append(begun)

        def read() -> None:
            assert process.stderr is not None
            with process.stderr:
                for line in process.stderr:
                    begun.said.append(line.rstrip())
                    with self._told:
                        self._told.notify_all()
            process.wait()
            with self._told:
                self._told.notify_all()

        threading.Thread(target=read, daemon=True).start()

    def _await_start(self, block: int) -> None:
        """Until every gateway and worker that a block began takes part."""
        begun = [each for each in self._begun if each.block == block]
        slots = sum(_slots_of(each.text) for each in begun)

        def decided() -> bool:
            ended = any(each.process.poll() is not None for each in begun)
            return ended or sum(each.started() for each in begun) >= slots

        with self._told:
            assert self._told.wait_for(decided, WAIT_S), f"{begun[0].text} did not start"
        for each in begun:
            assert each.process.poll() is None, f"{each.text} ended"

    def _interrupts(self, words: str) -> None:
        (begun,) = (each for each in self._begun if each.text.startswith(words))
        begun.process.send_signal(signal.SIGINT)
        for each in (each for each in self._begun if each.block == begun.block):
            assert each.process.wait(WAIT_S) == 0, f"{each.text} did not end as asked"
            failed = [line for line in each.said if line.startswith("{") and _is_error(line)]
            assert failed == []


def _slots_of(text: str) -> int:
    """How many gateways and workers a command starts; 0: it is no job."""
    if text.startswith(("megaphone gateway ", "megaphone worker ")):
        return 1
    if not text.startswith("megaphone run "):
        return 0
    counts = dict(re.findall(r"--(workers|gateways) (\d+)", text))
    return int(counts.get("workers", 2)) + int(counts.get("gateways", 1))


def _is_error(line: str) -> bool:
    return bool(json.loads(line).get("level") == "error")
