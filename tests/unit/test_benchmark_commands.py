"""Every command that a document says to measure with is one, with options and values it takes.

Nothing is run here: options are parsed by the commands themselves, and what they would refuse
before the first run is asked. tests/integration/test_benchmark_pages.py runs the short ones.
Cannot catch: an option that is taken and does something else.
"""

from __future__ import annotations

import importlib.util
import re

import pytest
import typer

from demo.options import parse
from loadgen.options import dilation_of, shard_of, steps_asked
from loadgen.shapes import Shape
from service.bench.nexmark.command import Beside, Through, check, check_peer
from service.bench.words.migrating import steps_of
from service.bench.words.options import Backend, WordOptions, rate_of
from service.errors import UsageError
from service.nexmark.queries import BUILT_IN
from service.nexmark.rules import RULES
from tests.fakes.command_lines import VARIABLES, bench_lines_of, called, roots, words_of
from tests.tidy.source import ROOT

#: What the command line raises for an option or a value that it does not take.
REFUSED = typer.BadParameter.__mro__[1]
DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
    # Says what was, too.
    if path.name != "CHANGELOG.md"
}
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
IN_HELP = re.findall(r'make (?:bench|demo)(?: [A-Z]+=(?:"[^"]*"|\S+))+', MAKEFILE)
LINES = sorted({(name, line) for name, text in DOCUMENTS.items() for line in bench_lines_of(text)})
#: The table of docs/benchmarks/word-count.md leaves the command's name to its head.
HEAD = "Command, behind `megaphone bench word-count`"
BEHIND = sorted(
    {
        f"megaphone bench word-count {options}"
        for row in DOCUMENTS["docs/benchmarks/word-count.md"]
        .split(HEAD)[1]
        .split("\n\n")[0]
        .splitlines()
        for options in re.findall(r"`(--(?!bins 65536)[^`]*)`", row)
    }
)


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in VARIABLES.items():
        monkeypatch.setenv(variable, value)


def take(line: str) -> None:
    """Have a line's command refuse what it would refuse before its first run.

    Raises:
        AssertionError: there is no such command or program.
        REFUSED, SystemExit, UsageError: the command refuses it.
    """
    program, *rest = words = words_of(line)
    if program == "demo":
        if rest != ["--help"]:
            parse(rest)
    elif program.startswith("tests.bench."):
        assert importlib.util.find_spec(program) is not None, line
        assert rest == [], f"{program} takes no options"
    elif not named_only(words):
        verbs, values = called(words)
        match (program, *verbs):
            case ("megaphone", "bench", "nexmark"):
                known = [name for name in RULES if name in BUILT_IN]
                check(values["query"] or [], values["migration"] or [], known)
                peer = values["peer"]
                check_peer(None if peer is None else Beside(peer), Through(values["through"]))
            case ("megaphone", "bench", "word-count"):
                take_word_count(values)
            case ("nexmark-loadgen", "run"):
                asked = ("rate", "next_rate", "rate_period", "rate_steps")
                steps_asked(Shape(values["rate_shape"]), *(values[each] for each in asked))
                dilation_of(values["time_dilation"])
                shard_of(values["shard"])


def named_only(words: list[str]) -> bool:
    """Whether words are but a command's name, or that of a group; it must be one."""
    command = roots()[words[0]]
    for word in words[1:]:
        below = getattr(command, "commands", None)
        if below is None or word in ("…", "[OPTIONS]"):
            return word in ("…", "[OPTIONS]")
        assert word in below, f"{' '.join(words)}: no command {word!r}"
        command = below[word]
    return True


def take_word_count(values: dict[str, object]) -> None:
    names = ("domain", "bins", "workers", "batch", "tick_us", "wave_bins", "precopy", "validate")
    steps_of(
        WordOptions(
            backend=Backend(values["backend"]),
            rate=rate_of(str(values["rate"])),
            duration_s=float(str(values["duration"])),
            migration=str(values["migration"]),
            **{name: values[name] for name in names},
        )
    )


def test_the_documents_are_full_of_commands() -> None:
    assert len(LINES) > 60
    assert {name for name, _ in LINES} >= {
        "README.md",
        "docs/LOADGEN.md",
        "docs/NEXMARK.md",
        "docs/benchmarks/main-job.md",
        "docs/benchmarks/word-count.md",
    }
    assert len(BEHIND) >= 6
    assert len(IN_HELP) >= 2


@pytest.mark.parametrize(("name", "line"), LINES)
def test_a_command_of_a_document_would_be_taken(name: str, line: str) -> None:
    assert line in DOCUMENTS[name].replace("\\\n", " ")
    take(line)


@pytest.mark.parametrize("line", [*BEHIND, *IN_HELP])
def test_a_command_of_the_table_or_of_the_help_would_be_taken(line: str) -> None:
    take(line)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("megaphone bench nothing", AssertionError),
        ("megaphone bench ingest --run 5", REFUSED),
        ("megaphone bench ingest --runs none", REFUSED),
        ("megaphone bench ingest --runs 0", REFUSED),
        ("megaphone bench nexmark --query q9", UsageError),
        ("megaphone bench nexmark --migration slow", UsageError),
        ("megaphone bench nexmark --peer quixstreams", UsageError),
        ("megaphone bench nexmark --through kafka --peer bytewax", UsageError),
        ("megaphone bench nexmark --through air", REFUSED),
        ("megaphone bench word-count --rate fast", UsageError),
        ("megaphone bench word-count --migration slowly", UsageError),
        ("megaphone bench word-count --bins 1000", UsageError),
        ('make bench BENCH=words ARGS="--quick"', AssertionError),
        ('make bench BENCH=ingest ARGS="--quick"', REFUSED),
        ('make bench WHAT=ingest', AssertionError),
        ('make demo ARGS="--speed 60"', SystemExit),
        ('make demo ARGS="--seconds 1"', UsageError),
        ("python -m demo.figures --rates 5", REFUSED),
        ("python -m demo.generator_figures --events 1", REFUSED),
        ("python -m tests.bench.bench_nothing", AssertionError),
        ("nexmark-loadgen run --rate-shape round", REFUSED),
        ("nexmark-loadgen run --rate-shape steps --rate-steps 5", REFUSED),
        ("nexmark-loadgen walk", AssertionError),
    ],
)  # fmt: skip
def test_what_no_command_takes_is_noticed(line: str, error: type[BaseException]) -> None:
    with pytest.raises(error):
        take(line)
