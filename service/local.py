"""`megaphone run --local`: all roles of a job in one process.

Flow: `megaphone run --local` -> [run_local].
"""

from __future__ import annotations

from pathlib import Path

from service.config import Config
from service.controller_process import ControllerOptions
from service.dataflow.flow import Flow
from service.errors import NotYetSupported
from service.ingest.registry import SchemaRegistry


def run_local(
    options: ControllerOptions,
    state_dir: Path,
    config: Config,
    flow: Flow,
    registry: SchemaRegistry,
) -> int:
    """Run everything here."""
    raise NotYetSupported("--local", "leave it out")
