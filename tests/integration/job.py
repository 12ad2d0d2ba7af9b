"""A job as a user starts it, and everything an outsider can see of it.

Flow: test -> [Job] -> `megaphone run …`, forked or started, and the control topic; its stderr, its
status topic, its /metrics and its exit status -> test.

Invariants
  JB1  No process outlives `Job.close`, whatever the test did.
  JB2  Every wait has a deadline, and ends at once when the job ends before what is waited for.
  JB3  What processes print on stderr is JSON lines and nothing else; `finish` and `stop` see to it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import psutil
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from jsonschema import Draft202012Validator
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.forked import Process

ROOT = Path(__file__).parents[2]
_SLOT = re.compile(r"controller|(?:worker|gateway)-\d+")


def contract(name: str) -> Draft202012Validator:
    """The schema of that name in docs/contracts."""
    file = ROOT / "docs" / "contracts" / f"{name}.schema.json"
    return Draft202012Validator(json.loads(file.read_text(encoding="utf-8")))


STATUS_CONTRACT = contract("status-record")
#: Starting a job imports and compiles in every process; two cores may be shared with others.
START_S = 60.0
WAIT_S = 30.0
_PAUSE_S = 0.05
_GRACE_S = 5.0
_HTTP_S = 5.0

Document = dict[str, object]


class Job:
    """One job's processes; use it in a `with` statement (JB1)."""

    def __init__(
        self,
        bootstrap_servers: str,
        app: str,
        folder: Path,
        target: str = "nexmark:auction_bids",
        *,
        workers: int = 1,
        gateways: int = 1,
        bins: int = 64,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        forked: bool = True,
    ) -> None:
        """Start it; `folder` takes its checkpoints.

        Args:
            bootstrap_servers: of the broker.
            app: its name, used by nobody else.
            folder: for the state.
            target: what to run.
            workers: worker processes.
            gateways: gateway processes.
            bins: bins of state.
            arguments: more of `megaphone run`, such as --until-end.
            environment: more variables, such as knobs.
            forked: whether its processes are forks of one that has loaded what they need, or are
                started as a user starts them; that is for tests of what `nursery` says differs
                (NU3) and of the start itself, and costs some seconds of a core.
        """
        self.app = app
        self.workers = workers
        self.gateways = gateways
        self.bins = bins
        self._bootstrap = bootstrap_servers
        self._guard = threading.Lock()
        self._lines: list[Document] = []
        self._noise: list[str] = []
        self._statuses: list[Document] = []
        #: Offset behind them.
        self._statuses_end = 0
        self._status_reader: Consumer | None = None
        command = ["run", target]
        command += ["--bootstrap-servers", bootstrap_servers, "--app", app]
        command += ["--workers", str(workers), "--gateways", str(gateways), "--bins", str(bins)]
        command += ["--state-dir", str(folder), *arguments]
        variables = {**os.environ, **(environment or {})}
        self._process: Process | subprocess.Popen[str]
        if forked:
            self._process = Process(command, variables)
        else:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "service", *command],
                cwd=ROOT,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        assert self._process.stderr is not None
        self._reader = threading.Thread(
            target=self._read_stderr, args=(self._process.stderr,), daemon=True
        )
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            error.add_note(self.transcript())
        self.close()

    # What it says -------------------------------------------------------------------------------

    def lines(self, event: str = "", **fields: object) -> list[Document]:
        """What it has logged so far: lines of this event with these fields."""
        with self._guard:
            lines = list(self._lines)
        wanted = {**fields, **({"event": event} if event else {})}
        return [line for line in lines if wanted.items() <= line.items()]

    def await_lines(
        self, event: str, count: int = 1, timeout_s: float = WAIT_S, **fields: object
    ) -> list[Document]:
        """Wait for `count` lines of an event."""
        self.await_(
            lambda: len(self.lines(event, **fields)) >= count, f"{count} {event}", timeout_s
        )
        return self.lines(event, **fields)

    def await_running(self) -> None:
        """Wait until every process takes part in the generation."""
        self.await_lines("member.started", self.workers + self.gateways, START_S)

    def await_(self, holds: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> None:
        """Wait until something holds (JB2)."""
        deadline = time.monotonic() + timeout_s
        while not holds():
            ended = self._ended(_PAUSE_S)
            if holds():
                return
            assert not ended, f"the job ended with status {self._process.returncode} before {what}"
            assert time.monotonic() < deadline, f"no {what} within {timeout_s:g} s"

    def transcript(self) -> str:
        """The end of everything it printed, for the report of a failed test."""
        with self._guard:
            said = [json.dumps(line) for line in self._lines[-25:]] + self._noise[-40:]
        return "\n".join([f"{self.app} said, at last:", *said])

    def metrics(self) -> dict[str, dict[str, float]]:
        """What /metrics of each process says: slot -> metric, or `metric{value,...}` -> value.

        A process refreshes its readings with its heartbeat, so they may be half a second old.
        """
        found: dict[str, dict[str, float]] = {}
        for slot, address in self.addresses().items():
            found[slot] = scrape(address)
        return found

    def addresses(self) -> dict[str, str]:
        """Where each process answers over HTTP."""
        told = self.lines("member.started") + self.lines("generation.began")
        return {str(line["slot"]): str(line["http"]) for line in told}

    def total(self, metric: str) -> float:
        """A metric summed over the processes and labels that have it."""
        return sum(
            value
            for reading in self.metrics().values()
            for name, value in reading.items()
            if name.partition("{")[0] == metric
        )

    def await_total(self, metric: str, value: float, timeout_s: float = WAIT_S) -> None:
        """Wait until a summed metric has reached a value; it must not pass it."""
        self.await_(lambda: self.total(metric) >= value, f"{metric} of {value:,g}", timeout_s)
        assert self.total(metric) == value

    def processes(self) -> dict[str, psutil.Process]:
        """Its processes by slot, those that live."""
        found = {}
        for child in psutil.Process(self._process.pid).children():
            slot = _slot_of(child)
            if slot:
                found[slot] = child
        return found

    # Requests -----------------------------------------------------------------------------------

    def request(self, *bodies: Document | bytes | None) -> None:
        """Publish requests, in order; bytes as they are, None as a record without a value."""
        producer = Producer({"bootstrap.servers": self._bootstrap, "linger.ms": 0})
        for body in bodies:
            value = json.dumps(body).encode() if isinstance(body, dict) else body
            producer.produce(f"{self.app}.control", value, partition=0)
        assert producer.flush(10) == 0

    def statuses(self, identity: str | None = None) -> list[Document]:
        """Every status record up to the topic's end as of now, in order, or those about one id."""
        place = TopicPartition(f"{self.app}.status", 0, 0)
        if self._status_reader is None:
            self._status_reader = _reader(self._bootstrap)
            self._status_reader.assign([place])
        _, end = self._status_reader.get_watermark_offsets(place, WAIT_S)
        deadline = time.monotonic() + WAIT_S
        while self._statuses_end < end:
            assert time.monotonic() < deadline, f"no status {self._statuses_end} of {end}"
            for message in self._status_reader.consume(1_000, _PAUSE_S):
                self._statuses_end = max(self._statuses_end, message.offset() or 0)
                if not _is_end(message):
                    self._statuses_end += 1
                    self._take_status(message)
        return [each for each in self._statuses if identity in (None, each["id"])]

    def _take_status(self, message: Message) -> None:
        status = json.loads(message.value() or b"")
        STATUS_CONTRACT.validate(status)
        assert status["id"].encode() == message.key(), "a status is keyed by its id"
        self._statuses.append(status)

    def await_status(
        self, identity: str, state: str, timeout_s: float = WAIT_S, *, known: int = 0
    ) -> Document:
        """Wait until a request is in a state and return that status; other ends are failures.

        Args:
            identity: the request's id.
            state: to wait for.
            timeout_s: how long.
            known: statuses of this id that were there before; they answer an earlier request.
        """

        def found() -> bool:
            states = [each["state"] for each in self.statuses(identity)[known:]]
            if state not in states and states:
                assert states[-1] not in ("rejected", "aborted", "completed"), self.statuses()
            return state in states

        self.await_(found, f"{identity} {state}", timeout_s)
        return next(each for each in self.statuses(identity)[known:] if each["state"] == state)

    # The end ------------------------------------------------------------------------------------

    def finish(self, status: int = 0, timeout_s: float = START_S) -> None:
        """Wait for its end by itself."""
        assert self._ended(timeout_s), f"the job goes on after {timeout_s:g} s"
        self._reader.join(WAIT_S)
        ended = self._process.returncode
        assert ended == status, f"status {ended}, not {status}; {self.transcript()}"
        # Of a failing job the Kafka client may have something to say, too; its lines begin with %.
        noise = [text for text in self._noise if status == 0 or not text.startswith("%")]
        assert noise == [], self.transcript()

    def stop(self, timeout_s: float = WAIT_S) -> None:
        """Stop it plainly."""
        self._process.send_signal(signal.SIGTERM)
        self.finish(0, timeout_s)

    def close(self) -> None:
        """End all that is left of it (JB1)."""
        if self._process.poll() is None:
            launcher = psutil.Process(self._process.pid)
            family = [*launcher.children(recursive=True), launcher]
            for process in family:
                try:
                    process.kill()
                except psutil.NoSuchProcess:
                    continue  # it ended by itself meanwhile
            psutil.wait_procs(family, _GRACE_S)
            self._process.wait()
        self._reader.join(_GRACE_S)
        if self._status_reader is not None:
            self._status_reader.close()
            self._status_reader = None
        if self._process.stderr is not None:
            self._process.stderr.close()

    def _ended(self, timeout_s: float) -> bool:
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _read_stderr(self, stream: IO[str]) -> None:
        for text in stream:
            try:
                line = json.loads(text)
            except ValueError:
                line = None
            with self._guard:
                if isinstance(line, dict):
                    self._lines.append(line)
                else:
                    self._noise.append(text.rstrip())


def _slot_of(child: psutil.Process) -> str:
    """Which process of a job a child of the launcher is, "" if it is none."""
    name = child.name()
    if _SLOT.fullmatch(name):
        return name  # a fork; /proc has no command line of its own for it
    words = child.cmdline()
    if "service" not in words:
        return ""  # the helper that forks
    role = words[words.index("service") + 1]
    return f"{role}-{words[words.index('--slot') + 1]}" if "--slot" in words else role


def registry(folder: Path, more: Mapping[int, Document]) -> Path:
    """A folder of the shipped schemas and `more`, by id."""
    folder.mkdir(parents=True)
    for file in (ROOT / "service" / "nexmark" / "schemas").glob("*.avsc"):
        shutil.copy(file, folder)
    for number, schema in more.items():
        (folder / f"{number}.avsc").write_text(json.dumps(schema), encoding="utf-8")
    return folder


def scrape(address: str) -> dict[str, float]:
    """What /metrics at `address` says: `metric`, or `metric{value,...}` where it has own labels."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=_HTTP_S) as answer:
        text = answer.read().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            own = [value for name, value in sample.labels.items() if name not in ("app", "slot")]
            name = f"{sample.name}{{{','.join(own)}}}" if own else sample.name
            found[name] = sample.value
    return found


def read_topic(bootstrap_servers: str, topic: str, timeout_s: float = WAIT_S) -> list[Message]:
    """All records of a topic up to its end as of now; of each partition in order."""
    reader = _reader(bootstrap_servers)
    try:
        partitions = reader.list_topics(topic, timeout=timeout_s).topics[topic].partitions
        ends = {}
        for partition in partitions:
            low, high = reader.get_watermark_offsets(TopicPartition(topic, partition), timeout_s)
            if high > low:
                ends[partition] = high
        reader.assign([TopicPartition(topic, partition, 0) for partition in ends])
        messages = []
        deadline = time.monotonic() + timeout_s
        while ends:
            assert time.monotonic() < deadline, f"{topic} was not read within {timeout_s:g} s"
            for message in reader.consume(10_000, 0.2):
                if _is_end(message):
                    reached = message.offset() or 0
                else:
                    messages.append(message)
                    reached = (message.offset() or 0) + 1
                if reached >= ends.get(message.partition() or 0, sys.maxsize):
                    del ends[message.partition() or 0]
    finally:
        reader.close()
    return messages


def _is_end(message: Message) -> bool:
    """Whether it says that a partition has been read; anything else that is wrong is raised."""
    error = message.error()
    if error is not None and error.name() != "_PARTITION_EOF":
        raise AssertionError(f"{message.topic()} cannot be read: {error.str()}")
    return error is not None


def _reader(bootstrap_servers: str) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": "tests",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 50,
        }
    )
