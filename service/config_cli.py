"""`megaphone check-config`: every knob in force, and who said it.

Flow: defaults, a file, the environment, the command line -> [check_config] -> a table, or a
document of docs/contracts/check-config.schema.json. Nothing else is asked or started.

Exit status: 0 the configuration can work, 2 it cannot; the text says which knob, and where.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from service.cli_options import ConfigFile, Output, Settings
from service.config import Knob, knobs_of
from service.config_layers import Origin, variable_of
from service.errors import UsageError


def check_config(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="TOML of knobs; without it what --config names."),
    ] = None,
    config_file: ConfigFile = None,
    settings: Settings = None,
    changed: Annotated[
        bool,
        typer.Option("--changed", help="Only knobs that something else than the defaults says."),
    ] = False,
    output: Annotated[
        Output,
        typer.Option(help="text for people; json as docs/contracts/check-config.schema.json."),
    ] = Output.TEXT,
) -> None:
    """Check the configuration and print every knob with its value and where that was said.

    Later ones win: service/default.toml, a file, MEGAPHONE_<SECTION>__<KNOB>, --set. Secrets are
    masked.
    """
    if file is not None and config_file is not None and file != config_file:
        raise UsageError(f"two files of knobs, {file} and {config_file}; name one")
    knobs = [
        knob
        for knob in knobs_of(file or config_file, settings or ())
        if not changed or knob.origin is not Origin.DEFAULT
    ]
    if output is Output.JSON:
        typer.echo(msgspec.json.encode({"knobs": [_document(knob) for knob in knobs]}).decode())
    elif not knobs:
        typer.echo("every knob has its default")
    else:
        Console().print(_table(knobs))


def _document(knob: Knob) -> dict[str, object]:
    return {
        "knob": knob.name,
        "value": knob.value,
        "default": knob.default,
        "origin": knob.origin,
        "place": knob.place,
        "variable": variable_of(knob.name),
        "secret": knob.secret,
    }


def _table(knobs: list[Knob]) -> Table:
    table = Table()
    for column in ("knob", "value", "default", "said by"):
        table.add_column(column, overflow="fold")
    for knob in knobs:
        default = "" if knob.origin is Origin.DEFAULT else str(knob.default)
        place = Origin.DEFAULT if knob.origin is Origin.DEFAULT else knob.place
        cells = (knob.name, str(knob.value), default, place)
        table.add_row(*map(Text, cells))
    return table
