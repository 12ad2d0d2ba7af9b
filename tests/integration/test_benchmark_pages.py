"""The commands with which the documents measure are run as they stand there, at tiny sizes.

A line has options behind its own, of which the last counts; a peer is left out, since pip would
have to fetch it. What is printed is held against the contract, not against the figures' bounds.
Cannot catch: what only happens at the sizes of the documents.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
from jsonschema import Draft202012Validator

from tests.fakes.command_lines import words_of
from tests.tidy.source import ROOT

CONTRACT = ROOT / "docs" / "contracts" / "bench.schema.json"
PAGES = sorted(
    [*ROOT.glob("docs/benchmarks/*.md"), ROOT / "docs/LOADGEN.md", ROOT / "docs/NEXMARK.md"]
)
_MOVING = (
    "megaphone bench word-count --rate 1000000 --domain 16000000 --migration batched --output json"
)
_TINY_WORDS = "--duration 1 --domain 1000 --runs 1 --bins 16 --output json"
_TINY_QUERIES = "--query q1 --events 2000 --check-events 1000 --runs 1 --output json"
#: Line of a document -> what makes it small, and prints the document of a benchmark.
SMALLER = {
    "megaphone bench word-count --backend hash --rate 1000000 --duration 60 --domain 1000000": (
        f"--rate 20000 {_TINY_WORDS}"
    ),
    "megaphone bench word-count --rate max --duration 20 --peer bytewax --runs 3 --output json": (
        _TINY_WORDS
    ),
    _MOVING: f"--rate 20000 {_TINY_WORDS} --duration 2",
    "megaphone bench transfer": "--rows 1000 --runs 1 --output json",
    "megaphone bench state": "--budget 32MiB --records 16384 --runs 1 --output json",
    "megaphone bench nexmark --peer bytewax --report nexmark.html": _TINY_QUERIES,
}
#: Line of a document -> the test that runs the same command smaller, or why none does.
ELSEWHERE = {
    "megaphone bench dataflow --peer bytewax": "test_bench_dataflow.py",
    "megaphone bench ingest --runs 5": "test_bench_ingest.py",
    "megaphone bench nexmark --peer bytewax --runs 3": "the line of docs/NEXMARK.md, above",
    "megaphone bench nexmark --through kafka": "test_bench_nexmark.py",
    "megaphone bench nexmark --through kafka --full": "hours; test_bench_nexmark.py runs a part",
    "megaphone bench nexmark --through kafka --peer quixstreams": "test_bench_nexmark.py",
    "megaphone bench nexmark --through kafka --peer quixstreams --report nexmark.html": (
        "test_bench_nexmark.py"
    ),
    "megaphone bench nexmark --through kafka --quick --query q5": "test_bench_nexmark.py",
    "megaphone bench experiments --quick": "minutes; its runs are those of word-count, above",
    "python -m demo.figures --rate 100000 --seconds 60 --runs 5": "minutes; test_demo.py runs one",
    "python -m demo.figures --rate 200000 --seconds 60 --runs 5": "minutes; test_demo.py runs one",
    "python -m demo.generator_figures": "a minute; its commands are run by test_loadgen.py",
}


def test_every_line_that_measures_is_run_or_said_where_else() -> None:
    shown = {
        line
        for page in PAGES
        for line in re.findall(
            r"^    ((?:megaphone|python -m) .*)$", page.read_text(encoding="utf-8"), re.MULTILINE
        )
    }
    assert shown == SMALLER.keys() | ELSEWHERE.keys()
    assert SMALLER.keys() & ELSEWHERE.keys() == set()
    for why in ELSEWHERE.values():
        for test in re.findall(r"test_\w+\.py", why):
            assert (ROOT / "tests" / "integration" / test).exists(), why


@pytest.mark.parametrize("line", SMALLER, ids=lambda line: line.removeprefix("megaphone bench "))
def test_a_line_that_measures_prints_a_document(line, tmp_path):
    words = words_of(re.sub(r" --peer \w+", "", line))
    assert words.pop(0) == "megaphone"
    done = subprocess.run(
        [sys.executable, "-m", "service", *words, *shlex.split(SMALLER[line])],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    # 3: a figure missed its bound, which is for the sizes of the documents.
    assert done.returncode in (0, 3), done.stderr
    document = json.loads(done.stdout)
    Draft202012Validator(json.loads(CONTRACT.read_text(encoding="utf-8"))).validate(document)
    assert (done.returncode == 3) is any(each["met"] is False for each in document["figures"])
    if "--report" in words:
        page = tmp_path / words[words.index("--report") + 1]
        assert "q1" in page.read_text(encoding="utf-8")
