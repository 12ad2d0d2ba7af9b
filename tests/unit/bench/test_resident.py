"""The most that a process had is the system's mark, also of what no reading would have met.

Claims: RE1.
"""

from __future__ import annotations

import os
import subprocess
import sys

from service.bench.resident import forget_peak, peak, resident

#: Takes memory and gives it back for each line that it is told, and says so.
_TAKES = """
import mmap, sys
for line in sys.stdin:
    size = int(line)
    with mmap.mmap(-1, size) as taken:
        for at in range(0, size, 4096):
            taken[at] = 1
    print(size, flush=True)
"""
_LARGE, _SMALL = 256 << 20, 32 << 20


def test_what_was_there_between_two_readings_counts_from_the_last_forgetting():
    with subprocess.Popen(
        [sys.executable, "-c", _TAKES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:

        def take(size):
            child.stdin.write(f"{size}\n")
            child.stdin.flush()
            assert child.stdout.readline() == f"{size}\n"

        take(_LARGE)
        assert resident(child.pid) < _LARGE < peak(child.pid)
        assert forget_peak(child.pid)
        assert peak(child.pid) < _LARGE
        before = resident(child.pid)
        take(_SMALL)
        # The kernel counts pages of a process in batches: some are not told yet.
        assert before + _SMALL * 3 // 4 < peak(child.pid) < _LARGE
        child.stdin.close()


def test_where_the_system_does_not_say_there_is_no_peak(tmp_path):
    pid = os.getpid()
    assert (resident(pid, tmp_path), peak(pid, tmp_path)) == (0, 0)
    assert not forget_peak(pid, tmp_path)
    (tmp_path / str(pid)).mkdir()
    (tmp_path / str(pid) / "status").write_text("VmRSS:\t 5 kB\n")
    (tmp_path / str(pid) / "statm").write_text("")
    assert (resident(pid, tmp_path), peak(pid, tmp_path)) == (0, 0)
