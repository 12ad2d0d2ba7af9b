"""Examples in docstrings are run: they are the first lines a user copies."""

from __future__ import annotations

import doctest
from types import ModuleType

import pytest

import megaphone
from service.dataflow import flow, row_operations


@pytest.mark.parametrize(
    "module", [megaphone, flow, row_operations], ids=lambda module: module.__name__
)
def test_the_examples_of_a_module_run_as_printed(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted >= 6
    assert result.failed == 0
