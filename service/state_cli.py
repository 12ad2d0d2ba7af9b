"""`megaphone state`: look into stored state, take bins out of it and put bins into it.

Flow: arguments -> [ls | get | export | import | verify] -> state_files, state_snapshots -> a table
or JSON on standard output. Only `import` asks Kafka: the job goes on from the manifest there.

Exit status: 0 done, 1 something is damaged or a key has no state, 2 usage.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from service.cli_options import Knobs, Output, Servers, example, with_knobs
from service.clock import SystemClock
from service.errors import StateCorrupt, UsageError
from service.state_files import (
    Listing,
    PartListing,
    Value,
    all_checkpoints,
    find_checkpoints,
    list_checkpoint,
    value_in,
    verify_checkpoint,
)
from service.state_import import import_snapshot
from service.state_snapshots import export_bins, list_snapshot, value_in_snapshot
from service.statestore.snapshot import Snapshot

app = typer.Typer(
    help="Look into stored state: a worker's folder, an app's folder, or a snapshot file.",
    no_args_is_help=True,
)


Source = Annotated[
    Path,
    typer.Argument(
        metavar="PATH",
        help="<state-dir>/<app>/worker-<n>, <state-dir>/<app> for all workers, or a snapshot file.",
    ),
]
Cut = Annotated[
    int | None, typer.Option(help="The checkpoint of this cut; without it, the newest one.")
]
As = Annotated[
    Output, typer.Option(help="text for people; json as docs/contracts/state.schema.json.")
]
Bins = Annotated[str, typer.Option("--bins", help="Which bins, such as 0-15,40.")]


@app.command(epilog=example("state ls megaphone-state/large --by-bin"))
def ls(
    path: Source,
    cut: Cut = None,
    by_bin: Annotated[bool, typer.Option("--by-bin", help="A line for each bin, too.")] = False,
    output: As = Output.TEXT,
) -> None:
    """List vertices, bins, rows and bytes; all digests and counts are compared on the way."""
    if path.is_file():
        listing = list_snapshot(Snapshot(path))
    else:
        listing = list_checkpoint(path, find_checkpoints(path, cut))
    if output is Output.JSON:
        _print_json(listing)
    else:
        Console().print(text_of(listing, by_bin=by_bin))


@app.command(
    context_settings={"ignore_unknown_options": True},
    epilog=example("state get megaphone-state/large stats 1007"),
)
def get(
    path: Source,
    vertex: Annotated[str, typer.Argument(metavar="VERTEX", help="Name of the keyed vertex.")],
    key: Annotated[
        str,
        typer.Argument(metavar="KEY", help="The key: an int64, or the text of one that is text."),
    ],
    cut: Cut = None,
    output: Annotated[
        Output, typer.Option(help="json: the contract's document; text: its parts as lines.")
    ] = Output.JSON,
) -> None:
    """Print what is kept for one key, of windows those that are open; exit status 1 if nothing is.

    A key that is bytes is named by its text in UTF-8.
    """
    if path.is_file():
        value = value_in_snapshot(Snapshot(path), vertex, key)
    else:
        value = value_in(find_checkpoints(path, cut), vertex, key)
    if value is None:
        typer.echo(f"{path} keeps nothing of vertex {vertex!r} for key {key}", err=True)
        raise typer.Exit(1)
    if output is Output.JSON:
        _print_json(value)
        return
    for line in lines_of(value):
        typer.echo(line)


@app.command(epilog=example("state export megaphone-state/large some.snapshot --bins 0-15"))
def export(
    path: Source,
    target: Annotated[Path, typer.Argument(metavar="FILE", help="Snapshot file to make.")],
    vertex: Annotated[
        list[str] | None, typer.Option(help="Only this vertex; may be given several times.")
    ] = None,
    bins: Bins = "",
    cut: Cut = None,
    output: Annotated[
        Output,
        typer.Option(help="text for people; json as docs/contracts/state-export.schema.json."),
    ] = Output.TEXT,
) -> None:
    """Write bins of a checkpoint to a snapshot file."""
    if path.is_file():
        raise UsageError(f"{path} is a file; export takes bins out of a checkpoint's folder")
    parts = find_checkpoints(path, cut)
    chosen = parse_bins(bins) if bins else None
    found = export_bins(parts, target, vertex or (), chosen)
    listed = {each.bin for stored in found.vertices for each in stored.bins}
    rows = sum(stored.rows for stored in found.vertices)
    if output is Output.JSON:
        _print_json({"file": str(target), "bins": len(listed), "rows": rows, "cut": found.cut})
        return
    typer.echo(f"{target}: {len(listed):,} bins, {rows:,} rows as of cut {found.cut}")


@app.command("import", epilog=example("state import some.snapshot megaphone-state/large"))
@with_knobs
def import_(
    snapshot: Annotated[Path, typer.Argument(metavar="FILE", help="A snapshot file.")],
    path: Annotated[
        Path,
        typer.Argument(metavar="PATH", help="<state-dir>/<app>, or one worker's folder in it."),
    ],
    bootstrap_servers: Servers,
    knobs: Knobs,
    bins: Bins = "",
    output: Annotated[
        Output,
        typer.Option(help="text for people; json as docs/contracts/state-import.schema.json."),
    ] = Output.TEXT,
) -> None:
    """Replace bins of the newest checkpoint of a job that is down; it then starts with them.

    All vertices in the snapshot are replaced in these bins; everything else stays. Refused for
    another flow's vertices or columns, or another number of bins; then nothing has changed.
    """
    source = Snapshot(snapshot)
    chosen = parse_bins(bins) if bins else None
    done = import_snapshot(
        source, path, chosen, bootstrap_servers, knobs.load(), SystemClock().wall_us()
    )
    if output is Output.JSON:
        _print_json({"bins": done.bins, "manifest": done.manifest})
        return
    for slot, count in done.bins.items():
        typer.echo(f"{slot}: {count:,} bins replaced")
    typer.echo(f"manifest {done.manifest} names them; the job goes on from there")


@app.command(epilog=example("state verify megaphone-state/large"))
def verify(
    path: Source,
    output: Annotated[
        Output,
        typer.Option(help="text for people; json as docs/contracts/state-verify.schema.json."),
    ] = Output.TEXT,
) -> None:
    """Compare every digest and count of a snapshot or of all checkpoints in a folder.

    Exit status 1 and the damaged file's name if one does not match.
    """
    checked: list[dict[str, object]] = []
    damaged = None
    try:
        if path.is_file():
            snapshot = Snapshot(path)
            list_snapshot(snapshot)
            rows = sum(stored.rows for stored in snapshot.contents.vertices)
            checked.append({"path": str(path), "cut": snapshot.contents.cut, "rows": rows})
        else:
            for part in all_checkpoints(path):
                where = str(part.folder / part.files.directory)
                rows = verify_checkpoint(part)
                checked.append({"path": where, "cut": part.files.cut, "rows": rows})
    except StateCorrupt as error:
        damaged = error
    if output is Output.JSON:
        _print_json({"whole": checked, "damaged": None if damaged is None else str(damaged)})
    else:
        for each in checked:
            typer.echo(f"{each['path']}: whole, {each['rows']:,} rows as of cut {each['cut']}")
    if damaged is not None:
        if output is Output.JSON:
            raise typer.Exit(damaged.exit_status)
        raise damaged


def parse_bins(text: str) -> set[int]:
    """Bins named as `0-15,40`.

    Raises:
        UsageError: the text names none.
    """
    chosen: set[int] = set()
    for piece in text.split(","):
        first, dash, last = piece.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UsageError(f"--bins {text}: {piece!r} is no bin and no range such as 0-15")
        chosen.update(range(int(first), int(last or first) + 1))
    return chosen


def lines_of(value: Value) -> list[str]:
    """What is kept of a key for a person: a line for each part, and for each window."""
    parts: dict[str, object] = msgspec.to_builtins(value)
    parts.pop("windows", None)
    lines = [f"{name}: {msgspec.json.encode(part).decode()}" for name, part in parts.items()]
    for window in value.windows or ():
        given = ", given" if window.given else ""
        shown = msgspec.json.encode(window.value).decode()
        lines.append(f"window {window.start} to {window.end}{given}: {shown}")
    return lines


def text_of(listing: Listing, *, by_bin: bool) -> RenderableType:
    """A listing for a person."""
    lines: list[RenderableType] = []
    for part in listing.parts:
        table = Table(title=Text(_title(listing, part)), title_justify="left")
        table.add_column("vertex")
        table.add_column("columns")
        for name in ("bins", "rows", "timers", "bytes"):
            table.add_column(name, justify="right")
        for vertex in part.vertices:
            columns = ", ".join(f"{name}: {kind}" for name, kind in vertex.columns)
            counts = (len(vertex.bins), vertex.rows, vertex.timers, vertex.bytes)
            table.add_row(vertex.vertex, columns, *(f"{count:,}" for count in counts))
            for each in vertex.bins if by_bin else ():
                row = (each.rows, each.timers, each.bytes)
                table.add_row("", "", f"bin {each.bin}", *(f"{count:,}" for count in row))
        lines.append(table)
    return Group(*lines)


def _title(listing: Listing, part: PartListing) -> str:
    slot = "" if part.slot is None else f"{part.slot}, "
    return (
        f"{slot}{part.path}: cut {part.cut}, {listing.bins:,} bins of the job, "
        f"{part.bytes:,} bytes, format {part.format}"
    )


def _print_json(document: object) -> None:
    sys.stdout.write(msgspec.json.encode(document).decode() + "\n")
