"""`megaphone graph`: looking at a flow without running it.

Flow: a flow -> [graph] -> its vertices and streams as text, JSON or a picture.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from service.cli_options import Output, Target, with_query
from service.drawing import document_of, svg_of, table_of
from service.errors import UsageError
from service.nexmark.query_topics import QueryTopics
from service.targets import load_flow


@with_query
def graph(
    target: Target,
    query: QueryTopics,
    svg: Annotated[
        Path | None, typer.Option("--svg", help="Write the picture to this file, too.")
    ] = None,
    output: Annotated[
        Output, typer.Option(help="text for people; json as docs/contracts/graph.schema.json.")
    ] = Output.TEXT,
) -> None:
    """Show the vertices of a flow and the streams between them; runs nothing."""
    flow = load_flow(target, query)
    if output is Output.JSON:
        typer.echo(msgspec.json.encode(document_of(flow)).decode())
    else:
        typer.echo(table_of(flow), nl=False)
    if svg is not None:
        try:
            svg.write_text(svg_of(flow), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--svg {svg} cannot be written: {error.strerror}") from error
