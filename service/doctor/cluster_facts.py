"""What Kafka answered, as values.

Flow: asking -> [ClusterFacts] -> judging. Pure; what was not answered is None or an error's text,
so that `judging` can be tested without a broker.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Reach:
    """One address: whether its name is known and something listens there."""

    address: str
    #: None: a connection was made; else why not.
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """One topic that exists."""

    partitions: int
    #: Copies of its least copied partition.
    replicas: int
    #: Operations that we may do, as Kafka names them; None: Kafka did not say.
    operations: frozenset[str] | None = None
    #: Its configuration; None: we may not read it.
    config: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """One record through a topic made for it; the first step that failed ends it."""

    topic: str
    #: Steps done: fenced, created, written, read, deleted.
    done: tuple[str, ...] = ()
    #: Why the next one failed.
    problem: str | None = None
    #: The transactional id that was not given, and why; None: it was.
    fencing: str | None = None
    #: How far the broker's clock is ahead of ours, µs; None: it did not come so far.
    ahead_us: int | None = None
    #: From handing the record over to Kafka's acknowledgement.
    took_us: int | None = None


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """Everything that was learned of a cluster."""

    bootstrap: tuple[Reach, ...]
    #: Advertised address of each broker; None: none answered.
    brokers: tuple[Reach, ...] | None = None
    #: What the client says of the silence.
    problem: str | None = None
    cluster_id: str = ""
    topics: Mapping[str, TopicFacts] = field(default_factory=dict)
    #: Topics that are perhaps there, but not for us to see.
    hidden: frozenset[str] = frozenset()
    #: Operations that we may do with the consumer group; None: Kafka did not say.
    group: frozenset[str] | None = None
    #: Topic that would be created -> None if Kafka would do it, else its refusal.
    creatable: Mapping[str, str | None] = field(default_factory=dict)
    #: Request -> the versions of it that the broker takes; empty: not learned.
    requests: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    trial: Trial | None = None

    def with_trial(self, trial: Trial) -> ClusterFacts:
        """The same, with what one record showed."""
        return replace(self, trial=trial)


def clock_ahead_us(sent_us: int, acknowledged_us: int, stamp_ms: int) -> int:
    """How far the clock that stamped a record is ahead of ours, at least; 0: it may be equal.

    Args:
        sent_us: our clock before the record was handed over.
        acknowledged_us: our clock after it was acknowledged.
        stamp_ms: the broker's clock between the two, cut to milliseconds.

    >>> clock_ahead_us(1_000_000, 1_020_000, 1_010)
    0
    >>> clock_ahead_us(1_000_000, 1_020_000, 5_020)
    4000000
    >>> clock_ahead_us(1_000_000, 1_020_000, 900)
    -99000
    """
    earliest, latest = stamp_ms * 1_000, (stamp_ms + 1) * 1_000
    if earliest > acknowledged_us:
        return earliest - acknowledged_us
    return min(0, latest - sent_us)
