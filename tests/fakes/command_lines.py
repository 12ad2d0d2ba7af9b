"""Command lines as documents and helps show them, parsed by the command itself and not run.

Flow: text -> [lines_of], [bench_lines_of] -> words -> [parsed], [called] -> the command that would
run, and its values.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import typer.main

from demo import figures, generator_figures
from loadgen import cli as loadgen_cli
from service import cli as service_cli

#: Set while a line is parsed; documents export them before.
VARIABLES = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9092", "MEGAPHONE_APP": "bids"}
PROGRAMS = ("megaphone", "nexmark-loadgen")
_BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^    .*\n)+", re.MULTILINE)
#: What measures, in a block or between backticks, and its arguments.
_BENCH = re.compile(
    r"^(?: {4})?(?P<line>BENCH.*)$|`(?P<words>BENCH[^`\n]*)`".replace(
        "BENCH",
        r"(?:megaphone bench|nexmark-loadgen|make (?:bench|demo)|"
        r"python -m (?:demo|tests\.bench))(?![\w-])",
    ),
    re.MULTILINE,
)
_ENDS = {"|", ">", ">>", "&", "&&", ";", "<"}


@cache
def roots() -> Mapping[str, Any]:
    """Program -> its command."""
    return {
        "megaphone": typer.main.get_command(service_cli.app),
        "nexmark-loadgen": typer.main.get_command(loadgen_cli.app),
        "demo.figures": _alone(figures.main),
        "demo.generator_figures": _alone(generator_figures.main),
    }


def _alone(main: Callable[..., None]) -> Any:
    """The command of a program that has but one."""
    app = typer.Typer()
    app.command()(main)
    return typer.main.get_command(app)


def leaves(program: str = "megaphone") -> Iterator[tuple[tuple[str, ...], Any]]:
    """(verbs, command) of every command that does something."""

    def walk(verbs: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
        below = getattr(command, "commands", None)
        if below is None:
            yield verbs, command
            return
        for name, each in sorted(below.items()):
            yield from walk((*verbs, name), each)

    yield from walk((), roots()[program])


def parsed(words: list[str]) -> tuple[str, ...]:
    """The verbs of the command that words call; raises what the command line would say.

    Args:
        words: the program and its arguments.
    """
    return called(words)[0]


def called(words: list[str]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The verbs of the command that words call, and the value of each of its options.

    Raises:
        AssertionError: there is no such command.
        ClickException: an option or a value is none.
    """
    program, *rest = words
    command, verbs = roots()[program], []
    while getattr(command, "commands", None):
        assert rest, f"{' '.join(words)} names no command"
        verbs.append(rest.pop(0))
        assert verbs[-1] in command.commands, f"{' '.join(words)}: no command {verbs[-1]!r}"
        command = command.commands[verbs[-1]]
    with command.make_context(" ".join(verbs), rest) as context:
        return tuple(verbs), dict(context.params)


def bench_lines_of(document: str) -> Iterator[str]:
    """Each command of a document that measures, in a block or in a sentence, as it stands there."""
    for found in _BENCH.finditer(document.replace("\\\n", " ")):
        yield (found["line"] or found["words"]).strip()


def words_of(line: str) -> list[str]:
    """A command that measures as the program and its arguments; `make` is what its target runs."""
    words = shlex.split(line, comments=True)
    end = next((at for at, word in enumerate(words) if word in _ENDS), len(words))
    program, *rest = words[:end]
    if program == "make":
        target, *settings = rest
        given = dict(each.split("=", 1) for each in settings)
        assert given.keys() <= {"ARGS", "BENCH"}, line
        more = shlex.split(given.get("ARGS", ""))
        return (
            ["megaphone", "bench", given.get("BENCH", "ingest"), *more]
            if target == "bench"
            else ["demo", *more]
        )
    if program == "python":
        return rest[1:]
    return words[:end]


def lines_of(document: str) -> Iterator[list[str]]:
    """Words of each line in a document's code blocks that runs one of our programs."""
    fenced = [text for language, text in _BLOCK.findall(document) if language in ("sh", "")]
    outside = _BLOCK.sub("", document)
    blocks = [*fenced, *_INDENTED.findall(outside)]
    for block in blocks:
        joined = block.replace("\\\n", " ")
        for line in joined.splitlines():
            if "megaphone" not in line and "nexmark-loadgen" not in line:
                continue
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if not words or words[0] not in PROGRAMS:
                continue
            end = next((at for at, word in enumerate(words) if word in _ENDS), len(words))
            yield words[:end]
