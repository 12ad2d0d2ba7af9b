"""Avro in the Confluent wire format: schemas, and kernels generated per schema that decode and encode columns. Imports only errors."""
