"""What a run is asked to do, and what is derived from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo.job import MoveRequest
from demo.options import Names, Options, bins_per_wave, bins_to_move, parse
from service.errors import UsageError
from service.migration.requests import Request
from service.migration.requests import parse as parse_request
from service.migration.strategy import Strategy


def test_the_defaults_are_those_of_the_documentation():
    assert parse([]) == Options(
        seconds=30.0,
        rate=50_000,
        state_keys=2_000_000,
        workers=2,
        gateways=1,
        bins=1024,
        report_dir=Path("demo-report"),
    )


def test_options_are_read():
    options = parse(["--seconds", "60", "--rate", "200000", "--report-dir", "out", "--seed", "7"])
    assert (options.seconds, options.rate, options.seed) == (60.0, 200_000, 7)
    assert options.report_dir == Path("out")


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["--bins", "1000"], "--bins"),
        (["--bins", "2"], "--bins"),
        (["--workers", "1"], "--workers"),
        (["--rate", "0"], "--rate"),
        (["--seconds", "1"], "--seconds"),
        (["--state-keys", "0"], "--state-keys"),
        (["--warm-up", "-1"], "--warm-up"),
        (["--gateways", "0"], "--gateways"),
    ],
)
def test_a_value_that_cannot_work_is_named(arguments, name):
    with pytest.raises(UsageError, match=name):
        parse(arguments)


def test_what_is_no_number_ends_with_status_2():
    with pytest.raises(SystemExit) as ended:
        parse(["--rate", "fast"])
    assert ended.value.code == 2


def test_names_of_two_runs_differ_everywhere():
    one, other = Names("aa"), Names("bb")
    assert {one.app, one.events, one.results}.isdisjoint({other.app, other.events, other.results})
    assert one.events == f"{one.prefix}-events"


@pytest.mark.parametrize("workers", [2, 3, 8])
def test_a_quarter_of_all_bins_moves_if_worker_0_has_it(workers):
    owners = [bin_ % workers for bin_ in range(1024)]
    moving = bins_to_move(owners)
    assert len(moving) == min(256, owners.count(0))
    assert len(set(moving)) == len(moving)
    assert all(owners[bin_] == 0 for bin_ in moving)


@pytest.mark.parametrize("bins", [1, 15, 16, 17, 100, 256, 16_384])
def test_a_plan_has_sixteen_waves_or_one_per_bin(bins):
    request = MoveRequest("out", dict.fromkeys(range(bins), 1))
    assert request.batch == bins_per_wave(bins)
    assert request.waves >= min(16, bins)
    assert request.waves == len(range(0, bins, request.batch))


def test_the_request_is_one_that_the_controller_understands():
    request = MoveRequest("out", {3: 1, 5: 1})
    parsed = parse_request(request.body(), offset=0)
    assert isinstance(parsed, Request)
    assert parsed.id == "out"
    assert parsed.strategy is Strategy.BATCHED
    assert parsed.moves == ((3, 1), (5, 1))
    assert parsed.batch == 1
    assert parsed.at is None
