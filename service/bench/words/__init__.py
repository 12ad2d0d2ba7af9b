"""The original's word-count benchmark, re-created with the service's own F, S, log and transport."""
