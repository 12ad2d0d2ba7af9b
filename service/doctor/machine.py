"""What this machine must have: versions, room, limits, ports.

Flow: configuration, folders, ports -> [versions, folders, limits, ports] -> findings. Asks the
operating system; a file is written and removed where a folder must be writable, nothing else.
"""

from __future__ import annotations

import platform
import re
import resource
import shutil
import socket
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import confluent_kafka
import psutil

from service.avro.kernel_cache import FOLDER_VARIABLE, cache_folder
from service.doctor.finding import Finding, bad, good, unknown, warning
from service.status import size_text

PYTHON_LEAST = (3, 11)
#: The client whose behaviour the code relies on; what it does in older ones was not looked at.
LIBRDKAFKA_LEAST = (2, 0)
#: RocksDB, sockets and Kafka's clients take some hundreds.
OPEN_FILES_LEAST = 1_024
#: Below this a checkpoint of even a small job may not fit.
ROOM_LEAST = 256 << 20
#: Room that is left should be this part of the disk, or logs and checkpoints fill it unnoticed.
_ROOM_PART = 0.05
_DISTRIBUTION = "megaphone-kafka"
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*>=\s*([\d.]+)\s*(;.*)?")


def versions() -> Iterator[Finding]:
    """Interpreter, client library, and every package against what it was built on."""
    built = str(sysconfig.get_config_var("CONFIG_ARGS"))
    yield interpreter(sys.version_info[:3], "--enable-optimizations" in built)
    yield client(confluent_kafka.libversion()[0], version("confluent-kafka"))
    yield packages(_required, version)


def interpreter(number: tuple[int, ...], optimised: bool) -> Finding:
    """Hold Python's version, and how it was built, against what the service needs."""
    own = ".".join(map(str, number))
    if number < PYTHON_LEAST:
        needed = ".".join(map(str, PYTHON_LEAST))
        return bad("versions.python", f"Python {own}", f"install Python {needed} or newer")
    if not optimised:
        return warning(
            "versions.python",
            f"Python {own} was built without its optimisations; the same work takes up to twice "
            "the time",
            "use a distribution's Python, or build with PYTHON_CONFIGURE_OPTS="
            "'--enable-optimizations --with-lto'",
        )
    return good("versions.python", f"{platform.python_implementation()} {own}")


def client(library: str, binding: str) -> Finding:
    """Hold librdkafka's version against the oldest that was looked at."""
    says = f"librdkafka {library}, confluent-kafka {binding}"
    if _numbers(library) < LIBRDKAFKA_LEAST:
        return bad("versions.librdkafka", says, "upgrade confluent-kafka")
    return good("versions.librdkafka", says)


def _required() -> Sequence[str]:
    return requires(_DISTRIBUTION) or ()


def packages(asked: Callable[[], Sequence[str]], found: Callable[[str], str]) -> Finding:
    """Hold installed versions against lower bounds.

    Args:
        asked: requirements, such as `numpy>=2.4`.
        found: version of a package; PackageNotFoundError if it is not there.
    """
    name = "versions.packages"
    try:
        wanted = [each for each in map(_REQUIREMENT.fullmatch, asked()) if each is not None]
    except PackageNotFoundError:
        return unknown(name, f"{_DISTRIBUTION} is not installed; it runs from its source")
    wrong = []
    own = [each.group(1, 2) for each in wanted if each[3] is None]  # without those of extras
    if not own:
        return unknown(name, f"{_DISTRIBUTION} as installed here does not say what it needs")
    for package, least in own:
        try:
            have = found(package)
        except PackageNotFoundError:
            wrong.append(f"{package} is absent")
            continue
        if _numbers(have) < _numbers(least):
            wrong.append(f"{package} is {have}, below {least}")
    if wrong:
        return bad(name, "; ".join(wrong), "install requirements/runtime.txt")
    return good(name, f"{len(own)} packages are as new as they must be")


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(each) for each in re.findall(r"\d+", text)[:3])


def folders(state_dir: Path, app: str) -> Iterator[Finding]:
    """The folder of state: writable, with room for the next checkpoint; the folder of kernels."""
    folder = state_dir / app if app else state_dir
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    problem = _problem_of_writing(nearest)
    if problem is not None:
        yield bad(
            "disk.state",
            f"{folder}: {problem}",
            "give the job's user a folder that it may write, by --state-dir, or mount one there",
        )
    else:
        made = "" if nearest == folder else ", which will be made"
        yield good("disk.state", f"{folder} can be written{made}")
        usage = shutil.disk_usage(nearest)
        yield room(usage.free, usage.total, _newest_cuts(folder) if app else 0)
    kernels = cache_folder()
    there = next(path for path in (kernels, *kernels.absolute().parents) if path.exists())
    problem = _problem_of_writing(there)
    if problem is not None:
        yield warning(
            "disk.kernels",
            f"{kernels}: {problem}; kernels are compiled at each start, which takes seconds",
            f"name a writable folder in {FOLDER_VARIABLE}",
        )
    else:
        yield good("disk.kernels", f"{kernels}")


