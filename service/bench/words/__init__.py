"""The original's word-count benchmark on the service's own F, S, log and transport."""
