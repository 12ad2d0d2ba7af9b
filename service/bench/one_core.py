"""One core for what is compared, so that a peer and this project have the same to run on.

Flow: a bench beside a peer -> [one_core] around its runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_core() -> Iterator[None]:
    """This thread, and processes it starts, on one core for the length of a block.

    Where the system binds no thread to a core it does nothing.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
