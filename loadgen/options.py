"""What options of the command mean: rates, shares, dates, fields, and the knobs that follow.

Flow: text of options -> here -> values of `schedule`, `shapes`, `dates`, `fields`.
Pure but for the two files that `field_reader` and `intended_by` are given.
"""

from __future__ import annotations

import json
from dataclasses import replace
from enum import StrEnum
from fractions import Fraction
from pathlib import Path

import numpy as np
import typer
from numpy.typing import NDArray

from loadgen import shapes
from loadgen.broker import UsageFault
from loadgen.dates import EventDates
from loadgen.fields import AvroField, FieldReader, FieldUnknown, JsonField
from loadgen.measure import Intended, auction_bids, closed_by, sent_at
from loadgen.schedule import US_PER_SECOND, ConstantRate, Schedule, Shard
from loadgen.shapes import Shape, Step, Varying
from service.nexmark.events import KNOB_MAX, Format, NexmarkConfig


class Client(StrEnum):
    """What talks to Kafka."""

    LIBRDKAFKA = "librdkafka"
    DIRECT = "direct"


class FieldIs(StrEnum):
    """What the number in a result says."""

    DATE = "date"
    WINDOW_END = "window-end"
    WINDOW_START = "window-start"


def shard_of(text: str) -> Shard:
    """The share that `I/N` says.

    Raises:
        BadParameter: it is not written so.
    """
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal()):
        raise typer.BadParameter(f"--shard {text!r}: expected I/N, such as 0/2")
    try:
        return Shard(int(index), int(count))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def dilation_of(text: str) -> Fraction:
    """Event time per time, a number or a fraction above 0.

    Raises:
        BadParameter: it is none.
    """
    try:
        dilation = Fraction(text)
    except (ValueError, ZeroDivisionError):
        dilation = Fraction(0)
    if dilation <= 0:
        raise typer.BadParameter(f"--time-dilation {text!r}: expected a number above 0")
    return dilation


def steps_asked(
    shape: Shape, rate: int, next_rate: int | None, period: float, steps: str
) -> list[Step]:
    """The steps of a rate; one of a second for a constant one.

    Raises:
        BadParameter: options that do not go together.
    """
    if (shape is Shape.STEPS) != bool(steps):
        raise typer.BadParameter("--rate-shape steps and --rate-steps want each other")
    if (shape in (Shape.SQUARE, Shape.SINE)) != (next_rate is not None):
        raise typer.BadParameter("--next-rate belongs to --rate-shape square and sine")
    try:
        if shape is Shape.STEPS:
            return shapes.parsed_steps(steps)
        if next_rate is None:
            return [(rate, US_PER_SECOND)]
        return shapes.steps_of(shape, rate, next_rate, round(period * US_PER_SECOND))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def mean_rate(steps: list[Step]) -> Fraction:
    """Events per second over a whole period.

    Raises:
        BadParameter: nothing would ever be sent.
    """
    events = sum(rate * length_us for rate, length_us in steps)
    length_us = sum(length_us for _, length_us in steps)
    if not events or not length_us:
        raise typer.BadParameter("no step has a rate and a length: nothing would ever be sent")
    return Fraction(events, length_us)


def schedule_for(steps: list[Step], start_us: int, length_us: int) -> Schedule:
    """The schedule of some steps from a start on, for a length of time.

    Raises:
        BadParameter: a value out of range.
    """
    try:
        if len(steps) == 1:
            rate = steps[0][0]
            return ConstantRate(start_us, rate, round(Fraction(rate * length_us, US_PER_SECOND)))
        return Varying.lasting(start_us, steps, length_us)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def sized(
    base: NexmarkConfig,
    state_keys: int,
    in_flight_auctions: int | None,
    rate: Fraction,
    dilation: Fraction,
) -> NexmarkConfig:
    """The knobs with their state, and auctions that live as long as they are in flight.

    An auction's life is uniform on 1 ms to twice the time in which as many auctions are opened as
    are in flight, as in Beam; at the mean rate, in event time. So auctions close within a run.
    """
    config = base.with_state(state_keys)
    in_flight = config.in_flight_auctions if in_flight_auctions is None else in_flight_auctions
    auctions_per_second = rate * config.auction_proportion / config.cycle
    life_ms = round(2 * in_flight / auctions_per_second * 1000 * dilation)
    return replace(
        config,
        in_flight_auctions=in_flight,
        auction_life_ms_max=min(max(1, life_ms), KNOB_MAX),
    )


def field_reader(form: Format, schema: Path | None, field: str) -> FieldReader:
    """What takes a field out of results; a schema file is named by the id of its schema.

    Raises:
        UsageFault: the schema cannot be read or has no such number.
    """
    if form is Format.JSON:
        return JsonField(field)
    try:
        if schema is None:
            return auction_bids(field)
        return AvroField(json.loads(schema.read_text("utf-8")), int(schema.stem), field)
    except FieldUnknown as error:
        raise UsageFault(f"--field {field}: {error}") from error
    except (OSError, ValueError, KeyError) as error:
        raise UsageFault(
            f"--schema {schema}: expected a file ID.avsc of a record: {error}"
        ) from error


def intended_by(field_is: FieldIs, plan: Path | None, after_ms: int) -> Intended:
    """What turns the numbers in results into the times that latencies count from.

    The plan is read when the first result is there: the generator has printed it by then.
    """
    if plan is None:
        return sent_at
    known: list[Intended] = []

    def by_plan(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        if not known:
            dates = _dates_in(plan)
            of_windows = field_is is not FieldIs.DATE
            known.append(closed_by(dates, after_ms=after_ms) if of_windows else dates.intended_us)
        return known[0](numbers)

    return by_plan


def _dates_in(plan: Path) -> EventDates:
    try:
        for line in plan.read_text("utf-8").splitlines():
            document = json.loads(line)
            if document.get("kind") == "plan":
                return EventDates.of_document(document)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UsageFault(f"--plan {plan}: {error}") from error
    raise UsageFault(f"--plan {plan}: no line of kind plan, which nexmark-loadgen run prints")
