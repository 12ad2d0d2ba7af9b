"""Environments of other stream processors that benchmarks are run beside.

Flow: requirements/peers/NAME.txt -> [environment] -> .venv-peers/NAME -> its interpreter.

Invariants
  PE1  A peer's packages never meet ours: it has an environment of its own, from its own lock, with
       hashes, and where packages come from is what this machine's pip is set up for.
  PE2  An environment whose lock has changed is made anew.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from enum import StrEnum
from pathlib import Path

from service.errors import MegaphoneError, UsageError

_ROOT = Path(__file__).parents[2]
_STAMP = "lock.digest"
_SECONDS_MAX = 600.0


class Peer(StrEnum):
    """What there is to be measured beside in memory."""

    BYTEWAX = "bytewax"


class KafkaPeer(StrEnum):
    """What there is to be measured beside through Kafka."""

    QUIXSTREAMS = "quixstreams"


def environment(peer: Peer | KafkaPeer, root: Path = _ROOT) -> Path:
    """The interpreter of `peer`'s environment, which is made if it is not there (PE2).

    Raises:
        UsageError: this is no checkout of the project, so there is no lock.
        MegaphoneError: it could not be made; the message ends with what pip said.

    Cost: some seconds the first time.
    """
    lock = root / "requirements" / "peers" / f"{peer}.txt"
    if not lock.exists():
        raise UsageError(f"there is no {lock}; run --peer {peer} in a checkout of the project")
    digest = hashlib.blake2b(lock.read_bytes()).hexdigest()
    folder = root / ".venv-peers" / peer
    stamp, python = folder / _STAMP, folder / "bin" / "python"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == digest:
        return python
    _run(peer, [sys.executable, "-m", "venv", "--clear", str(folder)])
    install = ["install", "--quiet", "--disable-pip-version-check", "--require-hashes"]
    _run(peer, [str(python), "-m", "pip", *install, "--requirement", str(lock)])
    stamp.write_text(digest, encoding="utf-8")
    return python


def _run(peer: Peer | KafkaPeer, command: list[str]) -> None:
    """Run one step of making an environment; its output goes nowhere unless it fails."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=_SECONDS_MAX
    )
    if done.returncode:
        last = (done.stderr or done.stdout).strip().rpartition("\n")[2]
        raise MegaphoneError(
            f"the environment of {peer} could not be made: {last}; it needs Python 3.11 or 3.12 "
            "and a package index that pip can reach"
        )
