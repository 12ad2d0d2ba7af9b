"""One run of the demo, from an empty Kafka to a verdict.

Flow: Options -> job -> load -> warm-up -> stream with two migrations -> drain -> plain stop ->
readback -> proof -> Outcome, from which the summary is written.

Invariants
  U1  The stream never waits for the job: migrations are asked for while it flows.
  U2  What the job wrote last counts: the meter is stopped after the job, and reads to the end.
  U3  Nothing from before the clock is measured, and all of it is proved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from demo.children import Child, Children, OnDocument
from demo.job import Job, JobFailed, MoveRequest, create_topics
from demo.live import Stage
from demo.load import WINDOW_MS, Generated, Measured, Stalls
from demo.lookout import Lookout
from demo.observe import RequestStatus
from demo.options import Names, Options, bins_to_move
from demo.ownership import Migration
from demo.proof import Evidence, Verdict, prove
from demo.readback import Kind, Task, read_back, spans_of

_JOB_START_S = 120.0
_METER_START_S = 60.0
_STOP_S = 150.0
#: Slower than this a load or a drain counts as stuck, not as slow.
_EVENTS_PER_SECOND_MIN = 10_000
_PATIENCE_S = 60.0
_PLAN_S = 120.0
_READ_BACK_S = 900.0
#: Reading back is this much of the proof's time, for the progress bar.
_READ_BACK_SHARE = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Everything a run found out.

    Attributes:
        generated: what the generator said.
        measured: what the meter said.
        stalls: what the probe said.
        migrations: final status of each request, in order.
        verdict: of the proof.
        processed: events the job says it was done with.
        state_rows: rows of state at the end.
        lag: (epoch µs, records) through the stream.
    """

    generated: Generated
    measured: Measured
    stalls: Stalls
    migrations: Sequence[RequestStatus]
    verdict: Verdict
    processed: int
    state_rows: int
    lag: Sequence[tuple[int, int]]


