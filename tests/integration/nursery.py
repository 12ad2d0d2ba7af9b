"""A process that has loaded what `megaphone` needs, and forks to be it whenever a test asks.

Flow: `forked.Nursery` -> [nursery]: a fork for each command asked for -> the command's own entry,
`service.entry`; its exit status -> `forked.Process`.

A command spends more than a second of a core on imports and on loading kernels, and a job is many
commands; a test whose subject is what happens after that need not pay for it again and again.
`megaphone run` starts its roles here, too: beside it stands a fork of it that has done nothing but
wait, which forks each role and lets the launcher adopt it, so that these are its children in every
respect (its signals, its pipe to them, their statuses).

Invariants
  NU1  Whatever forks has made no client, no context and no thread of Python. What libraries start
       as they are loaded, threads of OpenBLAS and of Arrow's allocator, takes care of forks itself.
  NU2  A fork has what `python -m service` would have, and nothing else: environment, folder,
       arguments, standard streams, no other open file, default signals, roles a process group of
       their own; it ends as the interpreter ends.
  NU3  What differs: modules were loaded under the environment of the nursery, so that a command
       whose modules read their environment at import has to be started itself; hashes of text are
       the same in all forks; memory that was there at the fork is shared until it is written to,
       so that its size says little; /proc says the nursery's command line, and the slot as name.
  NU4  The nursery ends with the test process, whatever happened to that, and the launcher's helper
       with the launcher.

Source: Linux, prctl(2), PR_SET_CHILD_SUBREAPER; pidfd_open(2).
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO

from service import entry, run_cli
from service.launcher import ChildSpec, Launcher

ROOT = Path(__file__).parents[2]
#: What commands load when they are asked for, and the flows of these tests.
LOADED = (
    "service.roles_cli",
    "service.local",
    "service.control_cli",
    "service.status_cli",
    "tests.integration.flows",
)
#: More than an environment and a command line have.
MESSAGE_BYTES = 1 << 17
_PR_SET_CHILD_SUBREAPER = 36
_STREAMS = 3


@dataclass(frozen=True, slots=True)
class Task:
    """One command: its arguments, its whole environment, its folder."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    folder: str

    def encode(self) -> bytes:
        """As a message; `Task(**json.loads(message))` is its inverse."""
        said = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps(said).encode()


def serve(control: socket.socket) -> Task | None:
    """Fork for each task that comes; returns in the fork, and None at the end of the nursery.

    A message is a task with four descriptors: standard input, output, error, and where the exit
    status is written to. The answer is the fork's id.
    """
    looking = selectors.DefaultSelector()
    looking.register(control, selectors.EVENT_READ)
    #: By the descriptor that tells its end: a process, and where its status goes.
    running: dict[int, tuple[int, int]] = {}
    while True:
        for key, _ in looking.select():
            if key.fileobj is control:
                message, given, *_ = socket.recv_fds(control, MESSAGE_BYTES, _STREAMS + 1)
                if not message:
                    return None
                child = os.fork()
                if child == 0:
                    looking.close()
                    control.close()
                    _take_streams(given[:_STREAMS])
                    return Task(**json.loads(message))
                *streams, told = given
                for stream in streams:
                    os.close(stream)
                ended = os.pidfd_open(child)
                running[ended] = child, told
                looking.register(ended, selectors.EVENT_READ)
                control.send(str(child).encode())
            else:
                looking.unregister(key.fd)
                child, told = running.pop(key.fd)
                os.close(key.fd)
                _, status = os.waitpid(child, 0)
                with suppress(BrokenPipeError):  # who asked may not be interested any more
                    os.write(told, str(os.waitstatus_to_exitcode(status)).encode())
                os.close(told)


def _take_streams(given: Sequence[int]) -> None:
    """Make these the standard streams, from the first on, and close all else (NU2)."""
    for number, stream in enumerate(given):
        os.dup2(stream, number)
    os.closerange(_STREAMS, os.sysconf("SC_OPEN_MAX"))


def play(task: Task) -> None:
    """Be a command, in a process of its own (NU2)."""
    os.chdir(task.folder)
    os.environ.clear()
    os.environ.update(task.environment)
    words = None
    if task.arguments[0] == "run" and "--local" not in task.arguments:
        words = _helped_launcher()
    sys.argv = [str(ROOT / "service" / "__main__.py"), *(words or task.arguments)]
    entry.main()


def _helped_launcher() -> Sequence[str] | None:
    """Let this launcher's roles be forks; returns in each of them with its arguments.

    The helper is forked before the launcher has a client (NU1). It forks twice for each role: the
    fork between them ends, and the role's parent is the launcher then, who said that it adopts.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the launcher cannot adopt its roles")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        return _roles(theirs)
    theirs.close()

    class Forking(Launcher):
        """The launcher, whose children are forks."""

        def started(self, spec: ChildSpec) -> Adopted:
            return Adopted(ours, [*spec.arguments, "--tied"])

    # The one name that is replaced: what the command makes its launcher of.
    run_cli.Launcher = Forking
    return None


def _roles(asked: socket.socket) -> Sequence[str]:
    """The helper: forks a role for each message; returns in the role with its arguments."""
    while True:
        message, given, *_ = socket.recv_fds(asked, MESSAGE_BYTES, 1)
        if not message:
            os._exit(0)  # the launcher is gone; it is the launcher that says how it went (NU4)
        between = os.fork()
        if between == 0:
            role = os.fork()
            if role != 0:
                asked.send(str(role).encode())
                os._exit(0)
            os.setpgid(0, 0)
            asked.close()
            _take_streams(given)
            words = json.loads(message)
            slot = words[words.index("--slot") + 1 :][:1] if "--slot" in words else []
            Path("/proc/self/comm").write_text("-".join([words[0], *slot]), encoding="utf-8")
            return words
        for stream in given:
            os.close(stream)
        os.waitpid(between, 0)
        asked.send(b"adopted")


class Adopted:
    """A role, as `subprocess.Popen` has it for the launcher."""

    def __init__(self, helper: socket.socket, arguments: Sequence[str]) -> None:
        """Have it forked, with a pipe as its standard input."""
        read, write = os.pipe()
        self.stdin: IO[bytes] = os.fdopen(write, "wb", buffering=0)
        socket.send_fds(helper, [json.dumps(arguments).encode()], [read])
        os.close(read)
        said = helper.recv(MESSAGE_BYTES)
        if not said or helper.recv(MESSAGE_BYTES) != b"adopted":
            raise ChildProcessError("whoever forks the roles is gone")
        self.pid = int(said)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Exit status, None while it runs."""
        return self._look(os.WNOHANG)

    def wait(self) -> int:
        """Wait for its end."""
        status = self._look(0)
        assert status is not None
        return status

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)

    def _look(self, how: int) -> int | None:
        if self.returncode is None:
            found, status = os.waitpid(self.pid, how)
            if found:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


def main() -> None:
    """Load, and fork until the test process is gone."""
    for name in LOADED:
        import_module(name)
    # Collectors of forks need not look at what was loaded, and so need not copy it.
    gc.collect()
    gc.freeze()
    task = serve(socket.socket(fileno=int(sys.argv[1])))
    if task is not None:
        play(task)


if __name__ == "__main__":
    main()
