"""The image without an engine to build it: its Dockerfile, its entry point, its kernels' folder.

Cannot catch: a base image that is gone, a library that it lacks.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
#: Instructions of each stage, continued lines joined and comments left out.
LINES = re.sub(r"\\\n\s*", " ", re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE)).splitlines()
STAGES = re.split(r"^FROM ", "\n".join(LINES), flags=re.MULTILINE)[1:]


def hadolint(file: Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert program is not None, "hadolint comes with requirements/dev.txt"
    return subprocess.run(
        [program, "--failure-threshold", "style", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_hadolint_has_nothing_to_say():
    done = hadolint(ROOT / "Dockerfile")
    assert (done.returncode, done.stdout) == (0, ""), done.stdout


def test_hadolint_would_say_something(tmp_path):
    wrong = tmp_path / "Dockerfile"
    wrong.write_text("FROM python:latest\nRUN apt-get install tini\n")
    done = hadolint(wrong)
    assert done.returncode == 1
    assert {"DL3007", "DL3008"} <= set(re.findall(r"DL\d+", done.stdout))


def test_an_image_of_ones_own_is_made_as_the_document_says(tmp_path):
    """Its base is ours, what it copies goes to where module:flow is looked for."""
    document = (ROOT / "docs" / "DEPLOYING.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```dockerfile\n(.*?)^```", document, re.MULTILINE | re.DOTALL)
    own = tmp_path / "Dockerfile"
    own.write_text(block, encoding="utf-8")
    done = hadolint(own)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout
    first, *copied = block.splitlines()
    assert first == f"FROM megaphone-kafka:{VERSION}"
    (folder,) = re.findall(r"^WORKDIR (\S+)", STAGES[-1], re.MULTILINE)
    targets = [line.split() for line in copied]
    assert targets == [
        ["COPY", "my_flows.py", f"{folder}/"],
        ["COPY", "schemas", f"{folder}/schemas/"],
    ]
    # What compose and Kubernetes are then told names just these.
    named = (ROOT / ".env").read_text(encoding="utf-8")
    assert "TARGET=my_flows:flow\n" in named
    assert f"REGISTRY={folder}/schemas\n" in named


def test_both_stages_begin_with_one_pinned_slim_image():
    images = re.findall(r"^FROM (\S+)", "\n".join(LINES), re.MULTILINE)
    assert len(images) == 2
    assert len(set(images)) == 1
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-bookworm", images[0])
    assert f'base.name="{images[0]}"' in TEXT


def test_the_last_stage_has_no_compiler_and_no_installer():
    last = STAGES[-1]
    installed = re.findall(r"apt-get install --yes --no-install-recommends (.*?) +&&", last)
    assert installed == ["tini=0.19.0-*"]
    assert "pip uninstall --yes pip setuptools wheel" in last
    assert "pip install" not in last


def test_dependencies_are_the_locked_ones_and_nothing_is_built():
    assert "--require-hashes --only-binary :all: --requirement requirements.txt" in STAGES[0]
    assert "COPY requirements/runtime.txt requirements.txt" in STAGES[0]


def test_it_runs_as_nobody_in_particular_and_says_how_it_is():
    last = STAGES[-1].splitlines()
    assert "USER 10001:10001" in last
    users = [line for line in last if line.startswith("USER")]
    assert len(users) == 1
    assert last.index("USER 10001:10001") < last.index(
        'ENTRYPOINT ["tini", "--", "/opt/megaphone/bin/entrypoint"]'
    )
    assert any(
        line.startswith("HEALTHCHECK") and '["python", "-m", "service.healthcheck"]' in line
        for line in last
    )


def test_the_version_is_the_projects():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    labels = dict(re.findall(r'org\.opencontainers\.image\.([\w.]+)="([^"]*)"', TEXT))
    assert labels["version"] == project["version"]
    assert f"ARG VERSION={project['version']}\n" in TEXT
    assert labels["licenses"] == project["license"]
    assert {"title", "description", "base.name"} <= set(labels)


def test_both_stages_look_for_kernels_in_the_same_places_for_the_same_processor():
    named = [dict(re.findall(r"((?:NUMBA|MEGAPHONE_CACHE)_?\w+)=(\S*)", stage)) for stage in STAGES]
    assert named[0] == named[1]
    assert set(named[0]) == {
        *("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_CACHE_DIR", "MEGAPHONE_CACHE_DIR")
    }


def test_everything_that_is_copied_is_let_through():
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    copied = set(re.findall(r"^COPY (?!--)(\S+)", "\n".join(LINES), re.MULTILINE))
    assert ignored[1] == "*"
    assert copied == allowed
    assert all((ROOT / each).exists() for each in copied)


# The entry point --------------------------------------------------------------------------------

KERNEL = """
import sys
import numba
@numba.njit(cache=True)
def twice(x):
    return x + x
of = float if "." in sys.argv[1] else int
print(twice(of(sys.argv[1])))
"""


@pytest.fixture
def environment(tmp_path):
    """As the image sets it, in a folder of its own."""
    (tmp_path / "kernels").mkdir()
    return {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "KERNELS": str(tmp_path / "kernels"),
        "NUMBA_CACHE_DIR": str(tmp_path / "cache" / "numba"),
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_CPU_FEATURES": "",
        "NUMBA_DEBUG_CACHE": "1",
        "HOME": str(tmp_path),
    }


def run(environment, *command):
    """Run it; what it printed."""
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


ENTRY = str(ROOT / "deploy" / "image" / "entrypoint")
LOADED, SAVED = "data loaded from", "data saved to"


def test_kernels_of_the_image_are_found_and_new_ones_are_kept_beside_it(environment, tmp_path):
    (tmp_path / "kernel.py").write_text(KERNEL)
    program = [sys.executable, str(tmp_path / "kernel.py")]
    # As the build does: compiled under the path they will have, then moved away.
    assert SAVED in run(environment, *program, "21")
    (tmp_path / "kernels").rmdir()
    (tmp_path / "cache").rename(tmp_path / "kernels")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "kernels").rglob("*")}
    assert len(before) == 4
    found = run(environment, ENTRY, *program, "21")
    assert (LOADED in found, SAVED in found, found.split()[-1]) == (True, False, "42")
    # Of another type it is compiled once more, and found at the next start.
    assert SAVED in run(environment, ENTRY, *program, "0.5")
    found = run(environment, ENTRY, *program, "0.5")
    assert (LOADED in found, SAVED in found, found.split()[-1]) == (True, False, "1.0")
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "kernels").rglob("*")}


def test_a_command_is_replaced_into_and_its_status_is_kept(environment):
    done = subprocess.run([ENTRY, "sh", "-c", "exit 7"], env=environment, check=False)
    assert done.returncode == 7


@pytest.mark.parametrize("name", ["megaphone", "nexmark-loadgen"])
def test_the_commands_of_the_image_are_those_of_the_package(name):
    module = {"megaphone": "service", "nexmark-loadgen": "loadgen"}[name]
    script = ROOT / "deploy" / "image" / name
    assert script.read_text() == f'#!/bin/sh\nexec python -m {module} "$@"\n'
    assert os.access(script, os.X_OK)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    begins, _, function = project["scripts"][name].partition(":")
    assert f"from {begins} import {function}" in (ROOT / module / "__main__.py").read_text()
