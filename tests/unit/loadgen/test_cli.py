"""The command line: what it refuses before it asks any broker.

Cannot catch: anything that happens after a broker has answered.
"""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest
from typer.testing import CliRunner

from loadgen.broker import UsageFault
from loadgen.cli import app
from loadgen.dates import EventDates
from loadgen.options import FieldIs, intended_by, sized
from loadgen.schedule import ConstantRate
from service.nexmark.events import NexmarkConfig

SUMMARY = {
    "start_us": 0,
    "end_us": 5,
    "events": 10,
    "cpu_us_per_event": 1,
    "late": 0,
    "lateness_ms_max": 0,
    "queue_full_waits": 0,
}
BROKER = ["--bootstrap-servers", "localhost:1"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--load-only", "--live-only"], "exclude"),
        (["--shard", "2/2"], "shard 2/2"),
        (["--shard", "half"], "expected I/N"),
        (["--rate", "0"], "rate"),
        (["--shard", "0/2"], "--start-at"),
        (["--rate-shape", "steps"], "--rate-steps"),
        (["--rate-shape", "sine"], "--next-rate"),
        (["--next-rate", "5"], "--rate-shape"),
        (["--rate-shape", "steps", "--rate-steps", "5"], "RATExSECONDS"),
        (["--rate-shape", "steps", "--rate-steps", "0x5"], "nothing would ever"),
        (["--time-dilation", "0"], "above 0"),
        (["--time-dilation", "fast"], "above 0"),
        (["--topics", "separate", "--topic", "t"], "--topic-prefix"),
        (["--state-keys", "-1"], "state-keys"),
    ],
)
def test_a_run_that_cannot_work_is_refused_with_its_reason(arguments, reason):
    result = CliRunner().invoke(app, ["run", *BROKER, *arguments])
    assert result.exit_code == 2
    assert reason in result.output


def test_a_knob_out_of_range_is_named():
    arguments = ["run", *BROKER, "--hot-auction-ratio", "0"]
    result = CliRunner().invoke(app, arguments)
    assert "hot_auction_ratio" in str(result.exception)


def test_json_in_a_combined_topic_is_refused():
    result = CliRunner().invoke(app, ["run", *BROKER, "--format", "json"])
    assert "tagged or separate" in str(result.exception)


def test_windows_cannot_be_measured_without_a_plan():
    result = CliRunner().invoke(app, ["measure", *BROKER, "--field-is", "window-end"])
    assert result.exit_code == 2
    assert "--plan" in result.output


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--field", "nowhere"], "no field nowhere"),
        (["--schema", "missing/70.avsc"], "expected a file ID.avsc"),
    ],
)
def test_a_field_that_cannot_be_read_is_named(arguments, reason):
    result = CliRunner().invoke(app, ["measure", *BROKER, *arguments])
    assert reason in str(result.exception)


def test_events_are_printed_as_the_stream_has_them():
    arguments = ["events", "--first", "48", "--count", "5", "--seed", "3", "--rate", "1000"]
    result = CliRunner().invoke(app, [*arguments, "--event-start", "1000000"])
    printed = [json.loads(line) for line in result.output.splitlines()]
    assert [each["event_type"] for each in printed] == [2, 2, 0, 1, 1]
    assert [printed[0]["bid"]["date_time"], printed[2]["person"]["date_time"]] == [
        1_000_048,
        1_000_050,
    ]


def test_reports_are_merged_by_file(tmp_path):
    lines = [{"kind": "progress"}, {"kind": "summary", "phase": "live", **SUMMARY}]
    for name in ("a", "b"):
        (tmp_path / name).write_text("\n".join(map(json.dumps, lines)))
    result = CliRunner().invoke(app, ["merge", str(tmp_path / "a"), str(tmp_path / "b")])
    assert json.loads(result.output)["events"] == 20


def test_files_without_reports_are_refused(tmp_path):
    (tmp_path / "a").write_text('{"kind": "ready"}\n')
    result = CliRunner().invoke(app, ["merge", str(tmp_path / "a")])
    assert "no summary" in str(result.exception)


def test_a_plan_is_read_when_the_first_result_is_there(tmp_path):
    path = tmp_path / "run.jsonl"
    intended = intended_by(FieldIs.WINDOW_END, path, after_ms=5)
    schedule = ConstantRate(2_000_000_000, 1_000, 100)
    dates = EventDates.grouped(schedule, schedule.start_us, Fraction(1), 1)
    path.write_text(f'{json.dumps(dates.document())}\n{{"kind": "schedule"}}\n')
    assert intended(np.array([2_000_010])).tolist() == [2_000_015_000]
    other = intended_by(FieldIs.DATE, path, after_ms=0)
    assert other(np.array([2_000_010])).tolist() == [2_000_010_000]


def test_a_file_without_a_plan_is_named(tmp_path):
    (tmp_path / "run.jsonl").write_text('{"kind": "schedule"}\n')
    with pytest.raises(UsageFault, match="no line of kind plan"):
        intended_by(FieldIs.DATE, tmp_path / "run.jsonl", 0)(np.array([1]))


def test_auctions_live_as_long_as_they_are_in_flight_in_event_time():
    config = sized(NexmarkConfig(), 0, None, Fraction(50_000), Fraction(1))
    # 3,000 auctions a second, 100 in flight: on average 33 ms.
    assert config.auction_life_ms_max == 67
    dilated = sized(NexmarkConfig(), 0, 300, Fraction(50_000), Fraction(720))
    assert dilated.auction_life_ms_max == 2 * 100 * 720


def test_a_report_of_no_measurement_is_refused(tmp_path):
    (tmp_path / "m.json").write_text(json.dumps({"kind": "ready"}))
    result = CliRunner().invoke(app, ["report", str(tmp_path / "m.json")])
    assert "no final document" in str(result.exception)