class Run:
    """The steps of a run."""

    def __init__(
        self,
        options: Options,
        names: Names,
        bootstrap_servers: str,
        children: Children,
        lookout: Lookout,
        folder: Path,
    ) -> None:
        """Start nothing yet; `folder` is for state and evidence, and goes when the run is over."""
        self._options = options
        self._names = names
        self._servers = bootstrap_servers
        self._children = children
        self._lookout = lookout
        self._progress = lookout.progress
        self._stalls = Stalls()
        self._folder = folder

    def run(self) -> Outcome:
        """Do it all.

        Raises:
            MegaphoneError: something failed; the message says what.
        """
        self._lookout.enter(Stage.JOB, "controller, gateways and workers start")
        create_topics(self._servers, self._names)
        job = Job(self._options, self._names, self._servers, self._children, self._folder / "state")
        try:
            self._lookout.watch(job)
            owners = self._start(job)
            self._load(job)
            self._warm_up(job)
            meters = self._start_measuring()
            self._stream(job, owners)
            self._drain(job)
            processed, state_rows = job.view.processed, job.view.state_rows
            self._stop(job, meters)
            statuses = job.view.requests
        finally:
            job.close()
        migrations = [statuses[request.id] for request in self._progress.requests]
        return Outcome(
            generated=self._progress.generated,
            measured=self._progress.measured,
            stalls=self._stalls,
            migrations=migrations,
            verdict=self._prove(owners, migrations),
            processed=processed,
            state_rows=state_rows,
            lag=self._progress.lag,
        )

    # Before the clock starts --------------------------------------------------------------------

    def _start(self, job: Job) -> list[int]:
        """Wait for the job; returns the worker of each bin."""
        bins = self._options.bins
        self._lookout.until(
            lambda: job.view.running and job.view.owners(bins) is not None,
            "the job did not say that all its processes run",
            _JOB_START_S,
        )
        owners = job.view.owners(bins)
        assert owners is not None, "said, and never unsaid"
        return owners

    def _load(self, job: Job) -> None:
        """Load the state through Kafka and wait until the job has applied it."""
        keys = self._options.state_keys
        self._lookout.enter(Stage.STATE, f"{keys:,} auctions are opened through Kafka")
        generator = self._loadgen("state loader", "--load-only", self._progress.generated.take)
        self._lookout.until(
            lambda: self._lookout.ended(generator) and self._caught_up(job),
            f"the job did not apply the {keys:,} auctions",
            _PATIENCE_S + keys / _EVENTS_PER_SECOND_MIN,
            done=lambda: job.view.processed / keys,
        )

    def _warm_up(self, job: Job) -> None:
        """Let the stream flow unmeasured: a young Kafka spends a core on compiling itself (U3)."""
        seconds = self._options.warm_up
        if not seconds:
            return
        self._lookout.enter(Stage.WARM_UP, "the broker's compiler comes to rest")
        taken = self._progress.generated.take_warm_up
        generator = self._loadgen("warm-up", "--live-only", taken, seconds, self._options.seed + 1)
        rate = self._options.rate
        self._lookout.until(
            lambda: self._lookout.ended(generator) and self._caught_up(job),
            "the job did not process the warm-up",
            _PATIENCE_S + seconds + seconds * rate / _EVENTS_PER_SECOND_MIN,
        )

    def _start_measuring(self) -> list[Child]:
        meter = self._children.start(
            "latency meter",
            [
                *("-m", "loadgen", "measure", "--bootstrap-servers", self._servers),
                *("--topic", self._names.results, "--from", "end"),
                *("--window-ms", str(WINDOW_MS), "--stop-on-stdin-close", "--client", "direct"),
            ],
            self._progress.measured.take,
        )
        probe = self._children.start("stall probe", ["-m", "demo.stall"], self._stalls.take)
        self._lookout.until(
            lambda: self._progress.measured.offsets is not None,
            "the latency meter did not become ready",
            _METER_START_S,
        )
        return [meter, probe]

    # While the stream flows ---------------------------------------------------------------------

    def _stream(self, job: Job, owners: Sequence[int]) -> None:
        """Send the stream; at one and two thirds of it ask for a move, out and back (U1)."""
        self._lookout.enter(Stage.STREAM)
        generator = self._loadgen("load generator", "--live-only", self._progress.generated.take)
        moving = bins_to_move(owners)
        requests = [
            MoveRequest("out", dict.fromkeys(moving, 1)),
            MoveRequest("back", {bin_: owners[bin_] for bin_ in moving}),
        ]
        self._lookout.until(
            lambda: self._streamed(job, requests, generator),
            "the stream did not end",
            self._options.seconds + _PATIENCE_S,
            done=self._lookout.elapsed,
        )
        # A slow move out can put the move back behind the end of the stream.
        self._lookout.until(
            lambda: self._moved(job, requests), "the migrations did not complete", 2 * _PLAN_S
        )

    def _streamed(self, job: Job, requests: Sequence[MoveRequest], generator: Child) -> bool:
        """Ask for the move that is due, if any; whether the stream has ended."""
        if self._lookout.elapsed() >= (len(self._progress.requests) + 1) / (len(requests) + 1):
            self._moved(job, requests)
        return self._lookout.ended(generator)

    def _moved(self, job: Job, requests: Sequence[MoveRequest]) -> bool:
        """Ask for the next move if none is under way; whether all are completed."""
        asked = self._progress.requests
        if asked and not job.completed(asked[-1]):
            return False
        if len(asked) == len(requests):
            return True
        job.ask(requests[len(asked)])
        asked.append(requests[len(asked)])
        return False

    def _drain(self, job: Job) -> None:
        """Wait until the job has done all that was published."""
        published = self._progress.generated.total
        self._lookout.enter(Stage.DRAIN, "the job works off what is left")
        self._lookout.until(
            lambda: self._caught_up(job),
            f"the job did not process all {published:,} events",
            _PATIENCE_S + published / _EVENTS_PER_SECOND_MIN,
            done=lambda: job.view.processed / published,
        )

    def _stop(self, job: Job, meters: Sequence[Child]) -> None:
        """Stop the job plainly, then the meters (U2)."""
        self._lookout.enter(Stage.DRAIN, "plain stop: state and read positions cut at one epoch")
        for child, seconds in ((job.process, _STOP_S), *((meter, _PATIENCE_S) for meter in meters)):
            child.ask_to_stop()
            self._end_of(child, seconds)
        if self._progress.measured.final is None or self._stalls.windows is None:
            raise JobFailed("the latency meter or the stall probe ended without its result")

    def _end_of(self, child: Child, seconds: float) -> None:
        self._lookout.until(
            lambda: self._lookout.ended(child), f"the {child.name} did not end", seconds
        )

    # After it -----------------------------------------------------------------------------------

    def _prove(self, owners: Sequence[int], migrations: Sequence[RequestStatus]) -> Verdict:
        self._lookout.enter(Stage.PROOF, "both topics are read back")
        folder = self._folder / "evidence"
        folder.mkdir()
        topics: dict[Kind, str] = {"bids": self._names.events, "outputs": self._names.results}
        tasks = [
            Task(self._servers, kind, span, folder / f"{kind}-{n}.parquet", self._options.bins)
            for kind, topic in topics.items()
            for n, span in enumerate(spans_of(self._servers, topic))
        ]
        records = sum(task.span.end - task.span.start for task in tasks)
        read = 0

        def progress(more: int) -> None:
            nonlocal read
            read += more
            self._lookout.tell(
                _READ_BACK_SHARE * read / records, f"{read:,} of {records:,} records read back"
            )

        tallies = read_back(tasks, progress, timeout_s=_READ_BACK_S)
        evidence = Evidence(
            folder=folder,
            bins=self._options.bins,
            owners=owners,
            migrations=[
                _migration(status, request)
                for status, request in zip(migrations, self._progress.requests)
            ],
            events=tallies["bids"].records,
            published=self._progress.generated.total,
            unreadable=sum(tally.unreadable for tally in tallies.values()),
        )
        return prove(
            evidence,
            lambda done, parts: self._lookout.tell(
                _READ_BACK_SHARE + (1 - _READ_BACK_SHARE) * done / parts,
                f"DuckDB computes every aggregate again: part {done} of {parts}",
            ),
        )

    # Parts --------------------------------------------------------------------------------------

    def _caught_up(self, job: Job) -> bool:
        view = job.view
        return view.read == view.processed == self._progress.generated.total

    def _loadgen(
        self,
        name: str,
        phase: str,
        take: OnDocument,
        seconds: float | None = None,
        seed: int | None = None,
    ) -> Child:
        options = self._options
        child = self._children.start(
            name,
            [
                *("-m", "loadgen", "run", phase, "--bootstrap-servers", self._servers),
                *("--topic", self._names.events),
                *("--seed", str(options.seed if seed is None else seed)),
                *("--rate", str(options.rate)),
                *("--seconds", str(options.seconds if seconds is None else seconds)),
                *("--state-keys", str(options.state_keys)),
                *("--client", "direct"),  # Two cores are shared with the job.
            ],
            take,
        )
        child.may_end()
        return child


def _migration(status: RequestStatus, request: MoveRequest) -> Migration:
    assert status.at is not None, "a completed move has a first cut"
    return Migration(request.id, status.at, status.at + status.duration_ms * 1000, request.targets)
