"""Finds a Kafka for the demo, the tests and `megaphone broker`: the same way for all three.

In this order: the broker that `KAFKA_BOOTSTRAP_SERVERS` names; one of our own in Java, its jars
resolved by Maven; one in Docker. The first kind that this machine has is the one that is used: a
broker that is named but silent is an error, never a reason to take another.

Invariants
  L1  What is found is a real Apache Kafka that has answered.
  L2  Nothing found is an error that names all three ways; never a skip, never a stand-in.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from service.broker.container import start_container
from service.broker.java import start_java
from service.broker.kinds import Broker, KindMissing
from service.broker.probe import answers
from service.errors import BrokerError, BrokerUnavailable, UsageError

VARIABLE = "KAFKA_BOOTSTRAP_SERVERS"
ANSWER_SECONDS = 10.0

Kinds = Sequence[tuple[str, Callable[[], Broker]]]
KINDS: Kinds = (("Java", start_java), ("Docker", start_container))
"""The kinds we can start, by preference, each with its name in messages."""


@dataclass(frozen=True, slots=True)
class NamedBroker:
    """A broker that somebody else runs; closing it does nothing."""

    bootstrap_servers: str
    alive: bool = True

    def close(self) -> None:
        """Leave it as it is: it is not ours."""


def find_broker(environment: Mapping[str, str] | None = None, kinds: Kinds = KINDS) -> Broker:
    """The first broker to be had; the caller closes it.

    Args:
        environment: where the variable is looked up; the process's own if None.
        kinds: what to try when the variable is not set, in this order.

    Raises:
        BrokerUnavailable: the variable names a broker that does not answer within ten seconds.
        UsageError: the variable is not set and this machine can start no broker.
        BrokerError: a broker of ours did not come up.
    """
    environment = os.environ if environment is None else environment
    if named := environment.get(VARIABLE, "").strip():
        if not answers(named, ANSWER_SECONDS):
            raise BrokerUnavailable(named, ANSWER_SECONDS)
        return NamedBroker(named)
    reasons = []
    for name, start in kinds:
        try:
            return start()
        except KindMissing as missing:
            reasons.append(f"{name}: {missing}")
    raise UsageError(
        f"no Kafka to work with: set {VARIABLE} to a running broker, or install Java 17+ with "
        f"Maven, or start Docker ({'; '.join(reasons)})"
    )


@contextmanager
def open_broker() -> Iterator[Broker]:
    """A broker for the length of a `with` block; raises as `find_broker` does."""
    broker = find_broker()
    try:
        yield broker
    finally:
        broker.close()


def serve(line_of: Callable[[str], str] = str) -> None:
    """Print the address of a broker on standard output and keep it until Ctrl-C or SIGTERM.

    To be called from the main thread, which is the one that may set signal handlers.

    Args:
        line_of: what to print of an address.

    Raises:
        BrokerError: the broker ended by itself.
    """
    stop = threading.Event()
    with open_broker() as broker:
        ending = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(number, lambda _number, _frame: stop.set()) for number in ending]
        try:
            sys.stdout.write(f"{line_of(broker.bootstrap_servers)}\n")
            sys.stdout.flush()
            while not stop.wait(0.5):
                if not broker.alive:
                    raise BrokerError("the local Kafka ended by itself")
        finally:
            for number, handler in zip(ending, before, strict=True):
                signal.signal(number, handler)
