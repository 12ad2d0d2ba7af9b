"""Freed memory stays with the process: batches that come and go fault no page in again."""

from __future__ import annotations

import subprocess
import sys

from tests.tidy.source import ROOT

_FAULTS = """
import resource, sys
import numpy as np
from service.allocator import keep_freed_memory
told = keep_freed_memory()
def batches(count):
    for _ in range(count):
        arrays = [np.empty(1 << 17, dtype=np.int64) for _ in range(5)]
        for array in arrays:
            array[:] = 1
        del array, arrays
batches(20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
batches(200)
print(told, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_memory_of_batches_is_not_faulted_in_again():
    done = subprocess.run(
        [sys.executable, "-c", _FAULTS], cwd=ROOT, capture_output=True, text=True, check=True
    )
    told, faults = done.stdout.split()
    # A thousand arrays of 256 pages each; not telling the allocator costs hundreds of thousands.
    assert told == "True"
    assert int(faults) < 10_000
