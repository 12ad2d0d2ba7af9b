"""The health check of a container: what it asks, and that it is as light as it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from service.admin import AdminServer
from service.healthcheck import ask, main

ROOT = Path(__file__).parents[3]


@pytest.fixture
def server():
    """A process that lives and is not ready."""
    made = AdminServer(
        "127.0.0.1",
        0,
        CollectorRegistry(),
        lambda: (True, "the loop turned 0.0 s ago"),
        lambda: (False, "waiting"),
    )
    yield made
    made.close()


@pytest.fixture(params=["0.0.0.0", "127.0.0.1", ""])
def environment(server, request):
    """As its container's."""
    port = server.address.rpartition(":")[2]
    return {"MEGAPHONE_HTTP__PORT": port, "MEGAPHONE_HTTP__HOST": request.param}


def test_life_is_what_is_asked_for_unless_a_path_is_given(environment, monkeypatch, capsys):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main([]) == 0
    assert main(["/readyz"]) == 1
    assert capsys.readouterr().out == "the loop turned 0.0 s ago\nwaiting\n"


def test_nobody_there_is_an_answer_too(environment, server):
    server.close()
    well, said = ask("/healthz", environment)
    assert not well
    assert "no answer at 127.0.0.1:" in said


@pytest.mark.parametrize("port", ["", "0", "http"])
def test_a_process_at_any_port_cannot_be_asked(port):
    assert ask("/healthz", {"MEGAPHONE_HTTP__PORT": port}) == (
        False,
        "MEGAPHONE_HTTP__PORT names no port to ask at",
    )


def test_it_imports_nothing_but_the_standard_library():
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import service.healthcheck; "
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    told = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert set(told.split()) - set(sys.stdlib_module_names) - {"__main__"} == {"service"}
