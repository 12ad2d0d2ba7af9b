"""`megaphone broker`: the Kafka that the demo and the tests find, for a terminal.

Flow: [broker] -> the lookup -> its address on standard output, until Ctrl-C.
"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from service.broker.lookup import serve
from service.cli_options import Output


def broker(
    output: Annotated[
        Output, typer.Option(help="text: the address; json: an object with bootstrap_servers.")
    ] = Output.TEXT,
) -> None:
    """Print a broker's address and keep the broker until Ctrl-C or SIGTERM.

    The one that KAFKA_BOOTSTRAP_SERVERS names, else one of its own in Java or in Docker.
    """
    serve(_document if output is Output.JSON else str)


def _document(bootstrap_servers: str) -> str:
    return json.dumps({"bootstrap_servers": bootstrap_servers})
