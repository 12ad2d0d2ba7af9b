"""From batches to acknowledged Kafka records. Imports dataflow and avro."""
