"""How frames travel between processes: in memory, or over ZeroMQ. Imports the vocabulary only."""
