"""`megaphone completion`: the script that lets a shell complete the command's words.

Flow: a shell's name -> [completion] -> its script on standard output, as Typer writes it. The
script asks the command itself, so new verbs and options are known at once.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from typer.completion import get_completion_script

PROGRAM = "megaphone"
#: What the script sets when it asks the command.
VARIABLE = "_MEGAPHONE_COMPLETE"


class Shell(StrEnum):
    """Shells that can complete words by asking a program."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")],
) -> None:
    """Print a script for a shell to complete verbs, options and built-in targets.

    For bash: `megaphone completion bash > ~/.local/share/bash-completion/completions/megaphone`;
    for zsh into a file `_megaphone` on its fpath; for fish into
    `~/.config/fish/completions/megaphone.fish`.
    """
    typer.echo(get_completion_script(prog_name=PROGRAM, complete_var=VARIABLE, shell=shell))
