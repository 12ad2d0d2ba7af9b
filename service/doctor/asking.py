"""Asks Kafka everything that can be asked without changing anything.

Flow: bootstrap servers, names of topics -> [ask_cluster] -> ClusterFacts. Topics that a job would
make are asked for with `validate_only`: the broker checks permission and policy, and makes nothing.

Invariants
  AK1  Nothing on the broker is different afterwards.
  AK2  Every question has an end; what was not answered in time is told as unknown, not raised.
"""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswer
from enum import Enum
from functools import partial
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (
    AdminClient,
    ConfigResource,
    NewTopic,
    TopicDescription,
)

from service.clock import Clock, sleep
from service.doctor.cluster_facts import ClusterFacts, Reach, TopicFacts
from service.kafka_access import access

Answer = TypeVar("Answer")
#: What the client logs of a broker it has met: a request and the versions taken.
_REQUEST = re.compile(r"ApiKey (\w+) \(\d+\) Versions (\d+)\.\.(\d+)")
_CONNECT_S_MAX = 3.0
#: Answers of a broker that will serve a group shortly: a cluster in which none was ever used makes
#: the topic for them when the first is asked for. The library hands them on (retriable or not).
_SOON = frozenset(
    {
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.NOT_COORDINATOR,
    }
)
_SOON_S = 0.05


def ask_cluster(
    settings: Mapping[str, Any],
    bootstrap_servers: str,
    topics: Sequence[str],
    own: Mapping[str, Mapping[str, str]],
    timeout_s: float,
    clock: Clock,
    group: str = "",
) -> ClusterFacts:
    """Learn what can be learned of a cluster.

    Args:
        settings: of a Kafka client.
        bootstrap_servers: host:port[,host:port] in them.
        topics: those to be looked at, if they exist; `own` among them.
        own: topics that a job would create, with their configuration.
        timeout_s: patience with each question.
        clock: for that patience.
        group: consumer group whose rights are asked for; empty: none.
    """
    bootstrap = tuple(
        reach(address.strip(), min(timeout_s, _CONNECT_S_MAX))
        for address in bootstrap_servers.split(",")
        if address.strip()
    )
    if all(each.problem is not None for each in bootstrap):
        return ClusterFacts(bootstrap)
    heard = _Heard()
    told: dict[str, Any] = {**settings, "debug": "feature", "logger": heard.logger}
    client = AdminClient({**settings, "log_level": 0})
    try:
        # Only what is logged while a client is made acquainted tells which requests there are.
        listener = AdminClient(told)
        listener.list_topics(timeout=timeout_s)
        listener.poll(0)
        metadata = client.list_topics(timeout=timeout_s)
    except KafkaException as error:
        return ClusterFacts(bootstrap, problem=access().scrubbed(error.args[0].str()))
    asking = Asking(client, timeout_s, clock)
    there = [name for name in topics if name in metadata.topics]
    hidden = asking.hidden([name for name in topics if name not in metadata.topics])
    described = asking.topics(there)
    found = {}
    for name in there:
        partitions = metadata.topics[name].partitions.values()
        said = described.get(name)
        found[name] = TopicFacts(
            partitions=len(partitions),
            replicas=min((len(each.replicas) for each in partitions), default=0),
            operations=None if said is None else _operations(said.authorized_operations),
            config=asking.config(name),
        )
    return ClusterFacts(
        bootstrap,
        brokers=tuple(
            reach(f"{each.host}:{each.port}", min(timeout_s, _CONNECT_S_MAX))
            for each in metadata.brokers.values()
        ),
        cluster_id=str(metadata.cluster_id),
        topics=found,
        hidden=hidden,
        group=asking.group(group) if group else None,
        creatable=asking.creatable(
            {name: config for name, config in own.items() if name not in metadata.topics}
        ),
        requests=heard.requests(),
    )


def reach(address: str, timeout_s: float) -> Reach:
    """Whether something listens at host:port."""
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdecimal() or int(port) > 65_535:
        return Reach(address, "is no host:port")
    try:
        socket.create_connection((host, int(port)), timeout_s).close()
    except socket.gaierror:
        return Reach(address, f"the name {host} is not known here")
    except TimeoutError:
        return Reach(address, f"nothing answers within {timeout_s:g} s; a firewall?")
    except OSError as error:
        return Reach(address, f"{error.strerror or error}")
    return Reach(address)


