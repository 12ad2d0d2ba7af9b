"""Counts the calls an action makes: a cost that does not depend on the machine.

Flow: tests that hold a cost against a bound, or for few rows against that for many.

Invariants
  C1  No collection of garbage falls into the action. How full the collector's generations are is
      the business of the tests that ran before, and what it calls (Hypothesis has a callback there)
      is not the action's.
  C2  The profiler of before, such as a coverage tool's, is put back.
"""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType


def calls_of(action: Callable[[], object], *, builtin: bool = False) -> Counter[str]:
    """How often each Python function is called while `action` runs.

    Args:
        action: Called once.
        builtin: Also count functions of C that Python code calls.
    """
    counts: Counter[str] = Counter()

    def note(frame: FrameType, event: str, argument: object) -> None:
        if event == "call":
            counts[f"{frame.f_code.co_filename}:{frame.f_code.co_qualname}"] += 1
        elif builtin and event == "c_call":
            counts[getattr(argument, "__qualname__", repr(argument))] += 1

    before = sys.getprofile()
    gc.collect()
    gc.disable()
    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(before)
        gc.enable()
    return counts
