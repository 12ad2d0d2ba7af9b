"""Ends this process when the one that started it is gone, in whatever way it went.

Flow: launcher holds the other end of our standard input and never writes -> its end, by exit or by
SIGKILL -> [tie_to_parent] -> a plain stop of the whole job.

A pipe needs nothing of the operating system but POSIX, nothing between fork and exec, and does not
depend on which thread of the parent started us, as Linux's parent-death signal does.

Invariants
  PT1  When the pipe ends, the process is asked to stop plainly, by the launcher's signal; should it
       still be there after the grace, it is ended.
"""

from __future__ import annotations

import os
import sys
import threading

from service.stop_signals import ASKS_PLAINLY


def tie_to_parent(grace_s: float) -> None:
    """Watch standard input from a thread; returns at once.

    Args:
        grace_s: how long the plain stop may take before the process is ended (PT1).
    """
    threading.Thread(target=_watch, args=(grace_s,), name="parent", daemon=True).start()


def _watch(grace_s: float) -> None:
    # The pipe's own descriptor: what Python has buffered is nobody's business here.
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.kill(os.getpid(), ASKS_PLAINLY)
    threading.Event().wait(grace_s)
    os._exit(1)
