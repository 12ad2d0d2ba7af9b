"""`megaphone keys`: what it writes, what it prints, and that the two are never mixed up."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from service.cli import app
from service.config import LinksConfig
from service.dataflow.transport.curve import CurveLinks
from service.dataflow.transport.keys import read_allowed, read_secret
from service.dataflow.transport.security import LoopbackOnly, TrustedNetwork
from service.errors import UsageError
from service.links import security_of
from service.log import Log


def invoke(*arguments):
    return CliRunner().invoke(app, ["keys", *map(str, arguments)])


def test_a_new_key_and_its_line_let_a_slot_in(tmp_path):
    path = tmp_path / "worker-0.key"
    made = invoke("new", path, "--slots", "worker-0,gateway-*")
    assert made.exit_code == 0, made.output
    pair = read_secret(path)
    assert made.stdout == f"{pair.public} gateway-*,worker-0\n"
    assert pair.secret.hex() not in made.output
    (tmp_path / "allowed").write_text(made.stdout)
    allowed = read_allowed(tmp_path / "allowed")
    assert allowed.allows(pair.public, "worker-0")
    assert not allowed.allows(pair.public, "worker-1")
    shown = invoke("show", path, "--slots", "worker-0,gateway-*")
    assert shown.stdout == made.stdout


def test_json_has_key_and_slots(tmp_path):
    made = invoke("new", tmp_path / "key", "--output", "json")
    pair = read_secret(tmp_path / "key")
    assert json.loads(made.stdout) == {"key": pair.public, "slots": ["*"]}
    shown = invoke("show", tmp_path / "key", "--slots", "worker-0", "--output", "json")
    assert json.loads(shown.stdout) == {"key": pair.public, "slots": ["worker-0"]}


def test_what_cannot_be_a_key_is_refused_and_nothing_is_written(tmp_path):
    path = tmp_path / "key"
    wrong = invoke("new", path, "--slots", "everybody")
    assert isinstance(wrong.exception, UsageError)
    assert not path.exists()
    path.write_text("mine")
    taken = invoke("new", path)
    assert isinstance(taken.exception, UsageError)
    assert path.read_text() == "mine"
    assert isinstance(invoke("show", path).exception, UsageError)


def knobs(**values):
    given = {"address": "tcp://127.0.0.1:*", "advertise": "", "trusted_network": False}
    return LinksConfig(**{**given, "key_file": "", "allowed_file": "", **values})


def test_the_knobs_choose_what_protects_the_links(tmp_path, capsys):
    key, listed = tmp_path / "key", tmp_path / "allowed"
    listed.write_text(invoke("new", key).stdout)
    log = Log("worker-0")
    both = knobs(key_file=str(key), allowed_file=str(listed))
    assert isinstance(security_of(both, log), CurveLinks)
    assert type(security_of(knobs(), log)) is LoopbackOnly
    assert capsys.readouterr().err == ""
    assert type(security_of(knobs(trusted_network=True), log)) is TrustedNetwork
    warning = json.loads(capsys.readouterr().err)
    assert (warning["event"], warning["level"]) == ("links.unprotected", "error")


def test_half_of_the_knobs_is_refused(tmp_path):
    for half in ({"key_file": str(tmp_path)}, {"allowed_file": str(tmp_path)}):
        with pytest.raises(UsageError, match="belong together"):
            security_of(knobs(**half), Log("worker-0"))
