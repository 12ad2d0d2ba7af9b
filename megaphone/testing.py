"""The test kit: a whole job in a test's hand, without a broker; docs/TESTING_FLOWS.md shows it.

This module only re-exports; `service.testing` holds the code.
"""

from service.testing.broker import OutputRecord
from service.testing.cluster import Cluster
from service.testing.script import advance, crash, move, rescale, restart, run, stop

__all__ = [
    "Cluster",
    "OutputRecord",
    "advance",
    "crash",
    "move",
    "rescale",
    "restart",
    "run",
    "stop",
]
