"""The one failure of progress tracking: someone broke a rule of the protocol or of the graph.

Flow: raised by `Topology`, `Tracker`, `ProgressReceiver` and the codec; the engine turns it into
its own error.

Invariants
  PE1  The message names the operators, the location or the peer at fault; nothing has changed when
       a graph is refused, and a peer whose batch is refused can no longer be followed.
  PE2  Bugs of the caller inside one process are assertions, never a `ProgressError`.
"""

from __future__ import annotations


class ProgressError(Exception):
    """A graph that cannot be tracked, bytes that are no batch, or a batch out of sequence."""
