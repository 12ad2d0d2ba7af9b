"""A real Kafka for development, the demo and the tests. Imports errors only."""
