"""Command lines as documents and helps show them, parsed by the command itself and not run.

Flow: text -> [lines_of] -> words -> [parsed] -> the command that would run.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import typer.main

from loadgen import cli as loadgen_cli
from service import cli as service_cli

#: Set while a line is parsed; documents export them before.
VARIABLES = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9092", "MEGAPHONE_APP": "bids"}
PROGRAMS = ("megaphone", "nexmark-loadgen")
_BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^    .*\n)+", re.MULTILINE)
_ENDS = {"|", ">", ">>", "&", "&&", ";", "<"}


@cache
def roots() -> Mapping[str, Any]:
    """Program -> its command."""
    return {
        "megaphone": typer.main.get_command(service_cli.app),
        "nexmark-loadgen": typer.main.get_command(loadgen_cli.app),
    }


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
    program, *rest = words
    command, verbs = roots()[program], []
    while getattr(command, "commands", None):
        assert rest, f"{' '.join(words)} names no command"
        verbs.append(rest.pop(0))
        assert verbs[-1] in command.commands, f"{' '.join(words)}: no command {verbs[-1]!r}"
        command = command.commands[verbs[-1]]
    with command.make_context(" ".join(verbs), rest) as context:
        assert context.params is not None
    return tuple(verbs)


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
