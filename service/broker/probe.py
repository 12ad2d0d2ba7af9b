"""Asks a Kafka whether it answers: one metadata request by a real client.

The only file of this package that imports the Kafka client.

Invariants
  Q1  `answers` returns within the seconds given, plus one client's teardown.
"""

from __future__ import annotations

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from service.kafka_access import client_settings


def answers(bootstrap_servers: str, seconds: float) -> bool:
    """Whether a broker at `bootstrap_servers` lists itself within `seconds`."""
    client = AdminClient(
        {
            **client_settings(bootstrap_servers),
            # A broker that is still starting refuses connections: ask again soon, and quietly.
            "reconnect.backoff.ms": 20,
            "reconnect.backoff.max.ms": 100,
            "log_level": 0,
        }
    )
    try:
        return bool(client.list_topics(timeout=seconds).brokers)
    except KafkaException:
        return False  # the client's own words for "nobody there" add nothing
