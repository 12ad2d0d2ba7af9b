"""What `kafka-topics.sh --create` does, for a machine without Kafka's tools.

Its options are those that docker-compose.yml uses, spelt as Kafka's own command spells them; any
other ends with status 2.
"""

from __future__ import annotations

import argparse

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

TIMEOUT_S = 30.0


def main() -> None:
    """Create one topic; one that is there is an error, unless `--if-not-exists`."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--create", action="store_true", required=True)
    parser.add_argument("--if-not-exists", action="store_true")
    for name in ("--bootstrap-server", "--topic"):
        parser.add_argument(name, required=True)
    for name in ("--partitions", "--replication-factor"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--config", action="append", default=[])
    said = parser.parse_args()
    new = NewTopic(
        said.topic,
        num_partitions=said.partitions,
        replication_factor=said.replication_factor,
        config=dict(each.split("=", 1) for each in said.config),
    )
    client = AdminClient({"bootstrap.servers": said.bootstrap_server})
    try:
        client.create_topics([new])[said.topic].result(TIMEOUT_S)
    except KafkaException as error:
        there = error.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS
        if not (there and said.if_not_exists):
            raise


if __name__ == "__main__":
    main()
