"""Timely dataflow: graphs, operators, capabilities, progress and transport. Imports the vocabulary and service.dataflow.progress."""
