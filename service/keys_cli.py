"""`megaphone keys`: make the keys that processes prove to one another.

Flow: [keys] -> a file for one process, a line for the allow-list of all.

The secret goes to the file and nowhere else; what is printed is public.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from service.cli_options import Output, example
from service.dataflow.transport.keys import (
    KeyPair,
    check_slots,
    new_pair,
    read_secret,
    write_secret,
)

keys = typer.Typer(
    name="keys",
    help="Keys for links between processes; see docs/SECURITY.md.",
    no_args_is_help=True,
)


Slots = Annotated[
    str,
    typer.Option(
        help="Which slots may prove to have the key: worker-0, worker-*, gateway-*, controller; "
        "* for all."
    ),
]
Printed = Annotated[
    Output, typer.Option(help="text: a line of the allow-list; json: an object of key and slots.")
]


@keys.command(epilog=example("keys new worker-0.key --slots worker-0"))
def new(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the secret key goes.")],
    slots: Slots = "*",
    output: Printed = Output.TEXT,
) -> None:
    """Make a key: the secret to a new FILE, its line of the allow-list to standard output."""
    allowed = check_slots(slots, "--slots")
    pair = new_pair()
    write_secret(file, pair)
    _print(pair, allowed, output)


@keys.command(epilog=example("keys show worker-0.key --slots worker-0"))
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `new` has made.")],
    slots: Slots = "*",
    output: Printed = Output.TEXT,
) -> None:
    """Print the line of the allow-list for the key in FILE again."""
    allowed = check_slots(slots, "--slots")
    _print(read_secret(file), allowed, output)


def _print(pair: KeyPair, slots: frozenset[str], output: Output) -> None:
    names = sorted(slots)
    if output is Output.JSON:
        typer.echo(json.dumps({"key": pair.public, "slots": names}))
    else:
        typer.echo(f"{pair.public} {','.join(names)}")
