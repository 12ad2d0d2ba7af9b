"""Knobs: where they come from, which one wins, and what a wrong one is told."""

from __future__ import annotations

import os
import re
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
from pydantic import ValidationError

from service import config
from service.config import load_config
from service.errors import UsageError

DEFAULTS = Path(config.__file__).with_name("default.toml")


@pytest.fixture(autouse=True)
def no_knobs_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in list(os.environ):
        if variable.startswith("MEGAPHONE_"):
            monkeypatch.delenv(variable)


def test_every_knob_stands_in_the_defaults_and_nothing_else_does() -> None:
    defaults = tomllib.loads(DEFAULTS.read_text())
    assert load_config().model_dump() == defaults


def test_every_knob_is_explained_above_its_line() -> None:
    lines = DEFAULTS.read_text().splitlines()
    bare = [
        line
        for above, line in pairwise(lines)
        if re.match(r"\w+ = ", line) and not above.startswith("#") and not re.match(r"\w+ =", above)
    ]
    assert bare == []


def test_the_environment_wins_over_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEGAPHONE_GATEWAY__TICK_MS", "2.5")
    monkeypatch.setenv("MEGAPHONE_WORKER__LINGER_MS", "0")
    loaded = load_config()
    assert loaded.gateway.tick_ms == 2.5
    assert loaded.worker.linger_ms == 0
    assert loaded.gateway.idle_tick_ms == 50


def test_nothing_can_be_changed_afterwards() -> None:
    loaded = load_config()
    with pytest.raises(ValidationError):
        loaded.gateway.tick_ms = 1
    with pytest.raises(ValidationError):
        loaded.gateway = loaded.gateway


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        ("MEGAPHONE_GATEWAY__TICK_MS", "soon", r"gateway\.tick_ms: .*number"),
        ("MEGAPHONE_GATEWAY__TICK_MS", "0", r"gateway\.tick_ms: .*greater than 0"),
        ("MEGAPHONE_GATEWAY__TOCK_MS", "1", r"gateway\.tock_ms"),
        ("MEGAPHONE_GATEWY__TICK_MS", "1", "MEGAPHONE_GATEWY__TICK_MS names no section"),
        ("MEGAPHONE_HTTP__PORT", "65536", r"http\.port"),
        ("MEGAPHONE_GATEWAY__IDLE_TICK_MS", "1", "idle_tick_ms must not be below"),
        ("MEGAPHONE_CONTROL__PLAN_LOOKAHEAD_MS", "2000", "must not exceed control.lookahead_ms"),
        ("MEGAPHONE_CONTROL__PROMISE_EVERY_MS", "150", "at most half of plan_lookahead_ms"),
    ],
)
def test_a_wrong_knob_is_named_and_where_to_read_about_it(
    variable: str, value: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=text) as caught:
        load_config()
    assert "see service/default.toml" in str(caught.value)


def test_variables_of_other_programs_are_none_of_our_business(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MEGAPHONE_SIM_SEEDS", "3")
    monkeypatch.setenv("GATEWAY__TICK_MS", "nonsense")
    assert load_config().gateway.tick_ms == 3
