"""What a dashboard is made of, as values that know nothing of Grafana.

Flow: [Board] -> dashboards.grafana -> JSON; tests read the queries of the JSON.

Invariants
  DB1  Every query asks for one `app`, and by no more than the three variables.
  DB2  A query that finds nothing shows nothing: no query pretends a zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

#: Restrictions of queries: to the job, the operator or the processes that are chosen above panels.
APP = 'app="$app"'
OPERATOR = 'operator=~"$operator"'
WORKER = 'slot=~"$worker"'
#: Panels are so wide at most.
WIDTH = 24


class Shape(StrEnum):
    """How a panel shows its queries."""

    LINES = "lines"
    NUMBER = "number"
    HEATMAP = "heatmap"
    TABLE = "table"


class Unit(StrEnum):
    """What the numbers of a panel are, as Grafana calls it."""

    NUMBER = "short"
    BYTES = "bytes"
    BYTES_PER_SECOND = "Bps"
    SECONDS = "s"
    CORES = "none"
    #: Milliseconds since 1970.
    TIME = "dateTimeAsIso"


@dataclass(frozen=True, slots=True)
class Query:
    """PromQL, and what its lines are called."""

    text: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: `help` says what to see in it."""

    title: str
    help: str
    queries: tuple[Query, ...]
    unit: Unit = Unit.NUMBER
    shape: Shape = Shape.LINES
    width: int = 12


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under a heading, which fill lines of `WIDTH` from the left."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard; `uid` never changes, as links name it."""

    uid: str
    title: str
    help: str
    rows: tuple[Row, ...]


def one(metric: str, *more: str) -> str:
    """A metric of the job (DB1).

    >>> one("state_rows", WORKER)
    'megaphone_state_rows{app="$app",slot=~"$worker"}'
    """
    return f"megaphone_{metric}{{{','.join((APP, *more))}}}"


def rate(metric: str, *more: str) -> str:
    """How much a counter grows in a second."""
    return f"rate({one(metric, *more)}[$__rate_interval])"


def total(text: str, *by: str) -> str:
    """Summed up by labels.

    >>> total("x", "slot")
    'sum by (slot) (x)'
    """
    return f"sum by ({', '.join(by)}) ({text})" if by else f"sum({text})"


def most(text: str, *by: str) -> str:
    """The greatest by labels."""
    return f"max by ({', '.join(by)}) ({text})" if by else f"max({text})"


def quantile(part: float, metric: str, window: str = "$__rate_interval") -> str:
    """A quantile of a histogram over all processes."""
    buckets = f"increase({one(f'{metric}_bucket')}[{window}])"
    return f"histogram_quantile({part:g}, {total(buckets, 'le')})"


def lines(
    title: str, help_: str, *queries: tuple[str, str], unit: Unit = Unit.NUMBER, width: int = 12
) -> Panel:
    """Lines over time, from pairs of PromQL and legend."""
    return Panel(title, help_, tuple(Query(*each) for each in queries), unit, width=width)


def number(title: str, help_: str, query: str, unit: Unit = Unit.NUMBER, width: int = 4) -> Panel:
    """The newest value, large."""
    return Panel(title, help_, (Query(query, title),), unit, Shape.NUMBER, width)


def heatmap(title: str, help_: str, metric: str) -> Panel:
    """A histogram over time."""
    buckets = f"increase({one(f'{metric}_bucket')}[$__rate_interval])"
    query = Query(total(buckets, "le"), "{{le}}")
    return Panel(title, help_, (query,), Unit.SECONDS, Shape.HEATMAP)
