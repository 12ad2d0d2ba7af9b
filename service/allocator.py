"""How the C library's allocator treats memory that batches come and go in.

Flow: a gateway, a worker or a benchmark starts -> [keep_freed_memory], once.

A batch of 32,768 rows allocates and frees some megabytes, thousands of times a second. By default
glibc gives the end of its heap back to the system after each, and the next one faults every page in
again: 20 ns a record, a fifth of all that a record costs at full speed [measured, word-count]. So
up to 64 MiB of freed memory stay with the process.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
#: Freed memory at the end of the heap beyond this goes back to the system.
_KEPT_BYTES = 64 << 20
#: Larger blocks are pages of their own, which go back as soon as they are freed.
_OWN_PAGES_BYTES = 16 << 20


def keep_freed_memory() -> bool:
    """Let freed memory stay with the process; whether the C library could be told.

    Cost: up to 64 MiB of memory.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        kept = [
            mallopt(_TRIM_THRESHOLD, _KEPT_BYTES),
            mallopt(_MMAP_THRESHOLD, _OWN_PAGES_BYTES),
        ]
        return all(kept)
    return False