class Asking:
    """Questions to one cluster; whatever is refused or late is None or a text."""

    def __init__(self, client: AdminClient, timeout_s: float, clock: Clock) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._clock = clock

    def topics(self, names: Sequence[str]) -> Mapping[str, TopicDescription]:
        """What the broker lets us do with each topic."""
        if not names:
            return {}
        futures = self._start(
            lambda: self._client.describe_topics(
                TopicCollection([*names]),
                include_authorized_operations=True,
                request_timeout=self._timeout_s,
            )
        )
        answers = {name: self._answer(future)[0] for name, future in futures.items()}
        return {name: answer for name, answer in answers.items() if answer is not None}

    def hidden(self, names: Sequence[str]) -> frozenset[str]:
        """Which of these topics, none of them listed, are not ours to see.

        All topics at once are listed without those; asked for by name, one is refused.
        """
        found = set()
        for name in names:
            try:
                said = self._client.list_topics(name, timeout=self._timeout_s).topics[name].error
            except KafkaException:
                continue
            if said is not None and said.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                found.add(name)
        return frozenset(found)

    def group(self, name: str) -> frozenset[str] | None:
        """What the broker lets us do with a consumer group, which need not exist."""
        until_ns = self._clock.monotonic_ns() + int(self._timeout_s * 1e9)
        while (left_s := (until_ns - self._clock.monotonic_ns()) / 1e9) > 0:
            futures = self._start(partial(self._ask_of_group, name, left_s))
            if name not in futures:
                return None
            try:
                return _operations(futures[name].result(left_s).authorized_operations)
            except NoAnswer:
                return None
            except KafkaException as error:
                cause: KafkaError = error.args[0]
                if cause.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
                    return frozenset()
                if cause.code() not in _SOON:
                    return None
            sleep(_SOON_S)
        return None

    def _ask_of_group(self, name: str, timeout_s: float) -> Mapping[str, Future[Any]]:
        return self._client.describe_consumer_groups(
            [name], include_authorized_operations=True, request_timeout=timeout_s
        )

    def config(self, topic: str) -> Mapping[str, str] | None:
        """A topic's configuration, if we may read it."""
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        futures = self._start(lambda: self._client.describe_configs([resource]))
        entries = self._answer(futures[resource])[0] if futures else None
        if entries is None:
            return None
        return {name: str(entry.value) for name, entry in entries.items()}

    def creatable(self, wanted: Mapping[str, Mapping[str, str]]) -> dict[str, str | None]:
        """Topic -> None if the broker would create it, else why not; creates nothing (AK1)."""
        if not wanted:
            return {}
        new = [
            NewTopic(name, num_partitions=1, replication_factor=-1, config=dict(config))
            for name, config in wanted.items()
        ]
        futures = self._start(
            lambda: self._client.create_topics(
                new, validate_only=True, request_timeout=self._timeout_s
            )
        )
        return {
            name: self._answer(futures[name])[1] if name in futures else "the client refused"
            for name in wanted
        }

    def _start(self, ask: Callable[[], Mapping[Any, Future[Any]]]) -> Mapping[Any, Future[Any]]:
        try:
            return ask()
        except KafkaException:
            return {}

    def _answer(self, future: Future[Answer]) -> tuple[Answer | None, str | None]:
        """The answer, or why there is none."""
        try:
            return future.result(self._timeout_s), None
        except NoAnswer:
            return None, f"no answer within {self._timeout_s:g} s"
        except KafkaException as error:
            cause: KafkaError = error.args[0]
            return None, access().scrubbed(cause.str())


def _operations(said: Sequence[Enum] | None) -> frozenset[str] | None:
    """Names of what we may do; a broker that says nothing of it gives an empty list."""
    return frozenset(each.name for each in said) if said else None


class _Heard(logging.Handler):
    """Keeps what the client logs; it is told only while somebody polls."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        # Not one of the registry's, which another doctor in this process would share.
        self.logger = logging.Logger("doctor", logging.DEBUG)  # noqa: LOG001 - see above
        self.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def requests(self) -> dict[str, tuple[int, int]]:
        """Request -> the versions that the first broker met takes."""
        found: dict[str, tuple[int, int]] = {}
        for line in self.lines:
            for request, least, most in _REQUEST.findall(line):
                found.setdefault(request, (int(least), int(most)))
        return found
