"""Stands between us and the broker's process, so that it cannot outlive us.

Run as a script by `java.py`, standard library only: `python -I guard.py '{"folder", "commands"}'`.
It runs the commands one after another, their output in `<folder>/kafka.log`, until the last one
ends or its own standard input does. The owner holds the other end of that pipe and never writes:
when the owner closes it, or dies in whatever way, the pipe ends, the guard kills the command and
removes the folder. That needs no signal handler in the owner, works on every POSIX system, and
cleans up even after SIGKILL, which a death signal set on the child would not.

A signal to the guard itself is a byte in a pipe that is waited for like the other two. An exception
from the handler could come up while the command is being started, when it runs and nothing yet
holds its number to kill it by.

Invariants
  G1  When the guard exits, its command is dead and the folder is gone.
  G2  Standard output is closed, with the folder still there to read, once no command runs any more.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

OWNER = 0  # file descriptor of standard input: the pipe whose end is the owner's end


def main() -> None:
    """Run the commands of the one argument, then clean up (G1)."""
    order = json.loads(sys.argv[1])
    folder = Path(order["folder"])
    signalled = _signals_in_a_pipe(signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    try:
        for command in order["commands"]:
            if not _run(command, folder / "kafka.log", signalled):
                break
        os.close(1)  # G2
        ready, _, _ = select.select([OWNER, signalled], [], [])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if signalled in ready:
        sys.exit(128 + os.read(signalled, 1)[0])


def _signals_in_a_pipe(*numbers: signal.Signals) -> int:
    """The reading end of a pipe in which each of these signals puts its number from now on."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    for number in numbers:
        signal.signal(number, lambda _number, _frame: None)  # it is in the pipe already
    return reading


def _run(command: Sequence[str], log: Path, signalled: int) -> bool:
    """Run one command to its end, the owner's or a signal; true if it ended well by itself."""
    # The child holds the writing end unused: the kernel closes it when the child is gone.
    ended, held = os.pipe()
    with log.open("ab") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=(held,),
        )
    os.close(held)
    try:
        ready, _, _ = select.select([OWNER, signalled, ended], [], [])
        return ready == [ended] and child.wait() == 0
    finally:
        child.kill()  # its data goes with it: there is nothing to shut down in order
        child.wait()
        os.close(ended)


if __name__ == "__main__":
    main()
