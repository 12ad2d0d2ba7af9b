"""The locks hold what pyproject.toml asks for, pinned, hashed, and from nowhere in particular."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.tidy.source import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCKS = {
    "runtime.txt": PROJECT["dependencies"],
    "dev.txt": [
        *PROJECT["dependencies"],
        *PROJECT["optional-dependencies"]["demo"],
        *PROJECT["optional-dependencies"]["dev"],
    ],
}
#: What benchmarks are run beside, each in an environment of its own.
PEERS = ["peers/bytewax.txt", "peers/quixstreams.txt"]
PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)==\S+ \\$", re.MULTILINE)


def _text(lock: str) -> str:
    return (ROOT / "requirements" / lock).read_text(encoding="utf-8")


@pytest.mark.parametrize("lock", LOCKS)
def test_each_requirement_of_the_project_is_pinned(lock):
    asked = {re.split(r"[<>=!~ \[;]", line, maxsplit=1)[0].lower() for line in LOCKS[lock]}
    assert asked <= set(PIN.findall(_text(lock)))


@pytest.mark.parametrize("lock", [*LOCKS, *PEERS])
def test_each_pin_has_a_hash_and_no_line_names_a_place(lock):
    blocks = PIN.split(_text(lock))[1:]
    names, rest = blocks[::2], blocks[1::2]
    assert [
        name for name, text in zip(names, rest, strict=True) if "--hash=sha256:" not in text
    ] == []
    assert re.findall(r"://|--index|--find-links|^-[ef] ", _text(lock), re.MULTILINE) == []


def test_both_locks_agree():
    pins = [set(re.findall(r"^\S+==\S+", _text(lock), re.MULTILINE)) for lock in LOCKS]
    assert pins[0] <= pins[1]
