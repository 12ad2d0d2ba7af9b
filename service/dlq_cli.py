"""`megaphone dlq`: look at dead letters, and write the records they are about again.

Flow: `<topic>.dlq` -> [list] -> a line a letter; [replay] -> the topic each record came from, or
another one, exactly as it was. How it is done stands in service.replaying.

Exit statuses: 0 done; 1 something was left out because nothing whole is left of it, or Kafka
refused; 2 the command line, no such topic, or no broker.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from operator import ne
from typing import Annotated

import msgspec
import typer

from service.cli_options import Knobs, Output, Servers, example, with_knobs
from service.clock import SystemClock
from service.dead_letters import Letter, Remade, letters_topic, remade
from service.kafka_access import client_settings
from service.replaying import CHUNK, Letters, Originals, Replayer
from service.retention import Retention

app = typer.Typer(
    help="Dead letters: what gateways could not use, and how to give it to them again.",
    no_args_is_help=True,
)
Topic = Annotated[
    str, typer.Argument(metavar="TOPIC", help="An input topic, or its dead-letter topic.")
]
Reasons = Annotated[
    list[str] | None,
    typer.Option(
        "--reason",
        help="Only letters whose error begins with this word; several times for several.",
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many of the letters asked for.")]


@app.command("list", epilog=example("dlq list bids --reason unknown_schema"))
@with_knobs
def list_(
    topic: Topic,
    bootstrap_servers: Servers,
    knobs: Knobs,
    reason: Reasons = None,
    limit: Limit = None,
    again: Annotated[
        bool, typer.Option("--again/--new", help="All that are kept, or those not yet replayed.")
    ] = True,
    output: Annotated[
        Output, typer.Option(help="text for people; json as docs/contracts/letter.schema.json.")
    ] = Output.TEXT,
) -> None:
    """Show dead letters, oldest first, and how many there are of each reason."""
    name, timeout_s = letters_topic(topic), knobs.load().limits.broker_timeout_s
    counts: Counter[str] = Counter()
    shown = 0
    with closing(Letters(_settings(bootstrap_servers), name, timeout_s, again=again)) as letters:
        for chunk in letters.chunks():
            for letter in chunk:
                counts[letter.reason] += 1
                if _asked(letter, reason) and (limit is None or shown < limit):
                    shown += 1
                    _show(letter, output)
    if output is Output.TEXT:
        said = ", ".join(f"{count:,} {word}" for word, count in counts.most_common())
        typer.echo(f"{name}: {counts.total():,} letters{': ' * bool(said)}{said}")
        for place in letters.strange:
            typer.echo(f"{place} was written by no gateway", err=True)


class _Sums(msgspec.Struct, kw_only=True):
    """docs/contracts/replay.schema.json."""

    topic: str
    to: str | None
    dry_run: bool
    read: int = 0
    replayed: int = 0
    from_letters: int = 0
    stamped_anew: int = 0
    passed_over: dict[str, int] = msgspec.field(default_factory=dict)
    not_whole: list[str] = msgspec.field(default_factory=list)
    strange: list[str] = msgspec.field(default_factory=list)


@app.command(epilog=example("dlq replay bids --reason unknown_schema --dry-run"))
@with_knobs
def replay(
    topic: Topic,
    bootstrap_servers: Servers,
    knobs: Knobs,
    to: Annotated[
        str | None, typer.Option(help="Write to this topic; without it, to each record's own.")
    ] = None,
    reason: Reasons = None,
    again: Annotated[
        bool, typer.Option("--again", help="Begin at the oldest letter, replayed ones included.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Read and look everything up, but write nothing.")
    ] = False,
    output: Annotated[
        Output, typer.Option(help="text for people; json as docs/contracts/replay.schema.json.")
    ] = Output.TEXT,
) -> None:
    """Write the records of dead letters again: once each, with their own bytes, headers and time.

    It goes on where the last replay ended. Letters that --reason leaves out are passed over for
    good; --again reads them once more. A record that is gone from its topic is made from the
    letter, without headers; status 1 if the letter was cut, too. A record that is too old for its
    topic to keep is written with the time of now.
    """
    name, timeout_s = letters_topic(topic), knobs.load().limits.broker_timeout_s
    settings = _settings(bootstrap_servers)
    sums = _Sums(topic=name, to=to, dry_run=dry_run)
    with ExitStack() as stack:
        letters = stack.enter_context(closing(Letters(settings, name, timeout_s, again=again)))
        originals = stack.enter_context(closing(Originals(settings, timeout_s)))
        retention = Retention(settings, timeout_s)
        writer = None if dry_run else Replayer(settings, name, timeout_s)
        for chunk in letters.chunks(CHUNK):
            whole = [*_records(chunk, originals, reason, sums)]
            records = retention.fitted(whole, to, SystemClock().wall_us() // 1000)
            sums.stamped_anew += sum(map(ne, whole, records))
            if writer is not None:
                writer.write(records, to, letters)
            sums.replayed += len(records)
            sums.from_letters += sum(not each.whole for each in records)
        sums.strange = letters.strange
    if output is Output.JSON:
        typer.echo(msgspec.json.encode(sums).decode())
    else:
        _say(sums)
    if sums.not_whole:
        raise typer.Exit(1)


def _records(
    chunk: list[Letter], originals: Originals, reasons: list[str] | None, sums: _Sums
) -> Iterator[Remade]:
    """What is to be written for a chunk of letters."""
    sums.read += len(chunk)
    asked = []
    for letter in chunk:
        if _asked(letter, reasons):
            asked.append(letter)
        else:
            sums.passed_over[letter.reason] = sums.passed_over.get(letter.reason, 0) + 1
    found = originals.of(asked)
    for letter in asked:
        record = remade(letter, found.get(letter.origin))
        if record is None:
            sums.not_whole.append(str(letter.place))
        else:
            yield record


def _say(sums: _Sums) -> None:
    verb = "would be written" if sums.dry_run else "written"
    typer.echo(f"{sums.topic}: {sums.read:,} letters read, {sums.replayed:,} records {verb}")
    if sums.from_letters:
        typer.echo(
            f"  {sums.from_letters:,} of them from the letter: the record is gone, and with it its "
            "headers and time"
        )
    if sums.stamped_anew:
        typer.echo(
            f"  {sums.stamped_anew:,} of them with the time of now: with their own, Kafka would "
            "delete them for their age"
        )
    for word, count in sorted(sums.passed_over.items()):
        typer.echo(f"  {count:,} {word} passed over, as not asked for")
    for place in sums.not_whole:
        typer.echo(f"  {place} was cut and its record is gone: not written", err=True)
    for place in sums.strange:
        typer.echo(f"  {place} was written by no gateway: not written", err=True)


def _asked(letter: Letter, reasons: list[str] | None) -> bool:
    return not reasons or letter.reason in reasons


def _show(letter: Letter, output: Output) -> None:
    if output is Output.TEXT:
        size = len(letter.value or b"")
        cut = ", cut" if letter.cut else ""
        typer.echo(
            f"{letter.place}  {letter.origin}  {letter.reason}: {letter.detail} ({size:,} B{cut})"
        )
        return
    document = {
        "letter": str(letter.place),
        "origin": str(letter.origin),
        "reason": letter.reason,
        "detail": letter.detail,
        "key": _base64(letter.key),
        "value": _base64(letter.value),
        "cut": letter.cut,
    }
    typer.echo(msgspec.json.encode(document).decode())


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def _settings(bootstrap_servers: str) -> dict[str, object]:
    return {**client_settings(bootstrap_servers)}
