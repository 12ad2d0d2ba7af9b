"""What a process tells Prometheus: one collector that reads the process's own counters.

Flow: parts count in plain integers -> [ProcessCollector] reads them when scraped -> /metrics.
Nothing is counted twice and nothing is updated on the hot path.

Invariants
  T1  What is told stands in the catalogue, with the labels that it says; anything else is an error.
  T2  A scrape reads numbers and never blocks the loop.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeAlias

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from service.catalogue import CATALOGUE, Kind, MetricSpec

#: Upper bounds of what takes time, seconds.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


@dataclass(frozen=True, slots=True)
class Distribution:
    """How many values lie up to each bound, but not the bound before; the last: beyond all."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float

    def cumulative(self) -> list[tuple[str, float]]:
        """Prometheus' buckets: bound, and how many values lie up to it."""
        names = [*map(repr, self.bounds), "+Inf"]
        return list(zip(names, map(float, accumulate(self.counts)), strict=True))


class Histogram:
    """Counts values by size.

    >>> waits = Histogram((1.0, 2.0))
    >>> waits.count(1.0)
    >>> waits.count(5.0, times=2)
    >>> waits.read()
    Distribution(bounds=(1.0, 2.0), counts=(1, 0, 2), total=11.0)
    """

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        """Begin without values; `bounds` ascend."""
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def count(self, value: float, times: int = 1) -> None:
        """Count a value, several times over. Cost: 0.3 us."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._total += value * times

    def read(self) -> Distribution:
        """What was counted, as it is now."""
        return Distribution(self._bounds, tuple(self._counts), self._total)


#: By the values of the metric's own labels; of a single label its value alone will do.
ByLabels: TypeAlias = Mapping[str, float] | Mapping[tuple[str, ...], float]
#: A scrape: metric name -> value, values by label, or a distribution.
Value: TypeAlias = float | ByLabels | Distribution
Reading: TypeAlias = Mapping[str, Value]


class ProcessCollector(Collector):
    """Turns one process's reading into metric families."""

    def __init__(self, app: str, slot: str, read: Callable[[], Reading]) -> None:
        """Label everything with `app` and `slot`; `read` is called at each scrape."""
        self._labels = (app, slot)
        self._read = read

    def plays(self, slot: str) -> None:
        """Label everything with another slot from now on."""
        self._labels = (self._labels[0], slot)

    def collect(self) -> Iterable[Metric]:
        """Families for what the process knows; what it does not have is absent, not zero."""
        reading = self._read()
        unknown = reading.keys() - _NAMES
        assert not unknown, f"T1: {', '.join(sorted(unknown))} is not in service/catalogue.py"
        for spec in CATALOGUE:
            value = reading.get(spec.name)
            if value is not None:
                yield self._family(spec, value)

    def _family(self, spec: MetricSpec, value: Value) -> Metric:
        names = ["app", "slot", *spec.labels]
        if isinstance(value, Distribution):
            assert spec.kind is Kind.HISTOGRAM, f"T1: {spec.name} is no histogram"
            histogram = HistogramMetricFamily(spec.name, spec.help, labels=names)
            histogram.add_metric(self._labels, value.cumulative(), value.total)
            return histogram
        family: CounterMetricFamily | GaugeMetricFamily
        if spec.kind is Kind.COUNTER:
            family = CounterMetricFamily(spec.name, spec.help, labels=names)
        else:
            family = GaugeMetricFamily(spec.name, spec.help, labels=names)
        values = value if isinstance(value, Mapping) else {(): value}
        for own, number in values.items():
            more = [own] if isinstance(own, str) else [*own]
            assert len(more) == len(spec.labels), f"T1: {spec.name} has labels {spec.labels}"
            family.add_metric([*self._labels, *more], number)
        return family


_NAMES = frozenset(spec.name for spec in CATALOGUE)


def registry_of(app: str, slot: str, read: Callable[[], Reading]) -> CollectorRegistry:
    """A registry with one process's collector and nothing else."""
    return registry_with(ProcessCollector(app, slot, read))


def registry_with(collector: ProcessCollector) -> CollectorRegistry:
    """A registry with this collector and nothing else."""
    registry = CollectorRegistry()
    registry.register(collector)
    return registry
