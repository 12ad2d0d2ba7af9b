"""Where the `megaphone` command begins.

Flow: arguments and environment -> [main] -> the verb named, loaded alone -> launcher, a role's
process, or a question to a running job. Every failure with a name becomes one line on stderr and
its exit status: 0 ok, 1 failed or inexact, 2 usage or environment, 3 a figure missed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from socket import gethostname

from service.allocator import keep_freed_memory
from service.completion import VARIABLE
from service.errors import MegaphoneError
from service.log import Log
from service.process_options import told_slot
from service.verbs import VERBS, assembled

#: Where shells say which line they complete: bash, and zsh or fish.
_COMPLETED = ("COMP_WORDS", "_TYPER_COMPLETE_ARGS")


def main() -> None:
    """Entry point: named errors become one line and an exit status."""
    keep_freed_memory()
    try:
        assembled(asked(sys.argv, os.environ))(prog_name="megaphone")
    except MegaphoneError as error:
        Log(told_slot(sys.argv, gethostname())).error(
            "process.failed", error=type(error).__name__, message=str(error)
        )
        sys.stdout.flush()
        # Not through the interpreter's exit: it would free Kafka's clients, and those wait for the
        # broker, which may be what failed.
        os._exit(error.exit_status)


def asked(words: Sequence[str], environment: Mapping[str, str]) -> Sequence[str]:
    """The verb that a command line names; all of them if it names none.

    Args:
        words: the program and its arguments.
        environment: a shell that completes a line says there what was typed of it.
    """
    if VARIABLE in environment:
        words = next((environment[name].split() for name in _COMPLETED if name in environment), [])
    return words[1:2] if words[1:2] and words[1] in VERBS else tuple(VERBS)
