"""Keyed state in bins: arena tables, chunks, checkpoints.

Knows no dataflow; imports the vocabulary only.
"""
