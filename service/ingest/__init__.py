"""From Kafka records to batches at a tick. Imports dataflow and avro."""
