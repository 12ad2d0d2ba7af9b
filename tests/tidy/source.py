"""The project's own text, read once: modules with their syntax trees, and every tracked file."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("service", "loadgen", "megaphone", "demo", "dashboards")


@dataclass(frozen=True)
class Module:
    """One Python file: dotted name, path, text and syntax tree."""

    name: str
    path: Path
    text: str
    tree: ast.Module

    @property
    def where(self) -> str:
        """Path from the root, for messages."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def is_package(self) -> bool:
        """Whether it is an `__init__.py`."""
        return self.path.name == "__init__.py"


@cache
def product() -> tuple[Module, ...]:
    """All modules that a user installs."""
    return tuple(module for package in PACKAGES for module in _read(package))


@cache
def suite() -> tuple[Module, ...]:
    """All modules of the tests."""
    return tuple(_read("tests"))


def _read(folder: str) -> Iterator[Module]:
    for path in sorted((ROOT / folder).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = path.read_text(encoding="utf-8")
        yield Module(name, path, text, ast.parse(text, str(path)))


@cache
def tracked_texts() -> dict[str, str]:
    """Text of every file that git tracks or would, by path from the root; binary files left out."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    texts = {}
    for where in filter(None, listed.split("\0")):
        path = ROOT / where
        if not path.is_file():
            continue  # deleted in the work tree, still in the index
        try:
            texts[where] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
    return texts


def imports(module: Module, known: frozenset[str]) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import, wherever it stands: in functions, under TYPE_CHECKING.

    `from a.b import c` is an import of `a.b.c` if that is a module (one of `known`), else of `a.b`.
    """
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module.where}:{node.lineno}: relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield node.lineno, whole if whole in known else str(node.module)
