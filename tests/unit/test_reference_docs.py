"""The reference in docs/reference is what the code would write today (`make docs`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.catalogue import CATALOGUE
from service.config import knob_names
from service.config_layers import variable_of
from service.reference_docs import pages
from tests.fakes.command_lines import leaves

DOCS = Path(__file__).parents[2] / "docs"
PAGES = pages(DOCS)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_what_is_committed(name: str) -> None:
    assert (DOCS / "reference" / name).read_text(encoding="utf-8") == PAGES[name], "run `make docs`"


def test_no_page_stands_there_that_nothing_makes() -> None:
    made_by_hand = {"README.md"}
    there = {path.name for path in (DOCS / "reference").glob("*.md")}
    assert there - made_by_hand == set(PAGES)


def test_every_knob_and_its_variable_and_every_verb_have_their_place() -> None:
    configuration = PAGES["configuration.md"]
    for knob in knob_names():
        assert f"| `{knob}` | " in configuration
        assert f"`{variable_of(knob)}`" in configuration
    commands = PAGES["cli.md"] + PAGES["cli-groups.md"] + PAGES["cli-bench.md"]
    for verbs, command in leaves():
        section = commands.partition(f"\n## megaphone {' '.join(verbs)}\n")[2].partition("\n## ")[0]
        missing = [
            option
            for parameter in command.params
            if not parameter.hidden and parameter.name != "help"
            for option in (*parameter.opts, *parameter.secondary_opts)
            if option.startswith("--") and option not in section
        ]
        assert missing == [], verbs


def test_every_metric_has_its_row() -> None:
    for spec in CATALOGUE:
        assert f"| `{spec.name}` | {spec.kind} | " in PAGES["metrics.md"]


def test_every_field_of_a_request_has_its_row() -> None:
    for field in (
        "moves",
        "waves",
        "after_us",
        "threshold",
        "precopy",
        "dry_run",
        "longest_wait_ms",
    ):
        assert f"| `{field}` | " in PAGES["control-records.md"]
    for kind in ("promise", "move", "precopy", "precopy-end", "checkpoint", "stop", "generation"):
        assert f"### `{kind}`" in PAGES["control-records.md"]
