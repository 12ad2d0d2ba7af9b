"""Options that several commands have, each said once.

Flow: a command's signature -> [cli_options] -> the text of its help.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from service.config import FILE_VARIABLE, Config, load_config
from service.durations import microseconds_of
from service.nexmark.forms import Format, Topics
from service.nexmark.query_topics import QUERIES, QueryTopics
from service.nexmark.rules import PRESETS


class Output(StrEnum):
    """How answers are printed."""

    TEXT = "text"
    JSON = "json"


def example(line: str) -> str:
    """How a command's help shows one line that works; tests/unit/shells/test_verbs.py reads it.

    >>> example("broker")
    'Example: megaphone broker'
    """
    return f"Example: megaphone {line}"


def targets_like(incomplete: str) -> list[str]:
    """Built-in targets that begin so, for shells that complete words."""
    return [name for name in (f"nexmark:{each}" for each in QUERIES) if name.startswith(incomplete)]


Target = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="What to run: module:flow, or a built-in such as nexmark:auction_bids.",
        autocompletion=targets_like,
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
        "without it, the schemas of the built-ins.",
        envvar="MEGAPHONE_REGISTRY",
    ),
]
Prefix = Annotated[
    str, typer.Option(help="A built-in reads <prefix>-person, -auction and -bid, or -events.")
]
OutputTopic = Annotated[
    str, typer.Option(help="A built-in writes here; without it, to a topic under the prefix.")
]
Written = Annotated[
    Format, typer.Option("--format", help="How a built-in reads and writes records.")
]
EventsIn = Annotated[
    Topics,
    typer.Option(
        "--event-topics",
        help="Where a built-in finds events: a topic a type; one topic of records of all types; or "
        "one of objects that hold a person, an auction or a bid.",
    ),
]
OutOfOrderness = Annotated[
    str,
    typer.Option(
        help="How much earlier than the latest event of its partition a built-in's event may be, "
        "such as 5s."
    ),
]


class Preset(StrEnum):
    """Windows of the built-in queries."""

    DEFAULT = "default"
    MEGAPHONE = "megaphone"


Windows = Annotated[
    Preset,
    typer.Option(help="Windows of q5, q7 and q8: of seconds, or those of Megaphone's authors."),
]
SlotText = Annotated[
    str,
    typer.Option(
        "--slot",
        metavar="N|any|ordinal",
        help="Which slot this process plays: a number; any that is free when the job begins, as "
        "the controller says; or ordinal, the number that its host's name ends with.",
    ),
]
Address = Annotated[
    str,
    typer.Option(
        help="Where to listen for peers, such as tcp://127.0.0.1:*; without it, links.address."
    ),
]
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


ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="TOML of knobs, over the defaults and under the environment.",
        envvar=FILE_VARIABLE,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KNOB=VALUE", help="One knob, such as gateway.tick_ms=5; over all else."
    ),
]
Command = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Knobs:
    """What a command line says of knobs; the rest is said by files and the environment."""

    file: Path | None = None
    settings: tuple[str, ...] = ()

    def load(self, **options: object) -> Config:
        """The configuration in force.

        Args:
            options: knobs said by options of their own, `section__knob`; None says nothing.

        Raises:
            UsageError: see `load_config`.
        """
        own = {name.replace("__", ".", 1): value for name, value in options.items()}
        return load_config(self.file, self.settings, own)

    def arguments(self) -> list[str]:
        """The options again, for the processes that `megaphone run` starts."""
        named = [] if self.file is None else ["--config", str(self.file)]
        return named + [word for each in self.settings for word in ("--set", each)]


def knobs_from(config_file: ConfigFile = None, settings: Settings = None) -> Knobs:
    """What the options say of knobs."""
    return Knobs(config_file, tuple(settings or ()))


def with_knobs(command: Command) -> Command:
    """Give a command the options of knobs in the place of its argument `knobs`."""
    return _with(command, "knobs", knobs_from)


def with_query(command: Command) -> Command:
    """Give a command the options of built-in queries in the place of its argument `query`."""
    return _with(command, "query", query_of)


def _with(command: Command, name: str, of: Callable[..., object]) -> Command:
    """Give a command the arguments of `of` in the place of its argument `name`."""
    own = inspect.signature(command, eval_str=True)
    asked = inspect.signature(of, eval_str=True).parameters

    @wraps(command)
    def run(**given: Any) -> None:
        value = of(**{each: given.pop(each) for each in asked})
        command(**given, **{name: value})

    kept = [each for each in own.parameters.values() if each.name != name]
    parameters = [
        each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*kept, *asked.values())
    ]
    # What typer reads; `wraps` has left the signature of the command.
    run.__dict__["__signature__"] = own.replace(parameters=parameters)
    run.__dict__.pop("__wrapped__", None)
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    return run


def query_of(
    topic_prefix: Prefix = "nexmark",
    output_topic: OutputTopic = "",
    written: Written = Format.AVRO,
    events_in: EventsIn = Topics.SEPARATE,
    max_out_of_orderness: OutOfOrderness = "5s",
    windows: Windows = Preset.DEFAULT,
) -> QueryTopics:
    """What the options say of a built-in query.

    Raises:
        UsageError: the out-of-orderness is no length of time.
    """
    microseconds_of(max_out_of_orderness, "--max-out-of-orderness")
    return QueryTopics(
        topic_prefix,
        output_topic or None,
        events_in,
        written,
        max_out_of_orderness,
        PRESETS[windows],
    )


def query_arguments(query: QueryTopics) -> list[str]:
    """The options again, for the processes that `megaphone run` starts."""
    return [
        *("--topic-prefix", query.prefix, "--output-topic", query.output or ""),
        *("--format", query.format, "--event-topics", query.event_topics),
        *("--max-out-of-orderness", query.out_of_orderness),
        *("--windows", next(name for name, each in PRESETS.items() if each == query.windows)),
    ]
