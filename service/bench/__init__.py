"""Benchmarks, as `megaphone bench`: each prints one document, docs/contracts/bench.schema.json."""
