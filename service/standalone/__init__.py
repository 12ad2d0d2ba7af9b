"""Whole jobs in one thread without Kafka: the code of every role, over links in memory."""
