"""What processes tell one another about progress while they find connected components.

Flow: edges -> exchange == routed ==> [Labels] -> feedback -> exchange == routed ==> [Labels], in
four real processes; once with batches as the protocol accumulates them, once flushed after every
step, in the same encoding and by the same engine.

Each node begins with its own number as its label; a label that falls is sent to all neighbours, one
round of the loop later, until no label falls. Edges come in many small batches, so that rounds of
many batches overlap, as they do where a loop runs on a stream.

Invariants
  CC1  The labels found are the components of the graph, by a union of sets in this process; a run
       whose labels differ is no measurement.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.bench.document import Figure
from service.bench.pair import drive, together
from service.clock import SystemClock
from service.dataflow.graph import Dataflow
from service.dataflow.loops import FeedbackOperator
from service.dataflow.operator import OperatorContext, Pact
from service.dataflow.operators import ConcatOperator
from service.dataflow.progress.summary import feedback, identity, ingress
from service.dataflow.spreading import ExchangeOperator
from service.dataflow.transport.zeromq import ZmqTransport
from service.dataflow.worker import Speaking, Worker
from service.errors import MegaphoneError

PROCESSES = 4
#: How many times fewer bytes the accumulated batches must take.
BOUND = 4.0
#: Batches of an epoch where edges come as a stream: ten epochs of the default graph.
_STREAM_EPOCH_BATCHES = 6


@dataclass(frozen=True, slots=True)
class ComponentsOptions:
    """A random graph, and when progress is told."""

    nodes: int = 4_000
    edges: int = 6_000
    batch_edges: int = 50
    #: Batches of one process that share an epoch; None: all do.
    epoch_batches: int | None = None
    seed: int = 7
    speaking: Speaking = Speaking.ACCUMULATED


class Told(NamedTuple):
    """One process's share: labels of its nodes, and what it said about progress."""

    nodes: list[int]
    labels: list[int]
    batches: int
    bytes: int


def random_edges(options: ComponentsOptions) -> NDArray[np.int64]:
    """The edges of the graph, (number, 2)."""
    random = np.random.default_rng(options.seed)
    return random.integers(0, options.nodes, (options.edges, 2))


class _Edges:
    """Sends this process's share of the edges, both ways round, one small batch a step."""

    def __init__(self, edges: NDArray[np.int64], options: ComponentsOptions) -> None:
        both, batch = np.concatenate([edges, edges[:, ::-1]]), options.batch_edges
        self._batches = [both[at : at + batch] for at in range(0, len(both), batch)]
        self._epoch_batches = options.epoch_batches

    def open(self, context: OperatorContext) -> None:
        """Take the port and the right to send."""
        self._context = context
        (self._output,) = context.outputs
        self._right = context.initial[0]

    def step(self) -> None:
        """Send one batch."""
        if self._batches and self._output.ready():
            self._output.send(self._right, _rows(self._batches.pop()))
            if not self._batches:
                self._right.drop()
            elif self._epoch_batches and len(self._batches) % self._epoch_batches == 0:
                self._right.downgrade((self._right.time[0] + 1,))
        if self._batches:
            self._context.resume()


