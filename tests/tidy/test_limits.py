"""Sizes that keep a file readable in a sitting, and docstrings that say what a file is."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.tidy.source import Module, product, suite

LINES_MAX = 420
TEST_LINES_MAX = 600
BODY_LINES_MAX = 70
BROAD = {"Exception", "BaseException"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def test_files_of_the_product_are_short():
    assert _longer(product(), LINES_MAX) == []


def test_files_of_the_tests_are_short():
    assert _longer(suite(), TEST_LINES_MAX) == []


def _longer(modules: tuple[Module, ...], limit: int) -> list[str]:
    lengths = {module.where: len(module.text.splitlines()) for module in modules}
    return [f"{where}: {lines} lines" for where, lines in lengths.items() if lines > limit]


@pytest.mark.parametrize("modules", [product, suite], ids=["product", "tests"])
def test_every_module_says_what_it_is(modules):
    silent = [
        module.where
        for module in modules()
        if module.text.strip() and not ast.get_docstring(module.tree)
    ]
    assert silent == []


def test_function_bodies_fit_a_screen():
    long = [
        f"{module.where}:{node.lineno}: {node.name} has {lines} lines"
        for module in product()
        for node in ast.walk(module.tree)
        if isinstance(node, Function) and (lines := _body_lines(node)) > BODY_LINES_MAX
    ]
    assert long == []


def _body_lines(node: Function) -> int:
    """Lines of the body from its first statement after the docstring to its last line."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (node.end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_a_broad_except_gives_its_reason_on_the_line():
    unexplained = [
        f"{module.where}:{handler.lineno}"
        for module in (*product(), *suite())
        for handler in _broad_handlers(module.tree)
        if "#" not in module.text.splitlines()[handler.lineno - 1]
    ]
    assert unexplained == []


def _broad_handlers(tree: ast.AST) -> Iterator[ast.ExceptHandler]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        if any(kind is None or (isinstance(kind, ast.Name) and kind.id in BROAD) for kind in kinds):
            yield node


def test_a_silenced_check_gives_its_reason_on_the_line():
    """After `# noqa: CODE` or `# type: ignore[code]` more words follow."""
    bare = [
        f"{module.where}:{number}: {line.strip()}"
        for module in (*product(), *suite())
        for number, line in enumerate(module.text.splitlines(), 1)
        if module.where != "tests/tidy/test_limits.py"
        for mark in ("# noqa", "# type: ignore")
        if mark in line and len(line.split(mark, 1)[1].split()) < (2 + (mark == "# noqa"))
    ]
    assert bare == []
