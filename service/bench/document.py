"""What a benchmark says: one document, docs/contracts/bench.schema.json.

Flow: values of the runs -> [Figure] -> [BenchDocument] -> JSON or text on standard output; the exit
status follows from the figures. Pure.

Invariants
  BD1  A figure is the median of its runs; a ratio is taken inside each run, never between medians.
  BD2  A bound is judged on the median, inclusive, and of the unrounded value; a figure's documents
       say whether it is a lower or an upper one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median

import msgspec

#: Exit status of a benchmark that missed a figure.
FIGURE_MISSED = 3
#: Digits kept of a value; noise is far larger.
_DIGITS = 4

Field = str | int | float


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure over all runs; `bound` is None for one that is only recorded."""

    name: str
    #: Empty for a ratio.
    unit: str
    median: float
    min: float
    max: float
    runs: int
    bound: float | None = None
    met: bool | None = None

    @classmethod
    def of(
        cls,
        name: str,
        unit: str,
        values: Sequence[float],
        *,
        at_least: float | None = None,
        at_most: float | None = None,
    ) -> Figure:
        """The figure of one value per run, held to one bound if it is given (BD2)."""
        assert values, f"{name}: a figure has at least one run"
        assert at_least is None or at_most is None, f"{name}: a figure has one bound"
        middle = median(values)
        met = None
        if at_least is not None:
            met = middle >= at_least
        elif at_most is not None:
            met = middle <= at_most
        bound = at_least if at_least is not None else at_most
        ends = (_rounded(min(values)), _rounded(max(values)))
        return cls(name, unit, _rounded(middle), *ends, len(values), bound, met)


@dataclass(frozen=True, slots=True)
class BenchDocument:
    """Everything that one benchmark prints."""

    bench: str
    #: Commit measured, with `-dirty` if files differ from it.
    commit: str
    #: Where it was measured; holds `stall_ms`.
    machine: Mapping[str, Field]
    #: Everything needed to run it again.
    parameters: Mapping[str, Field]
    figures: Sequence[Figure]

    @property
    def exit_status(self) -> int:
        """0, or 3 if a figure missed its bound."""
        return FIGURE_MISSED if any(figure.met is False for figure in self.figures) else 0

    def json(self) -> str:
        """The document on one line."""
        return msgspec.json.encode(asdict(self)).decode()

    def text(self) -> str:
        """The document for people."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"bench {self.bench} at {self.commit}"
        for title, fields in (("machine", self.machine), ("parameters", self.parameters)):
            yield f"{title}: " + ", ".join(f"{name} {value}" for name, value in fields.items())
        width = max(len(figure.name) for figure in self.figures)
        for each in self.figures:
            numbers = f"{_shown(each.median)}  ({_shown(each.min)} to {_shown(each.max)})"
            verdict = "" if each.met is None else "  met" if each.met else "  MISSED"
            bound = "" if each.bound is None else f"  bound {_shown(each.bound)}"
            yield f"{each.name:<{width}}  {numbers} {each.unit}".rstrip() + bound + verdict


def _rounded(value: float) -> float:
    """`value` with as many significant digits as are worth keeping."""
    return float(f"{value:.{_DIGITS}g}")


def _shown(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"
