"""What every process tells of itself, whatever it does: memory, processor time, what is running.

Flow: the operating system -> [process_reading], at each scrape -> /metrics.
"""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

import psutil

from service.telemetry import Value


def process_reading(state: str) -> dict[str, Value]:
    """Memory and processor time as of now, and what does not change.

    Args:
        state: what the process says it is doing.

    Cost: 0.1 ms, in the thread that answers.
    """
    own = _own()
    with own.oneshot():
        memory, times = own.memory_info().rss, own.cpu_times()
    return {
        "megaphone_process_resident_bytes": memory,
        "megaphone_process_cpu_seconds_total": times.user + times.system,
        "megaphone_process_start_timestamp_seconds": own.create_time(),
        "megaphone_process_state_info": {state: 1},
        "megaphone_process_build_info": {(release(), platform.python_version()): 1},
    }


@cache
def release() -> str:
    """The installed version; "source" where nothing is installed."""
    try:
        return version("megaphone-kafka")
    except PackageNotFoundError:
        return "source"


@cache
def _own() -> psutil.Process:
    return psutil.Process()
