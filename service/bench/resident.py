"""Resident memory of a process, read from outside: what it has now, and the most it had.

Flow: [resident], [forget_peak], [peak] of a pid -> figures of benches.

Invariants
  RE1  A peak is the system's own high-water mark, which no reading at intervals can miss; it counts
       from the last `forget_peak`, and is none where the system cannot forget it.

Source: proc_pid_status(5) (VmHWM), proc_pid_clear_refs(5) (the value 5).
"""

from __future__ import annotations

import resource
from pathlib import Path

_PAGE = resource.getpagesize()
_PROC = Path("/proc")
_FORGET = "5"
_MARK = "VmHWM:"


def resident(pid: int, proc: Path = _PROC) -> int:
    """Bytes that a process has now; 0 where the system does not say."""
    try:
        return int((proc / str(pid) / "statm").read_text(encoding="utf-8").split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def forget_peak(pid: int, proc: Path = _PROC) -> bool:
    """Let the most that a process had be what it has now; whether the system could (RE1)."""
    try:
        (proc / str(pid) / "clear_refs").write_text(_FORGET, encoding="utf-8")
    except OSError:
        return False
    return True


def peak(pid: int, proc: Path = _PROC) -> int:
    """The most bytes that a process had since its peak was forgotten; 0 if nothing says."""
    try:
        lines = (proc / str(pid) / "status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    marks = (line.split()[1] for line in lines if line.startswith(_MARK))
    return int(next(marks, "0")) << 10
