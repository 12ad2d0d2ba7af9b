"""What must not be in the tree at all."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.tidy.source import Module, imports, product, suite, tracked_texts

NO_MODULES: frozenset[str] = frozenset()
EXECUTABLE_FORMATS = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}

# Everything else is given its times and its random numbers, so that a simulation can choose them.
CLOCKS = {
    "service/clock.py",
    "loadgen/clock.py",
    "service/launcher.py",  # waits for processes to end
    "demo/readback.py",  # gives up on a topic that has gone silent
}

# Spelt in pieces, so that this file does not hold what it forbids.
REGISTRY_HOSTS = [
    "py" + "pi.org",
    "files.python" + "hosted.org",
    "repo.maven" + ".apache.org",
    "repo1.maven" + ".org",
    "registry.npm" + "js.org",
    "proxy.go" + "lang.org",
    "crates" + ".io",
    "deb.deb" + "ian.org",
]
WORKPLACE = re.compile(r"(?<![\w.~-])/" + "(?:work|farm|root)/")


def _imported(module: Module) -> Iterator[tuple[str, str]]:
    for line, name in imports(module, NO_MODULES):
        yield f"{module.where}:{line}", name


def _importers(modules: tuple[Module, ...], banned: set[str]) -> list[str]:
    return [
        f"{where}: {name}"
        for module in modules
        for where, name in _imported(module)
        if name in banned or name.partition(".")[0] in banned
    ]


def test_no_format_that_runs_code_when_read():
    assert _importers((*product(), *suite()), EXECUTABLE_FORMATS) == []


def test_no_mocks():
    wrong = [
        f"{where}: {name}"
        for module in (*product(), *suite())
        for where, name in _imported(module)
        if name == "mock" or name.startswith("unittest.mock") or name == "pytest_mock"
    ]
    assert wrong == []


def test_only_the_clock_files_read_clocks():
    others = tuple(module for module in product() if module.where not in CLOCKS)
    assert _importers(others, {"time"}) == []


def test_no_file_draws_random_numbers_of_its_own():
    """NumPy's generators, seeded by whoever constructs the load, are what loads are made of."""
    assert _importers(product(), {"random"}) == []


def test_no_test_sleeps():
    sleeping = [
        f"{module.where}:{node.lineno}"
        for module in suite()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and node.attr == "sleep"
    ] + [
        f"{module.where}:{node.lineno}"
        for module in suite()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ImportFrom)
        and node.module in {"time", "asyncio"}
        and any(alias.name == "sleep" for alias in node.names)
    ]
    assert sleeping == []


def test_no_test_skips_or_is_expected_to_fail():
    skipping = [
        f"{module.where}:{node.lineno}: {node.attr}"
        for module in suite()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute)
        and node.attr in {"skip", "skipif", "importorskip", "xfail", "flaky"}
    ]
    assert skipping == []


def test_no_file_names_a_package_registry():
    named = [
        f"{where}: {host}"
        for where, text in tracked_texts().items()
        for host in REGISTRY_HOSTS
        if host in text
    ]
    assert named == []


def test_no_file_names_a_folder_of_one_machine():
    named = [
        f"{where}: {found[0]}"
        for where, text in tracked_texts().items()
        if (found := WORKPLACE.search(text))
    ]
    assert named == []
