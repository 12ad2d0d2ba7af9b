"""Examples in docstrings are run: they are the first lines a user copies."""

from __future__ import annotations

import doctest
from types import ModuleType

import pytest

import megaphone
from service import (
    cli_options,
    config_layers,
    dead_letters,
    migrate_view,
    process_options,
    status,
)
from service.dataflow import flow, keyed, row_operations, timed_joins
from service.doctor import cluster_facts
from service.ingest import captured, files, lists, shape
from service.migration import matching, plan_file, rebalance
from service.standalone import run
from service.testing import cluster, script


@pytest.mark.parametrize(
    "module",
    [megaphone, flow, keyed, row_operations, timed_joins],
    ids=lambda module: module.__name__,
)
def test_the_examples_of_a_module_run_as_printed(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted >= 6
    assert result.failed == 0


@pytest.mark.parametrize(
    "module",
    [captured, cluster, files, lists, run, script, shape],
    ids=lambda module: module.__name__,
)
def test_the_example_of_a_class_or_function_runs_as_printed(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted >= 2
    assert result.failed == 0


@pytest.mark.parametrize(
    "module",
    [
        cli_options,
        cluster_facts,
        config_layers,
        dead_letters,
        matching,
        migrate_view,
        plan_file,
        process_options,
        rebalance,
        status,
    ],
    ids=lambda module: module.__name__,
)
def test_the_example_of_an_inner_function_runs_as_printed(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted >= 1
    assert result.failed == 0
