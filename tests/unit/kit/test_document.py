"""Every block of docs/TESTING_FLOWS.md runs, in order, and every test in it passes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parents[3] / "docs" / "TESTING_FLOWS.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall(DOCUMENT.read_text("utf-8"))
NAMES: dict[str, object] = {}
for block in BLOCKS:
    exec(compile(block, DOCUMENT.name, "exec"), NAMES)
TESTS = [name for name in NAMES if name.startswith("test_")]


def test_the_document_shows_tests_in_every_block_but_the_flow() -> None:
    assert len(BLOCKS) == 9
    assert [number for number, block in enumerate(BLOCKS) if "def test_" not in block] == [0]
    assert len(TESTS) == 9


@pytest.mark.parametrize("name", TESTS)
def test_a_test_of_the_document_passes(name: str) -> None:
    test = NAMES[name]
    assert isinstance(test, Callable)  # type: ignore[arg-type]  # of any signature
    test()