def _problem_of_writing(folder: Path) -> str | None:
    """Why a file cannot be made there; None: one was made, and removed."""
    if not folder.is_dir():
        return f"{folder} is no folder"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4096)
            file.flush()
    except OSError as error:
        return error.strerror or str(error)
    return None


def room(free: int, total: int, newest: int) -> Finding:
    """Whether a disk has room for another checkpoint like the newest of each slot; bytes."""
    says = f"{size_text(free)} free of {size_text(total)}"
    if newest:
        says += f", the newest checkpoint took {size_text(newest)}"
    mend = "make room, or name a folder on a larger disk by --state-dir"
    if free < max(ROOM_LEAST, newest):
        return bad("disk.room", says, mend)
    if free < max(2 * newest, _ROOM_PART * total):
        return warning("disk.room", says, mend)
    return good("disk.room", says)


def _newest_cuts(folder: Path) -> int:
    """Bytes of the newest checkpoint of each slot below an app's folder."""
    total = 0
    for slot in folder.glob("worker-*"):
        cuts = [cut for cut in slot.glob("cut-*") if cut.name.removeprefix("cut-").isdecimal()]
        if cuts:
            newest = max(cuts, key=lambda cut: int(cut.name.removeprefix("cut-")))
            total += sum(path.stat().st_size for path in newest.rglob("*") if path.is_file())
    return total


def limits(workers: int, state_memory_bytes: int, held_bytes: int) -> Iterator[Finding]:
    """Open files and memory against what the processes of a job may take."""
    yield open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    total = psutil.virtual_memory().total
    asked = workers * (state_memory_bytes + held_bytes)
    says = f"{size_text(total)} of memory"
    if state_memory_bytes and asked > total:
        yield warning(
            "limits.memory",
            f"{says}; {workers} workers may take {size_text(asked)} for state and held rows",
            "lower --state-memory or worker.held_budget_bytes, or run fewer workers here",
        )
    else:
        bound = size_text(asked) if state_memory_bytes else "as much as the state needs"
        yield good("limits.memory", f"{says}; {workers} workers may take {bound}")


def memory_bytes(limit: int | None) -> int:
    """What this process may take: the machine's memory, or a control group's `limit` below it."""
    total: int = psutil.virtual_memory().total
    return total if limit is None else min(limit, total)


def open_files(most: int) -> Finding:
    """Hold the limit of open files of a process, or RLIM_INFINITY, against what one takes."""
    if most == resource.RLIM_INFINITY:
        return good("limits.open-files", "as many as a process wants")
    if most < OPEN_FILES_LEAST:
        return bad(
            "limits.open-files",
            f"{most} open files a process",
            f"raise the limit to {OPEN_FILES_LEAST} or more (ulimit -n, LimitNOFILE=)",
        )
    return good("limits.open-files", f"{most} a process")


def ports(host: str, first: int, count: int, taken_by: Mapping[str, str]) -> Finding:
    """Whether the ports of /metrics are free.

    Args:
        host: to bind to.
        first: the controller's; 0: free ones are taken.
        count: processes on this machine.
        taken_by: host:port -> slot of the job that says it answers there.
    """
    name = "ports.http"
    wanted = range(first, first + (count if first else 1))
    taken: list[str] = []
    unusable: list[str] = []
    for port in wanted:
        problem = _problem_of_binding(host, port)
        if problem is None:
            continue
        owner = taken_by.get(f"{host}:{port}")
        (taken if owner else unusable).append(f"{host}:{port}: {owner or problem}")
    if unusable:
        return bad(
            name,
            "; ".join(unusable),
            "end what listens there, choose another http.port (or --http-port), or 0 for free ones",
        )
    if taken:
        return good(name, f"in use by this job: {'; '.join(taken)}")
    return good(name, f"{host}:{first} and on" if first else f"free ones on {host}")


def _problem_of_binding(host: str, port: int) -> str | None:
    try:
        with socket.create_server((host, port)):
            return None
    except OSError as error:
        return error.strerror or str(error)


def all_of(*parts: Iterable[Finding]) -> list[Finding]:
    """The findings of several parts, in order."""
    return [finding for part in parts for finding in part]
