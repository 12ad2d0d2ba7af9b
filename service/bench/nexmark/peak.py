"""How much memory this process held at most while something ran.

Flow: [peak_memory] around a run -> [Peak], bytes.

Invariants
  PM1  On Linux the mark is set back before the run (`/proc/self/clear_refs`, 5), so it is of the
       run: all that is resident then, whoever has it, what was there before included. Where it
       cannot be set back it is the process's greatest since its start, so never too little.

Source: proc_pid_clear_refs(5), VmHWM of proc_pid_status(5), getrusage(2).
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET = "5"


@dataclass(slots=True)
class Peak:
    """The greatest resident memory in bytes, once the run has ended; 0 before."""

    bytes: int = 0


@contextmanager
def peak_memory(clear: Path = _CLEAR) -> Iterator[Peak]:
    """Watch the length of a `with` block.

    Args:
        clear: what sets the mark back.

    Cost: some 10 us, none of it inside.
    """
    peak = Peak()
    try:
        clear.write_text(_RESET, encoding="ascii")
    except OSError:
        marked = False  # No Linux, or a container that forbids it (PM1).
    else:
        marked = True
    yield peak
    peak.bytes = _high_water_mark() if marked else _since_start()


def _high_water_mark() -> int:
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return int(value.removesuffix("kB")) << 10
    return _since_start()


def _since_start() -> int:
    # macOS says bytes, others KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << (
        0 if sys.platform == "darwin" else 10
    )