class Labels:
    """Least label heard of each node of this process, and the edges that lead from it."""

    def __init__(self, nodes: int) -> None:
        """Know nothing of `nodes` nodes, of which a share will be seen here."""
        self.labels = np.arange(nodes)
        #: Whether the node belongs to this process: an edge or a label of it came here.
        self.seen = np.zeros(nodes, dtype=bool)
        #: Edges by the node they leave: those of node n are at starts[n] to starts[n + 1].
        self._starts = np.zeros(nodes + 1, dtype=np.int64)
        self._ends = np.empty(0, dtype=np.int64)
        self._fresh: list[NDArray[np.int64]] = []

    def open(self, context: OperatorContext) -> None:
        """Take the ports: edges and labels in, labels for neighbours out."""
        self._edges, self._heard = context.inputs
        (self._output,) = context.outputs

    def step(self) -> None:
        """Send labels along new edges, and labels that fell along all."""
        while (message := self._edges.pull()) is not None:
            table = _table(message.payload)
            self.seen[table[:, 0]] = True
            self._fresh.append(table)
            news = np.stack([table[:, 1], self.labels[table[:, 0]]], axis=1)
            self._output.forward(0, message, _rows(news))
        while (message := self._heard.pull()) is not None:
            table = _table(message.payload)
            news = self._fallen(table[:, 0], table[:, 1])
            if len(news):
                self._output.forward(1, message, _rows(news))

    def _fallen(self, nodes: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """Take labels in; (neighbour, label) of each edge that leaves a node whose label fell."""
        self._index()
        before = self.labels[nodes]
        self.seen[nodes] = True
        np.minimum.at(self.labels, nodes, labels)
        fell = np.unique(nodes[self.labels[nodes] < before])
        counts = self._starts[fell + 1] - self._starts[fell]
        firsts = np.repeat(self._starts[fell] - np.cumsum(counts) + counts, counts)
        neighbours = self._ends[firsts + np.arange(len(firsts))]
        return np.stack([neighbours, np.repeat(self.labels[fell], counts)], axis=1)

    def _index(self) -> None:
        """Sort the edges that came since the last time in among the others."""
        if not self._fresh:
            return
        old = np.repeat(np.arange(len(self._starts) - 1), np.diff(self._starts))
        table = np.concatenate([np.stack([old, self._ends], axis=1), *self._fresh])
        table = table[np.argsort(table[:, 0], kind="stable")]
        self._starts = np.searchsorted(table[:, 0], np.arange(len(self._starts)))
        self._ends = np.ascontiguousarray(table[:, 1])
        self._fresh = []


def _rows(table: NDArray[np.int64]) -> pa.RecordBatch:
    """Two columns as rows that travel: to which node, what."""
    columns = [pa.array(np.ascontiguousarray(table[:, number])) for number in range(2)]
    return pa.RecordBatch.from_arrays(columns, ["node", "value"])


def _table(payload: object) -> NDArray[np.int64]:
    """The columns back as (number, 2)."""
    assert isinstance(payload, pa.RecordBatch), "a data channel carries record batches"
    return np.stack([column.to_numpy() for column in payload.columns], axis=1)


def _graph(edges: _Edges, labels: Labels) -> Dataflow:
    graph, inside = Dataflow(), identity(2)
    source = graph.add("edges", edges, inputs=0, outputs=1, connectivity={}, holds=frozenset({0}))
    enter = graph.add(
        "enter",
        ConcatOperator(),
        inputs=1,
        outputs=1,
        connectivity={(0, 0): ingress(1)},
        depth=([1], [2]),
    )
    again = graph.add(
        "again",
        FeedbackOperator(None),
        inputs=1,
        outputs=1,
        connectivity={(0, 0): feedback(2)},
        depth=2,
    )
    spreads = [
        graph.add(
            name,
            ExchangeOperator("node", PROCESSES),
            inputs=1,
            outputs=1,
            connectivity={(0, 0): inside},
            depth=2,
        )
        for name in ("edges to nodes", "labels to nodes")
    ]
    body = graph.add(
        "labels",
        labels,
        inputs=2,
        outputs=1,
        connectivity={(0, 0): inside, (1, 0): inside},
        depth=2,
    )
    graph.connect((source, 0), (enter, 0))
    graph.connect((enter, 0), (spreads[0], 0))
    graph.connect((again, 0), (spreads[1], 0))
    for port, spread in enumerate(spreads):
        graph.connect((spread, 0), (body, port), Pact.ROUTED)
    graph.connect((body, 0), (again, 0), bounded=False)
    return graph


def find_components(transport: ZmqTransport, peers: int, options: ComponentsOptions) -> Told:
    """One process's side."""
    mine = random_edges(options)[transport.index :: peers]
    edges, labels = _Edges(mine, options), Labels(options.nodes)
    graph = _graph(edges, labels)
    worker = Worker(graph, transport.index, peers, (1,), transport, speaking=options.speaking)
    drive(worker, transport, SystemClock())
    (nodes,) = labels.seen.nonzero()
    return Told(
        nodes.tolist(),
        labels.labels[nodes].tolist(),
        worker.progress_batches_sent,
        worker.progress_bytes_sent,
    )


def components_by_union(options: ComponentsOptions) -> list[int]:
    """Least node of the component of each node, one edge after the other (CC1)."""
    parent = list(range(options.nodes))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for one, other in random_edges(options).tolist():
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    return [root(node) for node in range(options.nodes)]


def bytes_told(options: ComponentsOptions) -> dict[Speaking, int]:
    """Bytes of progress that all processes sent, for each way of speaking.

    Raises:
        MegaphoneError: the components are wrong, which would be a bug (CC1).
    """
    rounds = [replace(options, speaking=speaking) for speaking in Speaking]
    expected = components_by_union(options)
    told = {}
    for given, sides in zip(rounds, together(find_components, PROCESSES, rounds), strict=True):
        found = list(range(options.nodes))
        for side in sides:
            for node, label in zip(side.nodes, side.labels, strict=True):
                found[node] = label
        if found != expected:
            wrong = sum(a != b for a, b in zip(found, expected, strict=True))
            raise MegaphoneError(f"{wrong} of {options.nodes} nodes got a wrong component")
        told[given.speaking] = sum(side.bytes for side in sides)
    return told


def components_figures(runs: int, options: ComponentsOptions) -> Iterator[Figure]:
    """Measure each way of speaking once a run; then the same edges spread over many epochs."""
    whole = [bytes_told(options) for _ in range(runs)]
    stream = replace(options, epoch_batches=_STREAM_EPOCH_BATCHES)
    streamed = [bytes_told(stream) for _ in range(runs)]
    for runs_told, title, bound in ((whole, "", BOUND), (streamed, ", edges as a stream", None)):
        for speaking, instead in (
            (Speaking.EVERY_STEP, "worker step"),
            (Speaking.EVERY_OPERATOR, "operator step"),
        ):
            ratios = [told[speaking] / told[Speaking.ACCUMULATED] for told in runs_told]
            name = f"progress{title}: bytes if told every {instead} over ours"
            held = bound if speaking is Speaking.EVERY_STEP else None
            yield Figure.of(name, "", ratios, at_least=held)
        ours = [told[Speaking.ACCUMULATED] for told in runs_told]
        yield Figure.of(f"progress{title}: bytes told by {PROCESSES} processes", "B", ours)
