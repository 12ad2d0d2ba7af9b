"""The set of experiments: what is made, what is not made again, and how long it is said to take.

Claims: EX1, EX2, EX3, ES2. Runs are made up; tests/integration/test_word_count.py draws real ones.
"""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator

from service.bench.experiments import paper
from service.bench.experiments.charts import COLOURS, NAMES
from service.bench.experiments.command import make, run_experiments
from service.bench.experiments.report import TITLES
from service.bench.experiments.sets import OVERHEAD_S, STRATEGIES, Setup, experiments, setups_of
from service.bench.experiments.store import Store, name_of
from service.bench.machine import commit
from service.bench.words.migrating import STRATEGIES as OF_WORD_COUNT
from service.bench.words.options import WordOptions
from service.errors import MegaphoneError, UsageError
from tests.tidy.source import ROOT
from tests.unit.bench.word_runs import span_of, word_run

CONTRACT = json.loads((ROOT / "docs/contracts/bench.schema.json").read_text(encoding="utf-8"))
WHERE = {"cpus": 2}


def none_done(_options):
    return False


class Runner:
    """Makes up runs and remembers what it was asked for; fails at run number `broken`."""

    def __init__(self, broken=None):
        self.asked = []
        self._broken = broken

    def __call__(self, options):
        self.asked.append(options)
        if len(self.asked) == self._broken:
            raise MegaphoneError("a worker ended")
        spans = [span_of(4.1, 0.5), span_of(8.1, 0.5)] if options.migration != "none" else []
        return word_run(options, spans=spans)


@pytest.mark.parametrize(("quick", "minutes"), [(False, 40), (True, 10)], ids=["all", "quick"])
def test_the_set_fits_into_its_time_and_no_run_is_made_twice(quick, minutes):
    groups = experiments(quick=quick)
    setups = setups_of(groups, none_done)
    assert sum(setup.seconds for setup in setups) <= 60 * minutes
    assert all(setup.seconds == setup.options.duration_s + OVERHEAD_S for setup in setups)
    runs = [options for group in groups for options in group.runs]
    assert {setup.options for setup in setups} == set(runs)
    # Groups share runs: of 16 M keys and 256 bins, for one.
    assert len(setups) == len({name_of(setup.options) for setup in setups}) < len(runs)


@pytest.mark.parametrize("quick", [False, True])
def test_every_strategy_moves_in_every_group_of_moves_and_has_its_picture(quick):
    assert set(STRATEGIES) == set(OF_WORD_COUNT) == set(COLOURS) == set(NAMES)
    for group in experiments(quick=quick):
        assert group.name in TITLES
        assert group.name in paper.SAYS
        found = {options.migration for options in group.runs}
        assert found == ({"none"} if group.name.startswith("overhead") else set(STRATEGIES))


def test_a_run_bin_by_bin_is_made_only_where_its_waves_fit():
    runs = [options for group in experiments(quick=False) for options in group.runs]
    bins = {
        strategy: {options.bins for options in runs if options.migration == strategy}
        for strategy in STRATEGIES
    }
    assert max(bins["fluid"]) == max(bins["optimized"]) == 256
    assert max(bins["sudden"]) == max(bins["batched"]) == 4_096


def test_what_is_done_is_not_made_again_and_what_was_broken_off_is(tmp_path):
    groups = experiments(quick=True)
    store = Store(tmp_path, "abc")
    setups = setups_of(groups, store.is_done)
    broken = Runner(broken=3)
    with pytest.raises(MegaphoneError, match="a worker ended"):
        make(setups, store, WHERE, broken)
    left = setups_of(groups, store.is_done)
    assert left == setups[2:]
    runner = Runner()
    make(left, store, WHERE, runner)
    assert runner.asked == [setup.options for setup in setups[2:]]
    assert setups_of(groups, store.is_done) == []
    # Of another commit nothing is done.
    assert setups_of(groups, Store(tmp_path, "def").is_done) == setups


def test_a_run_is_kept_with_its_setup_its_lines_and_its_document(tmp_path, capsys):
    options = WordOptions(migration="optimized", duration_s=12.0)
    store = Store(tmp_path, "abc")
    make([Setup(options, 90.0), Setup(WordOptions(), 60.0)], store, WHERE, Runner())
    assert capsys.readouterr().err.splitlines() == [
        "2 runs to make, 2 minutes for all",
        f"1/2 {name_of(options)}",
        f"2/2 {name_of(WordOptions())}",
    ]
    document = json.loads(store.document(options).read_text(encoding="utf-8"))
    Draft202012Validator(CONTRACT).validate(document)
    assert document["parameters"]["migration"] == "optimized"
    assert store.lines(options).read_text(encoding="utf-8").startswith("backend\tHashMap\n")
    asked = tmp_path / "setups/abc" / name_of(options) / "options.json"
    assert json.loads(asked.read_text(encoding="utf-8"))["migration"] == "optimized"


def test_nothing_is_drawn_of_a_set_that_is_not_whole(tmp_path):
    missing = len(setups_of(experiments(quick=True), none_done))
    with pytest.raises(
        UsageError, match=f"{missing} runs of {commit()} are missing; leave --draw-only"
    ):
        run_experiments(tmp_path, quick=True, draw_only=True)
    assert list(tmp_path.iterdir()) == []
