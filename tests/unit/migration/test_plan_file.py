"""Plan files: both forms, and the sentence that says where one is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from service.errors import UsageError
from service.migration.plan_file import PlanFile, PlanForm, TimedWave, read_plan, text_of

SCHEMA = Path(__file__).parents[3] / "docs" / "contracts" / "plan.schema.json"
WAVE = st.dictionaries(st.integers(0, 70_000), st.integers(0, 1_023), min_size=1, max_size=9)


@st.composite
def plans(draw: st.DrawFn) -> PlanFile:
    waves = draw(st.lists(WAVE, min_size=1, max_size=8))
    times = sorted(
        draw(st.lists(st.integers(0, 1 << 50), min_size=len(waves), max_size=len(waves)))
    )
    return PlanFile(
        tuple(TimedWave(t, tuple(w.items())) for t, w in zip(times, waves, strict=True))
    )


@given(plans(), st.sampled_from(PlanForm))
def test_what_is_written_is_read_back_equal(plan: PlanFile, form: PlanForm) -> None:
    text = text_of(plan, form)
    assert read_plan(text, "plan") == plan
    if form is PlanForm.JSON:
        schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
        Draft202012Validator(schema).validate(json.loads(text))


def test_the_lines_of_the_original_are_understood() -> None:
    text = "M 0 0 1 0 1\n\nD 20000000000 1 0\nD\t20000000999 3 0   0 1\n"
    assert read_plan(text, "plan").waves == (
        TimedWave(0, ((0, 0), (1, 1), (2, 0), (3, 1))),
        TimedWave(20_000_000, ((1, 0),)),
        TimedWave(20_000_000, ((3, 0), (0, 1))),
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "plan holds no wave"),
        ("\n \n", "plan holds no wave"),
        ("D 0 1 0\nX 0 1 0", "plan, line 2: unknown letter 'X'"),
        ("D 0 1 0\n\nD 0 1", "plan, line 3: bin 1 without a worker"),
        ("D", "plan, line 1: no time"),
        ("D 0", "plan, line 1: a wave without moves"),
        ("D 0 1 -1", "plan, line 1: '-1' is no whole number"),
        ("D 0 1 1_0", "plan, line 1: '1_0' is no whole number"),
        ("D 0 1 " + "9" * 30, "plan, line 1: '9+' is no whole number"),
        ("D 0 1 0 1 1", "plan, line 1: bin 1 is named twice"),
        ("D 9000 1 0\nD 1000 1 0", "plan, line 2: time 1 µs is before that of the wave above, 9"),
        ("M 0 0 1\nM 0 0 1 0", "plan, line 2: 3 workers, but 2 in an M line above"),
        ('{"format": }', "plan, line 1: this is not JSON"),
        ('{\n"format" "a"}', "plan, line 2: this is not JSON"),
        ("{}", "plan is no plan: Object missing required field `format`"),
        (
            '{"format": "megaphone-plan", "version": 1, "waves": [{"moves": [[0, -1]]}]}',
            r"plan is no plan: Expected `int` >= 0 - at `\$\.waves\[0\]\.moves\[0\]\[1\]`",
        ),
        (
            '{"format": "megaphone-plan", "version": 2, "waves": []}',
            "this version reads 'megaphone-plan' of version 1",
        ),
        (
            '{"format": "megaphone-plan", "version": 1, "waves": [{"moves": []}]}',
            r"plan, waves\[0\]: a wave without moves",
        ),
        ('{"format": "megaphone-plan", "version": 1, "waves": []}', "plan holds no wave"),
    ],
)
def test_a_bad_file_says_where_it_is_wrong(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_plan(text, "plan")
