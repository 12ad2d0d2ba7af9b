"""Avro in the Confluent wire format: schemas, and kernels generated per schema.

The kernels decode and encode columns. Imports only errors.
"""
