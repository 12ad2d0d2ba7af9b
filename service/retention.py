"""How long Kafka keeps the records of a topic, so that a replay writes none that would go at once.

Flow: records to be written -> [Retention.fitted], which asks the broker once for each topic -> the
same records, those too old for their topic without their time (service.dead_letters, DL4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import TimeoutError as NoAnswer
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource

from service.dead_letters import Remade, kept
from service.errors import BrokerError


class Retention:
    """What the topics that a replay writes to keep."""

    def __init__(self, settings: Mapping[str, Any], timeout_s: float) -> None:
        """Connect when first asked; every question waits at most `timeout_s`."""
        self._client = AdminClient({**settings, "log_level": 0})
        self._timeout_s = timeout_s
        self._known: dict[str, int | None] = {}

    def fitted(self, records: Sequence[Remade], to: str | None, now_ms: int) -> list[Remade]:
        """The records as they are to be written to `to`, or each to its own topic.

        Raises:
            BrokerError: Kafka does not say what a topic is like.
        """
        return [
            each
            if each.timestamp_ms is None
            else kept(each, self._of(to or each.letter.origin.topic), now_ms)
            for each in records
        ]

    def _of(self, topic: str) -> int | None:
        """Milliseconds that a topic keeps a record; None if its age does not matter."""
        if topic not in self._known:
            asked = ConfigResource(ConfigResource.Type.TOPIC, topic)
            try:
                told = self._client.describe_configs([asked])[asked].result(self._timeout_s)
            except NoAnswer as error:
                raise BrokerError(
                    f"topic {topic!r}: Kafka did not say in {self._timeout_s:g} s how long it "
                    "keeps records; a broker away?"
                ) from error
            except KafkaException as error:
                raise BrokerError(
                    f"topic {topic!r}: how long it keeps records is not to be learned: "
                    f"{error.args[0].str()}; it must exist, and DescribeConfigs be allowed"
                ) from error
            by_age = "delete" in told["cleanup.policy"].value.split(",")
            length = int(told["retention.ms"].value)
            self._known[topic] = length if by_age and length >= 0 else None
        return self._known[topic]
