"""Tutorials, how-to pages and the commands of all others do what they say, on a real Kafka.

Cannot catch: a sentence between the blocks that is wrong.
"""

from __future__ import annotations

import re

import pytest

from tests.integration.page_runner import ROOT, Reader, shows, steps_of

PAGES = sorted([*ROOT.glob("docs/tutorial/*.md"), *ROOT.glob("docs/how-to/*.md")])
#: Pages that show commands between sentences, and what else they show: a flow that is built by
#: tests/unit/test_documents.py, records that it holds against contracts, tables for people.
OTHERS = {
    "README.md": ("python", "json"),
    "docs/CONTROL.md": ("json", "text"),
    "docs/DEPLOYING.md": ("dockerfile",),
    "docs/LOADGEN.md": (),
    "docs/NEXMARK.md": (),
    "docs/OPERATING.md": (),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_reader_gets_what_the_page_says(page, bootstrap_servers, tmp_path):
    with Reader(page, tmp_path, bootstrap_servers) as reader:
        kinds = [step.kind for step in reader.steps]
        assert kinds.count("sh") >= 2
        assert kinds.count("shows") >= 1
        assert kinds.count("ctrl-c") == kinds.count("background")
        reader.follow()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", OTHERS)
def test_a_reader_can_type_what_the_page_shows(page, bootstrap_servers, tmp_path):
    with Reader(ROOT / page, tmp_path, bootstrap_servers, OTHERS[page]) as reader:
        kinds = [step.kind for step in reader.steps]
        assert kinds.count("sh") >= 1
        assert kinds.count("ctrl-c") == kinds.count("background")
        reader.follow()


def test_there_are_pages_and_they_say_that_they_are_run():
    assert {page.stem for page in PAGES} >= {"first-flow", "first-migration", "dead-letters"}
    for page in PAGES:
        assert "tests/integration/test_tutorials.py" in page.read_text(encoding="utf-8"), page


@pytest.mark.parametrize(
    ("printed", "expected", "holds"),
    [
        ("a\nb\nc\n", "a\nc\n", True),
        ("a\nb\nc\n", "c\na\n", False),
        ("took 12 ms, all", "took … ms…", True),
        ("took 12 s", "took … ms", False),
        ("a.c", "a.c", True),
        ("abc", "a.c", False),
        ("", "", True),
        ("", "a", False),
    ],
)
def test_what_a_page_says_is_held_against_what_was_printed(printed, expected, holds):
    assert shows(printed, expected) is holds


def test_names_are_made_unique_wherever_they_are_words():
    page = (
        "<!-- names: shop -->\n```python shop.py\nshop = 'shop_window'\n```\n```sh\nrun shop\n```\n"
    )
    assert [(step.kind, step.name, step.text) for step in steps_of(page, "1")] == [
        ("file", "shop_1.py", "shop_1 = 'shop_window'\n"),
        ("sh", "", "run shop_1\n"),
    ]


def test_ports_are_free_ones_of_the_run():
    page = "<!-- ports: 9101 9102 -->\n```sh\nrun 127.0.0.1:9101 :9102 19101\n```\n"
    (step,) = steps_of(page, "1")
    first, second = re.fullmatch(r"run 127\.0\.0\.1:(\d+) :(\d+) 19101\n", step.text).groups()
    assert 1024 < int(first) < int(second)
