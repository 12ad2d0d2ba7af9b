"""The job under test, handled as a user would: started, asked by records, watched, stopped.

Flow: Options -> `python -m service run nexmark:auction_bids` -> requests on <app>.control -> plain
stop. Nothing here reaches into the job.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from demo.children import Child, Children
from demo.observe import JobView, JobWatch
from demo.options import Names, Options, bins_per_wave
from service.control_topics import Admin, AppTopics, RecordWriter
from service.errors import MegaphoneError
from service.ids import Membership

PARTITIONS = 4
#: Each worker writes to each: twice as many requests to the broker for each one more.
_RESULT_PARTITIONS = 2
_ANSWER_S = 10.0


class JobFailed(MegaphoneError):
    """The job did not do what the demo asked of it."""


@dataclass(frozen=True, slots=True)
class MoveRequest:
    """A move that the demo asks for: its id and the worker each bin is to go to."""

    id: str
    targets: Mapping[int, int]

    @property
    def batch(self) -> int:
        """Bins per wave."""
        return bins_per_wave(len(self.targets))

    @property
    def waves(self) -> int:
        """How many waves that makes."""
        return -(-len(self.targets) // self.batch)

    def body(self) -> bytes:
        """The control record's value; no `at`: as soon as can be."""
        return json.dumps(
            {
                "id": self.id,
                "kind": "move",
                "moves": [[bin_, worker] for bin_, worker in self.targets.items()],
                "strategy": "batched",
                "batch": self.batch,
                "at": None,
            }
        ).encode()


def create_topics(bootstrap_servers: str, names: Names) -> None:
    """Create the run's topics, the job's own included, so that they can be watched from the start.

    Raises:
        BrokerError: the broker refused or did not answer.
    """
    admin = Admin(bootstrap_servers, _ANSWER_S)
    admin.create(names.events, PARTITIONS)
    admin.create(names.results, _RESULT_PARTITIONS)
    admin.ensure_app(AppTopics(names.app))


class Job:
    """A running job."""

    def __init__(
        self,
        options: Options,
        names: Names,
        bootstrap_servers: str,
        children: Children,
        state_dir: Path,
    ) -> None:
        """Start the job's processes and watch its topics."""
        self._topics = AppTopics(names.app)
        self._writer = RecordWriter(bootstrap_servers, "demo")
        self._watch = JobWatch(
            bootstrap_servers, names.app, Membership(options.workers, options.gateways)
        )
        self.process: Child = children.start(
            "job",
            [
                *("-m", "service", "run", "nexmark:auction_bids"),
                *("--bootstrap-servers", bootstrap_servers),
                *("--app", names.app),
                *("--workers", str(options.workers)),
                *("--gateways", str(options.gateways)),
                *("--bins", str(options.bins)),
                *("--topic-prefix", names.prefix),
                *("--output-topic", names.results),
                *("--state-dir", str(state_dir)),
            ],
        )

    @property
    def view(self) -> JobView:
        """What the job says about itself."""
        return self._watch.view

    def check(self) -> None:
        """Look whether the job is well.

        Raises:
            ChildFailed: a process of it was lost.
            BrokerError: its topics cannot be read.
        """
        self.process.check()
        self._watch.check()

    def ask(self, request: MoveRequest) -> None:
        """Publish a request.

        Raises:
            BrokerError: it could not be stored.
        """
        self._writer.write(self._topics.control, request.id, request.body())
        self._writer.flush(_ANSWER_S)

    def completed(self, request: MoveRequest) -> bool:
        """Whether the job says the request is completed.

        Raises:
            JobFailed: it says the request was rejected or aborted.
        """
        status = self.view.requests.get(request.id)
        if status is None or not status.final:
            return False
        if status.state != "completed":
            raise JobFailed(f"request {request.id!r} was {status.state}: {status.reason}")
        return True

    def close(self) -> None:
        """Stop watching; the process is ended by whoever holds the children."""
        self._watch.close()
