"""The engine's own figures, without Kafka: loops, exchange, progress, idle operators, one row.

Flow: [run_dataflow] -> one part after the other (barrier, exchange, components, steps, per_record)
-> figures -> BenchDocument. The method of each stands in docs/benchmarks/dataflow.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from service.bench.barrier import BarrierOptions, barrier_figures
from service.bench.components import ComponentsOptions, components_figures
from service.bench.document import BenchDocument, Field, Figure
from service.bench.exchange import ExchangeOptions, exchange_figures
from service.bench.machine import commit, machine
from service.bench.per_record import RecordOptions, record_figures
from service.bench.stall import StallProbe
from service.bench.steps import StepOptions, idle_figures, row_figures


class Part(StrEnum):
    """What is measured, each on its own."""

    BARRIER = "barrier"
    EXCHANGE = "exchange"
    PROGRESS = "progress"
    IDLE = "idle"
    ROW = "row"
    STATEFUL_MAP = "stateful-map"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much each part does in a run."""

    barrier: BarrierOptions
    exchange: ExchangeOptions
    progress: ComponentsOptions
    steps: StepOptions
    records: RecordOptions

    @classmethod
    def scaled(cls, scale: float) -> Sizes:
        """All sizes times `scale`, none below what gives a figure at all."""

        def times(number: int) -> int:
            return max(1, round(number * scale))

        barrier, exchange, progress = BarrierOptions(), ExchangeOptions(), ComponentsOptions()
        steps, records = StepOptions(), RecordOptions()
        return cls(
            BarrierOptions(times(barrier.rounds), times(barrier.warm_up)),
            ExchangeOptions(times(exchange.records), exchange.batch_records),
            ComponentsOptions(times(progress.nodes), times(progress.edges)),
            StepOptions(times(steps.steps), times(steps.warm_up)),
            RecordOptions(times(records.records), times(records.keys), times(records.batch)),
        )


def run_dataflow(
    parts: Sequence[Part], runs: int, sizes: Sizes, bytewax: Path | None
) -> BenchDocument:
    """Measure `parts`, each `runs` times.

    Args:
        parts: what to measure, in this order.
        runs: runs of each part; a figure is their median.
        sizes: how much a run does.
        bytewax: the interpreter of Bytewax's environment, or None to measure without it.

    Raises:
        MegaphoneError: a part failed, or gave a wrong result.
    """
    measured: Mapping[Part, Callable[[], Iterator[Figure]]] = {
        Part.BARRIER: lambda: barrier_figures(runs, sizes.barrier),
        Part.EXCHANGE: lambda: exchange_figures(runs, sizes.exchange),
        Part.PROGRESS: lambda: components_figures(runs, sizes.progress),
        Part.IDLE: lambda: idle_figures(runs, sizes.steps),
        Part.ROW: lambda: row_figures(runs, sizes.steps),
        Part.STATEFUL_MAP: lambda: record_figures(runs, sizes.records, bytewax),
    }
    where = machine()
    with StallProbe() as probe:
        figures = [figure for part in parts for figure in measured[part]()]
    where["stall_ms"] = round(probe.stall_ms, 3)
    return BenchDocument("dataflow", commit(), where, _parameters(parts, runs, sizes), figures)


def _parameters(parts: Sequence[Part], runs: int, sizes: Sizes) -> dict[str, Field]:
    """Everything needed to run it again; of the parts that were measured."""
    steps = asdict(sizes.steps)
    of_part: Mapping[Part, Mapping[str, object]] = {
        Part.BARRIER: asdict(sizes.barrier),
        Part.EXCHANGE: asdict(sizes.exchange),
        Part.PROGRESS: asdict(sizes.progress),
        Part.IDLE: steps,
        Part.ROW: steps,
        Part.STATEFUL_MAP: asdict(sizes.records),
    }
    fields: dict[str, Field] = {"runs": runs}
    for part in parts:
        for name, value in of_part[part].items():
            if isinstance(value, int):
                fields[f"{part}_{name}".replace("-", "_")] = value
    return fields
