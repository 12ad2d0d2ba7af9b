"""Finds Java and the jars of Kafka, asking Maven for them once.

`pom.xml` beside this file pins every version. The jars lie in a cache folder named after the digest
of that file, so another pin is another folder, and a folder that exists is complete.

Invariants
  J1  A cache folder appears by one rename, complete or not at all; two resolvers may race.
  J2  With the folder there, Maven is neither needed nor run.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from service.broker.kinds import KindMissing
from service.broker.properties import KAFKA_VERSION

POM = Path(__file__).with_name("pom.xml")
JAVA_VERSION_MIN = 17
RESOLVE_SECONDS = 900.0

_log = logging.getLogger(__name__)


def find_java(environment: Mapping[str, str]) -> str:
    """Path of a Java runtime that Kafka 4 runs on: `JAVA_HOME` first, then `PATH`.

    Raises:
        KindMissing: no Java, or one older than 17.
    """
    search = environment.get("PATH", "")
    if home := environment.get("JAVA_HOME"):
        search = os.pathsep.join((str(Path(home) / "bin"), search))
    java = shutil.which("java", path=search)
    if java is None:
        raise KindMissing("no java on PATH")
    spoken = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    version = java_version(spoken.stderr + spoken.stdout)
    if version is None or version < JAVA_VERSION_MIN:
        found = "unknown" if version is None else version
        raise KindMissing(f"{java} is version {found}, not {JAVA_VERSION_MIN} or newer")
    return java


def java_version(text: str) -> int | None:
    """The feature release in what `java -version` prints; None if it names none."""
    match = re.search(r'version "(?:1\.)?(\d+)', text)
    return int(match[1]) if match else None


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Where the jars of this very `pom.xml` belong."""
    root = environment.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    digest = hashlib.sha256(POM.read_bytes()).hexdigest()[:16]
    return Path(root) / "megaphone" / f"kafka-{KAFKA_VERSION}-{digest}"


def resolve_jars(environment: Mapping[str, str]) -> Path:
    """The folder of Kafka's jars, filled by Maven if it is not there yet.

    Raises:
        KindMissing: the jars are not cached and Maven is missing or fails.
    """
    folder = cache_folder(environment)
    if folder.is_dir():
        return folder  # J2
    maven = shutil.which("mvn", path=environment.get("PATH", ""))
    if maven is None:
        raise KindMissing("no mvn on PATH")
    _log.info("fetching the jars of Kafka %s with Maven, once, into %s", KAFKA_VERSION, folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".resolving-") as scratch:
        filled = Path(scratch) / "jars"
        _run_maven(maven, filled, environment)
        try:
            filled.rename(folder)  # J1
        except OSError:
            if not folder.is_dir():  # else another process was first, with the same jars
                raise
    return folder


def _run_maven(maven: str, target: Path, environment: Mapping[str, str]) -> None:
    command = [
        maven,
        "--quiet",
        "--batch-mode",
        f"--file={POM}",
        "dependency:copy-dependencies",
        "-DincludeScope=runtime",
        f"-DoutputDirectory={target}",
    ]
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=RESOLVE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        raise KindMissing(f"Maven took longer than {RESOLVE_SECONDS:g} s") from late
    if done.returncode != 0 or not any(target.glob("kafka_*.jar")):
        lines = (done.stdout + done.stderr).strip().splitlines()
        raise KindMissing(f"Maven failed: {lines[0] if lines else 'it printed nothing'}")
