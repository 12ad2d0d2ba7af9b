"""Finding Java and filling the cache of jars, with small programs in the place of the real ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.broker.jars import cache_folder, find_java, java_version, resolve_jars
from service.broker.kinds import KindMissing


def _program(folder: Path, name: str, script: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def _environment(tmp_path: Path) -> dict[str, str]:
    return {"PATH": f"{tmp_path / 'bin'}:/bin:/usr/bin", "XDG_CACHE_HOME": str(tmp_path / "cache")}


MAVEN_THAT_COUNTS = """
for argument; do case "$argument" in -DoutputDirectory=*) folder=${argument#*=};; esac; done
mkdir -p "$folder" && touch "$folder/kafka_2.13-4.1.1.jar"
echo run >> "$COUNT"
"""


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('openjdk version "21" 2023-09-19', 21),
        ('java version "1.8.0_401"', 8),
        ("The operation couldn't be completed. Unable to locate a Java Runtime.", None),
    ],
)
def test_the_feature_release_is_read_from_what_java_says(text, version):
    assert java_version(text) == version


def test_java_home_goes_before_the_path(tmp_path):
    says = "echo 'openjdk version \"17.0.1\"' >&2"
    _program(tmp_path / "bin", "java", says)
    home = _program(tmp_path / "home" / "bin", "java", says)
    assert find_java(_environment(tmp_path)) == str(tmp_path / "bin" / "java")
    assert find_java({**_environment(tmp_path), "JAVA_HOME": str(tmp_path / "home")}) == str(home)


def test_an_old_java_is_no_java(tmp_path):
    _program(tmp_path / "bin", "java", "echo 'openjdk version \"11.0.2\"' >&2")
    with pytest.raises(KindMissing, match="version 11, not 17 or newer"):
        find_java(_environment(tmp_path))


def test_no_java_says_so(tmp_path):
    with pytest.raises(KindMissing, match="no java on PATH"):
        find_java({"PATH": str(tmp_path)})


def test_maven_is_run_once_and_never_again(tmp_path):
    count = tmp_path / "count"
    environment = {**_environment(tmp_path), "COUNT": str(count)}
    _program(tmp_path / "bin", "mvn", MAVEN_THAT_COUNTS)
    first = resolve_jars(environment)
    assert first == cache_folder(environment)
    assert [path.name for path in first.iterdir()] == ["kafka_2.13-4.1.1.jar"]
    assert resolve_jars({**environment, "PATH": "/nowhere"}) == first
    assert count.read_text() == "run\n"
    assert [path.name for path in first.parent.iterdir()] == [first.name]


def test_a_maven_that_fails_leaves_no_folder_and_its_first_line_is_told(tmp_path):
    environment = _environment(tmp_path)
    _program(tmp_path / "bin", "mvn", "echo '[ERROR] no network'; echo more; exit 1")
    with pytest.raises(KindMissing, match=r"Maven failed: \[ERROR\] no network"):
        resolve_jars(environment)
    assert list(cache_folder(environment).parent.iterdir()) == []


def test_a_maven_that_brings_nothing_has_failed(tmp_path):
    _program(tmp_path / "bin", "mvn", "exit 0")
    with pytest.raises(KindMissing, match="it printed nothing"):
        resolve_jars(_environment(tmp_path))


def test_another_resolver_that_was_faster_is_no_error(tmp_path):
    environment = _environment(tmp_path)
    folder = cache_folder(environment)
    faster = f'mkdir -p "{folder}" && touch "{folder}/kafka_first.jar"'
    _program(tmp_path / "bin", "mvn", MAVEN_THAT_COUNTS + faster)
    assert resolve_jars({**environment, "COUNT": "/dev/null"}) == folder
    assert [path.name for path in folder.iterdir()] == ["kafka_first.jar"]
