"""The limits of docs/SECURITY.md against the code, and what it says is on by default."""

from __future__ import annotations

import importlib
import re

from service.config import load_config
from service.kafka_access import PROPERTIES, variable_of
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
