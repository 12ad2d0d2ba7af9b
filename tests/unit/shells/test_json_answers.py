"""What verbs without a broker answer with --output json, held against their contracts."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from service.cli import app
from tests.integration.job import contract


def answered(*arguments: str) -> object:
    result = CliRunner().invoke(app, [*arguments, "--output", "json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("graph", ["graph", "nexmark:q4"]),
        ("graph", ["graph", "examples.two_stages:flow"]),
        ("check-config", ["check-config"]),
        ("check-config", ["check-config", "--changed", "--set", "gateway.tick_ms=7"]),
    ],
)
def test_the_answer_is_the_contracts_document(name, arguments):
    contract(name).validate(answered(*arguments))
