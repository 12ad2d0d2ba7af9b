"""A whole job in a test's hand: its inputs, its clock, its moves, its crashes.

Flow: test -> [Cluster] -> StandaloneJob over a KitBroker -> results -> test. The controller, the
members, the links' frames, the checkpoints are those of the product; only sockets, Kafka and the
clock are not there.

Invariants
  CL1  A test that does the same gets the same: nothing depends on time, threads or hashes.
  CL2  The clock moves only when the test moves it, or a call that says so: it waits for a move or a
       stop, or more was sent at one time than there are ticks in it.
  CL3  With a schedule, the seed decides who goes on, which frames arrive, what is stored, who has
       read the log and where batches are cut; at rest nothing is left to be decided.
  CL4  A crash loses what is in memory and nothing else: the inputs, the results others have seen,
       the log and the last checkpoint are there as they were.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import numpy as np

from service.dataflow.connectors import LocalSource
from service.dataflow.flow import Flow
from service.dataflow.progress.antichain import Antichain
from service.dataflow.vertices import KafkaSink
from service.errors import UsageError
from service.hashing import bin_bits_of, bins_of
from service.ingest.shape import Columns, Rows
from service.migration.records import RequestState, StatusRecord
from service.testing.broker import KitBroker, OutputRecord
from service.testing.lives import FIRST_US, JobLives
from service.testing.schedule import Schedule

_US = 1_000
_FINAL = (RequestState.COMPLETED, RequestState.REJECTED, RequestState.ABORTED)


class Cluster:
    """A job under test; use it in a `with` statement.

    Sources and sinks may be Kafka's: no broker is asked, rows are given by `send` and read by
    `output`. The job begins with the first rows; whatever follows goes through the same code as in
    processes.

    Args:
        flow: what to test, unchanged.
        workers: how many, at first.
        gateways: how many, at first; each topic has as many partitions.
        bins: pieces of keyed state, a power of two; few, so that a test can name them.
        schemas: columns of sources by name, `{"bids": {"auction": "int64"}}`; without it those of
            the first rows sent.
        registry: folder of `<id>.avsc` files; then columns are those of the schemas, and results
            must fit those of their sinks.
        schedule: a seed that decides in which order everything happens that may happen in any,
            where batches are cut, and how far the job comes between two calls; None: everything in
            turn, to the end. Try several seeds to see that a result does not depend on it.

    Raises:
        UsageError: a number is wrong, or a schema is given for no source.
        GraphError: the flow cannot run.

    Example:
        >>> import megaphone as mp
        >>> from megaphone.testing import Cluster
        >>> flow = mp.Flow("bids")
        >>> bids = flow.source("bids", mp.KafkaSource(["bids"], record="bid", fields=["auction"]))
        >>> counts = bids.key_by("auction").aggregate("counts", bids=mp.count())
        >>> _ = counts.sink("out", mp.KafkaSink("counts", key="auction", schema=1))
        >>> with Cluster(flow, workers=2, bins=16) as cluster:
        ...     cluster.send("bids", [{"auction": 7}, {"auction": 7}, {"auction": 9}])
        ...     moved = cluster.move([cluster.bin_of(7)], to=1)
        ...     cluster.send("bids", [{"auction": 7}])
        ...     cluster.latest("out")
        {7: {'auction': 7, 'bids': 3}, 9: {'auction': 9, 'bids': 1}}
    """

    def __init__(
        self,
        flow: Flow,
        *,
        workers: int = 2,
        gateways: int = 1,
        bins: int = 16,
        schemas: Mapping[str, Columns] | None = None,
        registry: str | Path | None = None,
        schedule: int | None = None,
    ) -> None:
        """Check the flow; see the class."""
        flow.check()
        self._bin_bits = bin_bits_of(bins)
        #: As many partitions as gateways at first: each has something to read.
        self._partitions = max(gateways, 1)
        folder = None if registry is None else Path(registry)
        order = Schedule(schedule)
        self._broker = KitBroker(
            flow, self._bin_bits, self._partitions, schemas or {}, folder, order
        )
        self._lives = JobLives(
            flow, self._broker, order, workers=workers, gateways=gateways, bins=bins
        )
        self._requests = 0
        #: Calls of `send` per source: partitions take turns.
        self._sent: dict[str, int] = {}

    def __enter__(self) -> Self:
        """Nothing happens before the first call."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the checkpoints."""
        self.close()

    def close(self) -> None:
        """End without a stop and remove the checkpoints; a `with` statement calls it."""
        self._lives.fall("it was closed")
        self._broker.close()

    # Inputs and the clock -----------------------------------------------------------------------

    def send(self, source: str, rows: Sequence[Rows], *, partition: int | None = None) -> None:
        """Give rows to a source and let the job work on them until nothing is left to do.

        With a schedule it works on them for a while only, so that the next call finds it in the
        middle of something. While the job is down, rows wait in their topic.

        Args:
            source: name of the source vertex.
            rows: dictionaries, record batches or tables; of a KafkaSource only its fields count.
            partition: where to put them; None: partitions take turns, a call each.

        Raises:
            UsageError: no such source or partition, or the source has rows of its own.
            GraphError: a row does not fit.
            UserFunctionError: a function of the flow raised; the job is then down.
        """
        vertex = self._broker.sources.get(source)
        if vertex is not None and isinstance(vertex.connector, LocalSource):
            raise UsageError(
                f"source {source!r} is a {vertex.connector.label}, which has its rows already"
            )
        turn = self._sent.get(source, 0)
        self._broker.put(source, rows, turn % self._partitions if partition is None else partition)
        self._sent[source] = turn + 1
        if self.is_up and not self._broker.unknown:
            self._lives.work()

    def advance(self, ms: float) -> None:
        """Let the clock go on by `ms` milliseconds, and everything that is due with it.

        Raises:
            UsageError: the clock would go back.
            UserFunctionError: a function of the flow raised.
        """
        if ms < 0:
            raise UsageError(f"the clock cannot go back by {-ms:g} ms")
        self._lives.advance(round(ms * _US))

    @property
    def now_ms(self) -> float:
        """How far the clock has gone since the beginning."""
        return (self._lives.now_us - FIRST_US) / _US

    @property
    def epoch(self) -> int:
        """The time that rows read now would be stamped with, or little later ones."""
        return self._lives.now_us

    @property
    def places(self) -> Mapping[str, int]:
        """For a `Probe`, which may be asked about a cluster: `probe.passed(cluster, epoch)`."""
        return self._lives.running.members[0].places

    def frontier_at(self, location: int) -> Antichain:
        """For a `Probe`: times that may still leave there, once the job has come to rest."""
        self.settle()
        return self._lives.running.members[0].frontier_at(location)

    def settle(self) -> None:
        """Let the job work until nothing is left to do at this time.

        Raises:
            UsageError: the job is down, or it does not come to rest.
            UserFunctionError: a function of the flow raised.
        """
        self._lives.settle()

    # Results ------------------------------------------------------------------------------------

    def output(self, sink: str) -> list[dict[str, object]]:
        """All rows of a sink so far, in the order others see them.

        A job that runs comes to rest first. Rows of one key are in the order of their results;
        after a crash some come again.

        Raises:
            UsageError: there is no such sink.
        """
        return [record.row for record in self.records(sink)]

    def records(self, sink: str) -> list[OutputRecord]:
        """As `output`, with who wrote each row and its bin: what the headers say in Kafka.

        Raises:
            UsageError: there is no such sink.
        """
        found = self._broker.records.get(sink)
        if found is None:
            raise UsageError(f"no sink {sink!r}; the flow has {sorted(self._broker.records)}")
        if self.is_up:
            self.settle()
        return list(found)

    def latest(self, sink: str, key: str | None = None) -> dict[object, dict[str, object]]:
        """The newest row of each key, in the order first seen: what a compacted topic would keep.

        Args:
            sink: name of the sink vertex.
            key: column to go by; that of the KafkaSink if it is one.

        Raises:
            UsageError: no such sink or column, or no key.
        """
        rows = self.output(sink)
        connector = self._broker.sinks[sink].connector
        column = connector.key if key is None and isinstance(connector, KafkaSink) else key
        if column is None:
            raise UsageError(f"sink {sink!r} has no key; say which column it is, key=...")
        if rows and column not in rows[0]:
            raise UsageError(f"sink {sink!r} has no column {column!r}; it has {list(rows[0])}")
        return {row[column]: row for row in rows}

    # State on the move --------------------------------------------------------------------------

    def bin_of(self, key: int) -> int:
        """The bin that holds a key's state."""
        return int(bins_of(np.array([key], np.int64), self._bin_bits)[0])

    @property
    def owners(self) -> list[int]:
        """Worker of each bin, after every move asked for.

        Raises:
            UsageError: the job is down.
        """
        table = self._lives.running.machine.table
        assert table is not None, "a job that runs has a routing table"
        owners: list[int] = table.latest.tolist()
        return owners

    def move(
        self,
        bins: Iterable[int],
        to: int,
        *,
        strategy: str | None = None,
        batch: int | None = None,
        precopy: bool = False,
        wait: bool = True,
    ) -> StatusRecord:
        """Ask for a move of `bins` to worker `to`, as a record on the control topic does.

        Args:
            bins: which.
            to: worker number.
            strategy: "all-at-once", "fluid" or "batched"; None: what the product takes.
            batch: bins a wave.
            precopy: copy bins to `to` before they move, while they go on changing.
            wait: let the clock go on until the move has completed. Otherwise it is only asked for,
                and goes on while the test sends rows and advances the clock.

        Returns:
            How it stands: `state`, `waves`, `bins`, `bytes`.

        Raises:
            UsageError: it was rejected; the text is the product's reason. Or the job is down.
        """
        moves = [[number, to] for number in bins]
        body = {"kind": "move", "moves": moves, "precopy": precopy}
        return self._request(body, strategy, batch, wait=wait)

    def rescale(
        self,
        workers: int,
        *,
        strategy: str | None = None,
        batch: int | None = None,
        precopy: bool = False,
        wait: bool = True,
    ) -> StatusRecord:
        """Ask to spread all bins evenly over workers 0 to `workers` - 1; see `move`.

        Raises:
            UsageError: it was rejected, or the job is down.
        """
        body = {"kind": "rescale", "workers": workers, "precopy": precopy}
        return self._request(body, strategy, batch, wait=wait)

    def checkpoint(self, *, wait: bool = True) -> StatusRecord:
        """Ask for a checkpoint while the job goes on, as `megaphone checkpoint` does.

        Args:
            wait: let the clock go on until it is written, so that a `crash` goes back to it.
                Otherwise it is only asked for.

        Returns:
            How it stands: `state`, `at` (its cut), `bytes`, `duration_ms`.

        Raises:
            UsageError: it was rejected; the text is the product's reason. Or the job is down.
        """
        return self._request({"kind": "checkpoint"}, None, None, wait=wait)

    # Ends ---------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Stop plainly: what was read is finished, state and positions are kept for `restart`.

        Raises:
            UsageError: the job is down already.
        """
        self.settle()
        job = self._lives.running
        job.ask_stop(self._lives.now_us)
        self.settle()
        self._lives.await_(lambda: job.ended, "a stop")
        self._lives.fall("it was stopped")

    def crash(self) -> None:
        """Lose every process: memory is gone, and with it all since the last checkpoint.

        Raises:
            UsageError: the job is down already.
        """
        _ = self._lives.running
        self._lives.fall("it crashed")

    def restart(self, *, workers: int | None = None, gateways: int | None = None) -> None:
        """Start the job again: it goes on from its last checkpoint, or from the beginning.

        A checkpoint is written by a plain stop and by `checkpoint`. Rows since then are read again,
        so results of a job that crashed come again: at least once, as docs/CORRECTNESS.md says.

        Args:
            workers: another number of workers; bins stay where they were until a `rescale`.
            gateways: another number of gateways.

        Raises:
            UsageError: it runs, or bins are on workers that it would not have.
        """
        self._lives.restart(workers, gateways)

    @property
    def is_up(self) -> bool:
        """Whether the job runs, or will with the first rows."""
        return self._lives.is_up

    @property
    def sinks(self) -> list[str]:
        """Names of the sinks."""
        return list(self._broker.sinks)

    def finish(self) -> None:
        """Let the clock go on until no move is under way, then stop plainly.

        Raises:
            UsageError: the job is down already.
        """
        self.settle()
        self._lives.await_(lambda: self._lives.running.machine.plan is None, "a move")
        self.stop()

    def _request(
        self, body: dict[str, object], strategy: str | None, batch: int | None, *, wait: bool
    ) -> StatusRecord:
        lives, identity = self._lives, f"request-{self._requests}"
        body |= {"id": identity}
        if batch is not None:
            body["batch"] = batch
        if strategy is not None:
            body["strategy"] = strategy
        lives.running.request(msgspec.json.encode(body), self._requests, lives.now_us)
        self._requests += 1
        if wait:
            lives.await_(
                lambda: self._broker.statuses[identity].state in _FINAL, f"a {body['kind']}"
            )
        status = self._broker.statuses[identity]
        if status.state is RequestState.REJECTED:
            raise UsageError(f"the {body['kind']} was rejected: {status.reason}")
        return status
