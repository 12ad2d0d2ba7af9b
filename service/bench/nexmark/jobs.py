"""A job as a user runs it, on a broker, with the requests that move its state.

Flow: JobOptions -> `megaphone run nexmark:QUERY` -> [Job]: its log lines, <app>.control,
<app>.status, <app>.members, memory of its processes.

Invariants
  JB1  Nothing reaches into the job: it is asked by records, and watched by its topics, its log
       lines and the operating system.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import psutil

from service.bench.nexmark.children import Child
from service.bench.nexmark.topics import Place, event_topics
from service.control_topics import START_AT_BEGINNING, AppTopics, RecordWriter, TopicTail
from service.errors import MegaphoneError
from service.ids import Role, Slot
from service.migration.records import (
    MemberRecord,
    RequestState,
    StatusRecord,
    decode_member,
    decode_status,
)
from service.nexmark.rules import RULES

BINS = 1024
START_S = 90.0
END_S = 180.0
_ANSWER_S = 15.0
#: A plan has at least so many waves; rows of a wave's bins wait for one another only.
_WAVES_MIN = 64


@dataclass(frozen=True, slots=True)
class JobOptions:
    """One job."""

    query: str
    app: str
    #: Of its event topics.
    prefix: str
    output: str
    workers: int = 1
    out_of_orderness: str = "0ms"
    until_end: bool = False
    bins: int = BINS

    def arguments(self, place: Place, state: Path) -> list[str]:
        """The command line behind the interpreter."""
        return [
            *("-m", "service", "run", f"nexmark:{self.query}"),
            *("--bootstrap-servers", place.bootstrap_servers, "--app", self.app),
            *("--workers", str(self.workers), "--gateways", "1", "--bins", str(self.bins)),
            *("--topic-prefix", self.prefix, "--output-topic", self.output),
            *("--format", place.format, "--event-topics", "separate"),
            *("--max-out-of-orderness", self.out_of_orderness),
            *("--state-dir", str(state)),
            *(["--until-end"] if self.until_end else []),
        ]

    @property
    def inputs(self) -> list[str]:
        """Topics of the types that the query reads."""
        kinds = [topic.rpartition("-")[2] for topic in event_topics(self.prefix)]
        topics = zip(kinds, event_topics(self.prefix), strict=True)
        return [topic for kind, topic in topics if kind in RULES[self.query].inputs]


class Job:
    """A job that was started; `started` opens one."""

    def __init__(self, child: Child, place: Place, options: JobOptions) -> None:
        self.child = child
        self.options = options
        self._topics = AppTopics(options.app)
        self._place = place
        #: Greatest resident memory seen of each process, bytes.
        self.memory: dict[str, int] = {}
        self._processes: dict[str, psutil.Process] = {}

    @property
    def running_since_us(self) -> int:
        """When the first of its processes began to run: no event was read before.

        Raises:
            MegaphoneError: none has.
        """
        told = [int(line["t_us"]) for line in self.child.said(event="member.started")]
        if not told:
            raise MegaphoneError(f"job {self.options.app!r} never ran")
        return min(told)

    def await_running(self) -> None:
        """Wait until every process takes part."""
        members = self.options.workers + 1
        self.child.await_(
            lambda: len(self.child.said(event="member.started")) == members, "running", START_S
        )
        for process in psutil.Process(self.child.pid).children():
            words = process.cmdline()
            if "--slot" in words:
                role = words[words.index("service") + 1]
                self._processes[f"{role}-{words[words.index('--slot') + 1]}"] = process

    def look_at_memory(self) -> None:
        """Note how much memory its processes have now."""
        for slot, process in self._processes.items():
            try:
                used = int(process.memory_info().rss)
            except psutil.NoSuchProcess:
                continue
            self.memory[slot] = max(used, self.memory.get(slot, 0))

    def ask(self, *requests: Mapping[str, object]) -> None:
        """Publish requests.

        Raises:
            BrokerError: they were not stored.
        """
        writer = RecordWriter(self._place.bootstrap_servers, "megaphone-bench")
        for request in requests:
            value = msgspec.json.encode(request)
            writer.write(self._topics.control, str(request["id"]), value)
        writer.flush(_ANSWER_S)

    def read_of_input(self) -> int:
        """Records that its gateway says it has read."""
        member = self._members.get(str(Slot(Role.GATEWAY, 0)))
        return 0 if member is None else member.details.rows_read

    @property
    def _members(self) -> dict[str, MemberRecord]:
        found = {}
        for value in self._values(self._topics.members):
            member = decode_member(value)
            found[member.slot] = member
        return found

    def statuses(self) -> dict[str, StatusRecord]:
        """The newest status of each request."""
        said = (decode_status(value) for value in self._values(self._topics.status))
        return {status.id: status for status in said}

    def completed(self, identities: Sequence[str]) -> list[StatusRecord] | None:
        """What became of plans; None: one is under way, or nobody has heard of it.

        Raises:
            MegaphoneError: one was rejected or aborted.
        """
        said = self.statuses()
        found = [said[name] for name in identities if name in said]
        for status in found:
            if status.state in (RequestState.REJECTED, RequestState.ABORTED):
                raise MegaphoneError(f"plan {status.id!r} was {status.state}: {status.reason}")
        done = sum(status.state is RequestState.COMPLETED for status in found)
        return found if done == len(identities) else None

    def _values(self, topic: str) -> list[bytes]:
        tail = TopicTail(self._place.bootstrap_servers, topic, START_AT_BEGINNING)
        try:
            return [each.value for each in tail.read_to_end(_ANSWER_S) if each.value is not None]
        finally:
            tail.close()


@contextmanager
def started(place: Place, options: JobOptions, folder: Path) -> Iterator[Job]:
    """A job for the length of a `with` block; whoever wants it to end well, says so.

    Args:
        place: the broker.
        options: what is run.
        folder: takes its log and its state, which a later job of the same app goes on from.
    """
    logs = folder / f"log-{len(list(folder.glob('log-*')))}"
    logs.mkdir(parents=True)
    with Child("job", options.arguments(place, folder / "state"), logs) as child:
        yield Job(child, place, options)


def quarter_of(bins: int, workers: int) -> Sequence[int]:
    """A quarter of all bins, spread over those that worker 0 begins with."""
    mine = range(bins // workers)
    step = max(1, len(mine) // max(1, bins // 4))
    return mine[::step][: max(1, bins // 4)]


def moves(identity: str, strategy: str, options: JobOptions) -> list[dict[str, object]]:
    """The requests that move a quarter of the bins to the last worker and, behind that, back."""
    moving = quarter_of(options.bins, options.workers)
    extra = {"batch": max(1, len(moving) // _WAVES_MIN)} if strategy == "batched" else {}
    return [
        {
            "id": f"{identity}-{way}",
            "kind": "move",
            "moves": [[number, worker] for number in moving],
            "strategy": strategy,
            "queue": True,
            **extra,
        }
        for way, worker in (("there", options.workers - 1), ("back", 0))
    ]
