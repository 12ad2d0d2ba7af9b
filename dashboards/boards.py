"""All dashboards, in the order in which people look at them.

Every metric of the service's catalogue is on one of them; a test compares.
"""

from __future__ import annotations

from dashboards.job import MIGRATION, OVERVIEW
from dashboards.parts import INGEST, PROCESS, STATE

BOARDS = (OVERVIEW, MIGRATION, INGEST, STATE, PROCESS)
