"""Timely dataflow: graphs, operators, capabilities, progress, transport. Imports vocabulary."""
