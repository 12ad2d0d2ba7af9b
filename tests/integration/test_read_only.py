"""A job as an image runs it: nothing can be written but what is declared, nothing is compiled.

The kernels are those that the command of the Dockerfile makes, moved away as the Dockerfile moves
them, linked by the image's own entry point, and read-only. Cannot catch: kernels of another
processor, and a library that keeps machine code elsewhere than numba does.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from numba.core.caching import UserProvidedCacheLocator

from service.avro.kernel_cache import cache_folder
from tests.integration.bids import publish, topics
from tests.integration.command import ROOT, query
from tests.integration.job import read_topic
from tests.integration.read_only import alone, mounts_now

EVENTS = 2_000
MODULE = [sys.executable, "-m", "tests.integration.read_only"]
DATA = re.compile(r"^\[cache\] data (loaded from|saved to) '(.+)'$", re.MULTILINE)
LOADED, SAVED = "loaded from", "saved to"
_WAIT_S = 120.0


def run(command, environment=None, status=0):
    """Run it to its end; what it printed on standard output and on standard error."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=variables,
        capture_output=True,
        text=True,
        timeout=_WAIT_S,
        check=False,
    )
    assert done.returncode == status, done.stdout[-4_000:] + done.stderr[-4_000:]
    return done.stdout, done.stderr


def warmed(image, there):
    """Fill `image` with what warming leaves in empty folders that are then moved from `there`.

    What it touches on a machine that has it already is made anew by it in empty folders, without
    the minute that this takes; what is only part of other machine code is left out here.
    """
    (line,) = re.findall(r"-m service\.warming", (ROOT / "Dockerfile").read_text())
    printed, _ = run([sys.executable, *line.split()], {"NUMBA_DEBUG_CACHE": "1"})
    touched = {Path(path) for _, path in DATA.findall(printed)}
    generated = cache_folder().absolute()
    (image / "generated").mkdir(parents=True)
    for source in generated.glob("*.py"):
        shutil.copy2(source, image / "generated")
    for data in touched:
        folder = data.parent.parent  # of the source; its machine code is in __pycache__ there
        own = there / "generated" if folder == generated else folder
        name = UserProvidedCacheLocator.get_suitable_cache_subpath(str(own / "source.py"))
        to = image / "numba" / name
        to.mkdir(parents=True, exist_ok=True)
        shutil.copy2(data, to)
        index = re.sub(r"\.\d+\.nbc$", ".nbi", data.name)
        shutil.copy2(data.with_name(index), to)
    return len(touched)


@pytest.fixture
def folders(tmp_path):
    """The image's kernels, its /tmp, and the volume of the state."""
    found = {name: tmp_path / name for name in ("kernels", "tmp", "state")}
    for name in ("tmp", "state"):
        found[name].mkdir()
    return found


def test_a_job_writes_only_where_it_may_and_compiles_nothing(
    bootstrap_servers, app_name, unique_name, folders
):
    writable = [folders["tmp"], folders["state"]]
    assert warmed(folders["kernels"], folders["tmp"] / "kernels") > 100
    names = topics(bootstrap_servers, unique_name("t"))
    publish(bootstrap_servers, names[0], EVENTS)
    command = [*alone(), *MODULE, *map(str, writable), "--"]
    command += [str(ROOT / "deploy" / "image" / "entrypoint"), sys.executable, "-m", "service"]
    command += ["run", "nexmark:auction_bids", *query(names), "--app", app_name, "--until-end"]
    command += ["--bootstrap-servers", bootstrap_servers, "--workers", "1", "--gateways", "1"]
    command += ["--state-dir", str(folders["state"])]
    printed, _ = run(
        command,
        {
            **mounts_now(),
            "TMPDIR": str(folders["tmp"]),
            "KERNELS": str(folders["kernels"]),
            "NUMBA_CACHE_DIR": str(folders["tmp"] / "kernels" / "numba"),
            "MEGAPHONE_CACHE_DIR": str(folders["tmp"] / "kernels" / "generated"),
            "NUMBA_DEBUG_CACHE": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
    )
    found = DATA.findall(printed)
    assert [path for what, path in found if what == SAVED] == []
    # Those of three processes and the one that starts them.
    assert len([path for what, path in found if what == LOADED]) > 100
    assert len(read_topic(bootstrap_servers, names[1])) > 0
    assert [*folders["state"].iterdir()]


@pytest.mark.parametrize("where", ["repository", "home", "beside"])
def test_what_is_not_declared_cannot_be_written(folders, where):
    path = {"repository": ROOT, "home": Path.home(), "beside": folders["tmp"].parent}[where] / "new"
    command = [*alone(), *MODULE, str(folders["tmp"]), "--", "touch", str(path)]
    _, said = run(command, mounts_now(), status=1)
    assert "Read-only file system" in said
    assert not path.exists()


def test_the_machine_itself_is_never_made_read_only(folders):
    """Without a namespace it does nothing."""
    _, said = run([*MODULE, str(folders["tmp"]), "--", "true"], mounts_now(), status=1)
    assert "not in a mount namespace of its own" in said
    assert Path("/proc/self/mountinfo").read_text().count(str(folders["tmp"])) == 0
