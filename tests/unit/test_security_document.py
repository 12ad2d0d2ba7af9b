"""The limits of docs/SECURITY.md against the code, and what it says is on by default."""

from __future__ import annotations

import importlib
import os
import re
from textwrap import dedent

import pytest
from typer.testing import CliRunner

from service import kafka_access
from service.cli import app
from service.config import load_config
from service.doctor.unpacking import PARTITION_FETCH_BYTES, RATIO_MAX
from service.errors import UsageError
from service.kafka_access import PROPERTIES, access_of, variable_of
from tests.unit.test_documents import DOCUMENTS, table

PAGE = "docs/SECURITY.md"


def test_every_limit_is_the_one_in_the_code() -> None:
    rows = table(PAGE, "Limits")
    assert len(rows) >= 20
    wrong = []
    for what, limit, where, beyond in rows:
        if where.startswith("knob"):
            section, knob = where.removeprefix("knob `").split(".")
            found = getattr(getattr(load_config(), section), knob)
        else:
            module, _, name = where.rpartition(".")
            found = getattr(importlib.import_module(module), name)
        if callable(found):
            assert "refused" in limit, what
        elif str(found) != limit:
            wrong.append(f"{what}: {limit}, but {where} is {found}")
        assert beyond, what
    assert wrong == []


def test_links_and_http_stay_on_this_machine_by_default() -> None:
    config = load_config()
    assert config.http.host == "127.0.0.1"
    assert (config.links.key_file, config.links.trusted_network) == ("", False)
    assert dict(config.kafka.properties) == {}


def test_every_variable_shown_is_passed_on() -> None:
    shown = set(re.findall(r"export (KAFKA_[A-Z_]+)=", DOCUMENTS[PAGE]))
    known = {variable_of(name) for name in PROPERTIES}
    assert len(shown) >= 5
    assert {each.removesuffix("_FILE") for each in shown} <= known


def test_the_file_of_knobs_shown_is_read_and_reaches_the_client(tmp_path, monkeypatch) -> None:
    """What stands behind `.file` lies elsewhere here; every other word is the document's."""
    for name in [name for name in os.environ if name.startswith("KAFKA_")]:
        monkeypatch.delenv(name)
    # What is read here is for the clients of this test, of which there are none.
    monkeypatch.setattr(kafka_access, "_current", [])
    (block,) = re.findall(r"(?m)^    \[kafka\.properties\]\n(?:    .+\n)+", DOCUMENTS[PAGE])
    (secret,) = re.findall(r'"sasl\.password\.file" = "(.+)"', block)
    (tmp_path / "password").write_text("hunter2\n", encoding="utf-8")
    knobs = tmp_path / "knobs.toml"
    text = dedent(block).replace(secret, str(tmp_path / "password"))
    knobs.write_text(text, encoding="utf-8")
    properties = load_config(knobs).kafka.properties
    assert set(properties) == {"security.protocol", "sasl.password.file"}
    found = access_of(properties, {}).properties
    assert found == {"security.protocol": "SASL_SSL", "sasl.password": "hunter2"}
    done = CliRunner().invoke(app, ["check-config", "--config", str(knobs)])
    assert done.exit_code == 0, done.output
    assert "hunter2" not in done.output
    # One that is misspelt is not silently left out.
    knobs.write_text(text.replace("sasl.password", "sasl.pasword"), encoding="utf-8")
    with pytest.raises(UsageError, match=r"did you mean sasl\.password\?"):
        access_of(load_config(knobs).kafka.properties, {})


def test_what_a_packed_byte_may_become_is_what_the_doctor_counts_with() -> None:
    rows = table(PAGE, "Input that strangers write")
    assert {kind.partition("`")[0]: int(ratio) for kind, ratio, _ in rows} == RATIO_MAX
    sizes = {"MiB": 1 << 20, "GiB": 1 << 30}
    for _, ratio, size in rows[:-1]:
        found = re.match(r"(\d+) (\w+)", size)
        assert found is not None
        most = int(ratio) * PARTITION_FETCH_BYTES
        assert int(found[1]) * sizes[found[2]] <= most < (int(found[1]) + 1) * sizes[found[2]]
