"""Where a benchmark ran, and of which commit: without these a figure means nothing."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import confluent_kafka
import psutil

_ROOT = Path(__file__).parents[2]
_CPU_INFO = Path("/proc/cpuinfo")
_GIT_SECONDS_MAX = 10


def machine() -> dict[str, str | int | float]:
    """This computer, its system, and the versions that figures hang on."""
    return {
        "cpu": _cpu_model(),
        "cpus": os.cpu_count() or 0,
        "memory_gb": round(psutil.virtual_memory().total / (1 << 30), 1),
        "system": platform.system(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "librdkafka": confluent_kafka.libversion()[0],
        # Runnable processes, on average over the last minute: other work on the same cores.
        "load_1m": round(os.getloadavg()[0], 2),
    }


def commit(folder: Path = _ROOT) -> str:
    """The commit that is checked out, `-dirty` behind it if files differ; `unknown` without git."""
    head = _git(folder, "rev-parse", "--short=12", "HEAD")
    if head is None:
        return "unknown"
    return f"{head}-dirty" if _git(folder, "status", "--porcelain") else head


def _git(folder: Path, *arguments: str) -> str | None:
    """What git answers, or None if there is no git or no repository."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=_GIT_SECONDS_MAX,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def _cpu_model() -> str:
    """What the kernel calls the processor; on systems that do not say, its architecture."""
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
