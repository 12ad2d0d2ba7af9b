"""Knobs: where they come from, which one wins, and what a wrong one is told."""

from __future__ import annotations

import json
import os
import re
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
from pydantic import ValidationError

from service import config
from service.config import knob_names, knobs_of, load_config
from service.config_layers import Origin, of_environment, of_file, variable_of
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
        ("MEGAPHONE_GATEWAY__BUSY_TICK_MS", "1", "busy_tick_ms must not be below"),
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


def written(folder: Path, text: str) -> Path:
    file = folder / "knobs.toml"
    file.write_text(text)
    return file


def test_each_layer_wins_over_those_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path, "[gateway]\ntick_ms = 4\nidle_tick_ms = 40\npoll_records = 400\n")
    monkeypatch.setenv("MEGAPHONE_GATEWAY__IDLE_TICK_MS", "41")
    monkeypatch.setenv("MEGAPHONE_GATEWAY__POLL_RECORDS", "401")
    found = load_config(
        file,
        ["gateway.poll_records=402", "gateway.prefetch_kb=2000", "gateway.prefetch_kb=2002"],
        {"worker.state_memory_bytes": 1 << 30, "worker.linger_ms": None},
    )
    assert found.gateway.model_dump() == {
        "tick_ms": 4,
        "busy_tick_ms": 25,
        "idle_tick_ms": 41,
        "poll_records": 402,
        "prefetch_kb": 2002,
    }
    assert found.worker.state_memory_bytes == 1 << 30
    assert found.worker.linger_ms == 2


def test_the_environment_may_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEGAPHONE_CONFIG", str(written(tmp_path, "[http]\nport = 7000\n")))
    assert load_config().http.port == 7000
    other = tmp_path / "other.toml"
    other.write_text("[http]\nport = 8000\n")
    assert load_config(other).http.port == 8000


def test_every_knob_in_force_says_who_said_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path, "[http]\nport = 7000\n")
    monkeypatch.setenv("MEGAPHONE_GATEWAY__TICK_MS", "2.5")
    knobs = {knob.name: knob for knob in knobs_of(file, ["http.host=::1"])}
    assert list(knobs) == knob_names()
    said = {
        name: (knob.value, knob.default, knob.origin, knob.place)
        for name, knob in knobs.items()
        if knob.origin is not Origin.DEFAULT
    }
    assert said == {
        "gateway.tick_ms": (2.5, 5.0, Origin.ENVIRONMENT, "MEGAPHONE_GATEWAY__TICK_MS"),
        "http.host": ("::1", "127.0.0.1", Origin.COMMAND_LINE, "--set http.host"),
        "http.port": (7000, 0, Origin.FILE, str(file)),
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[gateway]\ntock_ms = 1", r"gateway\.tock_ms is no knob; did you mean gateway\.tick_ms\?"),
        ("[worker]\ntick_ms = 1", r"worker\.tick_ms is no knob; did you mean gateway\.tick_ms\?"),
        ("[gatewy]\ntick_ms = 1", r"\[gatewy\] is no section of knobs; did you mean gateway\?"),
        ("tick_ms = 1", r"tick_ms is no knob; did you mean gateway\.tick_ms\?"),
        ("gateway = 1", r"write \[gateway\] above its knobs"),
        ("[gateway\ntick_ms = 1", "is not TOML"),
        ("[gateway]\ntick_ms = 'soon'", r"gateway\.tick_ms: .*number.*said by .*knobs\.toml"),
        ("[zzz]\nqqq = 1", r"\[zzz\] is no section of knobs \(see"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong_and_what_is_near(
    text: str, said: str, tmp_path: Path
) -> None:
    file = written(tmp_path, text)
    with pytest.raises(UsageError, match=said) as caught:
        load_config(file)
    assert str(file) in str(caught.value)


def test_a_file_that_is_not_there_says_what_names_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file.*--config and MEGAPHONE_CONFIG"):
        load_config(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("gateway.tick_ms", "says no value; write --set gateway.tick_ms=5"),
        ("gateway.tik_ms=5", "did you mean gateway.tick_ms"),
        ("gateway.tick_ms=soon", r"gateway\.tick_ms: .*said by --set gateway\.tick_ms"),
        ("http.host=[1", "is no list or table as JSON or TOML writes it"),
    ],
)
def test_a_wrong_setting_is_named(setting: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load_config(settings=[setting])


def test_a_variable_that_lacks_an_underscore_is_told_and_an_address_of_kubernetes_is_not() -> None:
    known = knob_names()
    with pytest.raises(UsageError, match="it is MEGAPHONE_GATEWAY__TICK_MS, with two underscores"):
        of_environment({"MEGAPHONE_GATEWAY_TICK_MS": "5"}, known)
    assert of_environment({"MEGAPHONE_HTTP_PORT": "tcp://10.0.0.7:80"}, known) == {}
    with pytest.raises(UsageError, match="names no section of knobs; did you mean GATEWAY"):
        of_environment({"MEGAPHONE_GATEWY__TICK_MS": "5"}, known)


@pytest.mark.parametrize("knob", knob_names())
def test_every_knob_can_be_said_by_its_variable_and_by_a_file(knob: str, tmp_path: Path) -> None:
    default = {each.name: each.default for each in knobs_of()}[knob]
    (said,) = of_environment({variable_of(knob): str(default)}, knob_names()).items()
    assert said[0] == knob
    section, _, name = knob.partition(".")
    file = written(tmp_path, f"[{section}]\n{name} = {json.dumps(default)}\n")
    assert {name: each.value for name, each in of_file(file, knob_names()).items()} == {
        knob: default
    }


def test_a_secret_is_masked_where_knobs_are_shown() -> None:
    for said in (
        'kafka.properties={"sasl.username" = "me", "sasl.password" = "hush"}',
        'kafka.properties={"sasl.username": "me", "sasl.password": "hush"}',
    ):
        shown = {knob.name: knob for knob in knobs_of(settings=[said])}
        assert [name for name, knob in shown.items() if knob.secret] == ["kafka.properties"]
        assert "me" in repr(shown["kafka.properties"])
        assert "hush" not in repr(shown["kafka.properties"])


def test_variables_of_other_programs_are_none_of_our_business(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MEGAPHONE_SIM_SEEDS", "3")
    monkeypatch.setenv("GATEWAY__TICK_MS", "nonsense")
    assert load_config().gateway.tick_ms == 5
