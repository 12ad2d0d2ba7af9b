"""Options that several commands have, each said once.

Flow: a command's signature -> [cli_options] -> the text of its help.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Target = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="What to run: module:flow, or a built-in such as nexmark:auction_bids.",
    ),
]
Servers = Annotated[
    str,
    typer.Option(help="Kafka to use, host:port[,host:port].", envvar="KAFKA_BOOTSTRAP_SERVERS"),
]
AppName = Annotated[
    str,
    typer.Option(
        "--app",
        help="Name of the job: prefix of its own topics, and what it is continued under.",
        envvar="MEGAPHONE_APP",
    ),
]
Workers = Annotated[int, typer.Option(min=1, max=1024, help="Worker slots of the job.")]
Gateways = Annotated[int, typer.Option(min=1, max=1024, help="Gateway slots of the job.")]
Bins = Annotated[
    int, typer.Option(help="Bins of keyed state, a power of two; fixed for the life of the state.")
]
CheckpointEvery = Annotated[
    float,
    typer.Option(min=0, help="Seconds between checkpoints while the job runs; 0: none by itself."),
]
UntilEnd = Annotated[
    bool,
    typer.Option("--until-end", help="Read up to the ends of the input as of now, then stop."),
]
StateDir = Annotated[
    Path, typer.Option(help="Folder of the checkpoints; a folder per app and slot.")
]
StateMemory = Annotated[
    str,
    typer.Option(
        help="Memory for a worker's keyed state, such as 4GiB; rows beyond it are kept on disk "
        "under --state-dir. Without it worker.state_memory_bytes, by default no bound."
    ),
]
Registry = Annotated[
    str,
    typer.Option(
        help="Folder of <id>.avsc files, or URL of a Confluent-compatible schema registry; "
        "without it, the schemas of the built-ins."
    ),
]
Prefix = Annotated[str, typer.Option(help="A built-in reads <prefix>-events.")]
OutputTopic = Annotated[
    str, typer.Option(help="A built-in writes here; without it, to a topic under the prefix.")
]
SlotNumber = Annotated[int, typer.Option("--slot", min=0, help="Which slot this process plays.")]
Address = Annotated[str, typer.Option(help="Where peers connect to; * takes a free port.")]
HttpPort = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=65535,
        help="Port of /metrics, /healthz and /readyz; 0 takes a free one; without it, http.port.",
    ),
]
Tied = Annotated[
    bool,
    typer.Option(
        "--tied", hidden=True, help="Stop when standard input ends: the launcher holds it."
    ),
]
