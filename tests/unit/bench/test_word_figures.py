"""Which bound holds for which word-count run, and that it is met or missed at its edge.

Claims: WF1, WF2, WF3. The runs are made up; tests/integration/test_word_count.py makes real ones.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from jsonschema import Draft202012Validator

from service.bench.words.command import document_of, make_runs, other_of
from service.bench.words.figures import figures_of
from service.bench.words.options import MAX, Backend, WordOptions
from service.errors import UsageError
from tests.tidy.source import ROOT
from tests.unit.bench.word_runs import BACK, STEADY, THERE, span_of, waits, word_run

CONTRACT = json.loads((ROOT / "docs/contracts/bench.schema.json").read_text(encoding="utf-8"))

FAST = WordOptions(rate=MAX)
OPEN = WordOptions(rate=1_000_000)


def judged(*runs, **beside):
    """(bound, met) of each figure that has one."""
    return {
        each.name: (each.bound, each.met)
        for each in figures_of(list(runs), **beside)
        if each.bound is not None
    }


@pytest.mark.parametrize(
    ("domain", "least"), [(1_000_000, 12e6), (16_000_000, 8e6)], ids=["1 M", "16 M"]
)
def test_full_speed_is_held_to_its_rate_and_to_its_part_of_the_fold(domain, least):
    options = replace(FAST, domain=domain)
    kept = judged(word_run(options, rate=least, bare=least / 0.4))
    assert kept == {
        "records counted by each worker": (least, True),
        "records counted over the fold alone": (0.4, True),
    }
    slow = judged(word_run(options, rate=least - 1, bare=least / 0.4))
    assert [met for _, met in slow.values()] == [False, False]


def test_one_worker_of_bytewax_is_beaten_forty_times():
    name = "records counted over those of Bytewax"
    assert judged(word_run(FAST, rate=20e6), peers=[5e5])[name] == (40, True)
    assert judged(word_run(FAST, rate=20e6), peers=[5e5 + 1])[name] == (40, False)


@pytest.mark.parametrize(
    "options",
    [
        replace(FAST, domain=2_000_000),
        replace(FAST, workers=3),
        replace(FAST, backend=Backend.VEC),
        replace(OPEN, rate=500_000),
        replace(OPEN, workers=1),
    ],
)
def test_a_run_of_another_size_is_only_recorded(options):
    assert judged(word_run(options, rate=1.0, bare=1e9), peers=[1e9]) == {}


@pytest.mark.parametrize(
    ("parts", "name", "bound"),
    [
        ([(51, 1.5), (49, 0.0)], "latency by frontier, p50", 1.5),
        ([(2, 4.0), (98, 0.0)], "latency by frontier, p99", 4.0),
        ([(1, 28.0), (199, 0.0)], "latency by frontier, max less the run's stall", 25.0),
    ],
)
def test_the_open_loop_is_met_at_its_bound_and_missed_above(parts, name, bound):
    def at(times):
        """All waits of the figure so many times as long; the machine stood still for 3 ms."""
        found = waits(*((STEADY, records, times * ms) for records, ms in parts))
        return judged(word_run(OPEN, frontier=found, stall_ms=3.0))

    assert at(1.0)[name] == (bound, True)
    assert at(1.001)[name] == (bound, False)
    others = {each: met for each, (_, met) in at(1.001).items() if each != name}
    assert others
    assert all(others.values())


@pytest.mark.parametrize("bins", [1 << 8, 1 << 16])
def test_bins_are_held_to_their_part_of_a_run_without(bins):
    options = replace(OPEN, bins=bins)
    native = word_run(OPEN, rate=1e6, frontier=waits((STEADY, 100, 2.0)))
    fast = word_run(options, rate=0.85e6, frontier=waits((STEADY, 100, 2.6)))
    kept = judged(fast, natives=[native])
    assert kept["records counted over those without bins"] == (0.85, True)
    assert kept["p99 over that without bins"] == (1.3, True)
    slow = word_run(options, rate=0.849e6, frontier=waits((STEADY, 100, 2.601)))
    missed = judged(slow, natives=[native])
    assert missed["records counted over those without bins"] == (0.85, False)
    assert missed["p99 over that without bins"] == (1.3, False)
    other = judged(replace(slow, options=replace(slow.options, bins=1024)), natives=[native])
    assert "p99 over that without bins" not in other


def test_a_ratio_is_taken_inside_each_run():
    # BD1: of the medians, 2 over 2, it would be 1.
    runs = [word_run(OPEN, rate=rate) for rate in (1e6, 2e6, 3e6)]
    natives = [word_run(OPEN, rate=rate) for rate in (2e6, 4e6, 1e6)]
    figures = {each.name: each for each in figures_of(runs, natives)}
    ratio = figures["records counted over those without bins"]
    assert (ratio.median, ratio.min, ratio.max) == (0.5, 0.5, 3.0)


def moving(strategy, **said):
    """A run of 16 M keys whose moves there and back take half a second each, unless said."""
    there, back = (span_of(second, 0.5, nbytes=10**9) for second in (4.1, 8.1))
    spans = said.pop("spans", [there, back])
    domain = said.pop("domain", 16_000_000)
    options = replace(OPEN, domain=domain, precopy=said.pop("precopy", False))
    return word_run(replace(options, migration=strategy), spans=spans, **said)


@pytest.mark.parametrize(("move", "at"), [("first move", 4.1), ("second move", 8.1)])
def test_each_move_is_held_to_waves_gaps_and_bytes_a_second_by_itself(move, at):
    def spans(**said):
        """Both moves as they should be, and this one as it is said."""
        good = {"seconds": 0.5, "waves": 13, "gap_ms": 20, "nbytes": 2 * 10**8} | said
        return [
            span_of(second, **(good if second == at else good | {"waves": 13, "gap_ms": 20}))
            for second in (4.1, 8.1)
        ]

    names = {f"{each} move: {what}" for each in ("first", "second") for what in ("waves",)}
    fluid = judged(moving("fluid", spans=spans()))
    assert {name for name in fluid if name.endswith("waves")} == names
    assert all(met for _, met in fluid.values())
    few = judged(moving("fluid", spans=spans(waves=12)))
    assert {name for name, (_, met) in few.items() if not met} == {f"{move}: waves"}
    assert few[f"{move}: waves"] == (25, False)
    late = judged(moving("fluid", spans=spans(gap_ms=20.001)))
    gap = f"{move}: gap between waves, median"
    assert [name for name, (_, met) in late.items() if not met] == [gap]

    def rate(nbytes):
        """All at once, this move of so many bytes."""
        both = [
            span_of(second, 0.5, nbytes=nbytes if second == at else 2 * 10**8)
            for second in (4.1, 8.1)
        ]
        return judged(moving("sudden", spans=both))

    assert rate(2 * 10**8)[f"{move}: state moved"] == (400, True)
    slow = rate(2 * 10**8 - 10**6)
    assert [name for name, (_, met) in slow.items() if not met] == [f"{move}: state moved"]


@pytest.mark.parametrize(("move", "window"), [("first move", THERE), ("second move", BACK)])
def test_each_batched_move_is_held_to_its_latencies_by_itself(move, window):
    at_rest, other = (STEADY, 100, 2.0), (THERE + BACK - window, 100, 2.0)

    def batched(**waiting):
        stayed = waits(at_rest, other, (window, 100, waiting.get("stayed", 3.0)))
        moved = waits((window, 100, waiting.get("moved", 53.0)))
        found = judged(moving("batched", stayed=stayed, moved=moved, stall_ms=3.0))
        return {name: held for name, held in found.items() if "move: " in name}

    staying = f"{move}: bins that stay, p99 over steady"
    longest = f"{move}: by record, max less the run's stall"
    assert len(batched()) == 4
    assert (batched()[staying], batched()[longest]) == ((1.5, True), (50, True))
    slow = batched(stayed=3.001)
    assert [name for name, (_, met) in slow.items() if not met] == [staying]
    late = batched(moved=53.001)
    assert [name for name, (_, met) in late.items() if not met] == [longest]


def test_a_peak_is_held_to_a_tenth_and_256_mb_above_the_steady_size():
    name, steady = "peak beyond the steady size and a tenth", (1.0, 1_000_000_000)

    def at(peaks, *readings):
        return judged(moving("sudden", rss=(steady, *readings), peaks=peaks))[name]

    # What a worker's mark is beyond its readings counts in full: here 178 MB each.
    assert at((678_000_000, 678_000_000)) == (256, True)
    assert at((678_000_000, 678_000_001)) == (256, False)
    # One that had its most while the other had its least is no more than what both had at once.
    assert at((500_000_000, 856_000_000)) == (256, True)
    assert at((500_000_000, 856_000_001)) == (256, False)
    moving_bins = ((8.0, (900_000_000, 300_000_000)), (9.0, (300_000_000, 1_000_000_000)))
    assert at((900_000_000, 1_000_000_000), *moving_bins) == (256, True)
    assert at((900_000_000, 1_056_000_000), *moving_bins) == (256, True)
    assert at((900_000_000, 1_056_000_001), *moving_bins) == (256, False)
    # Without marks the greatest reading; what was read after the run is its proof's.
    assert at((), (9.0, 1_356_000_000), (12.5, 9 * 10**9)) == (256, True)
    assert at((), (9.0, 1_356_000_001)) == (256, False)


def beside_strategy(ours, theirs, **said):
    """Figures of all at once over fluid: longest waits by frontier in both moves, ms."""
    pair = [
        moving(strategy, frontier=waits((THERE, 1, ms[0]), (BACK, 1, ms[1])), **said)
        for strategy, ms in (("sudden", ours), ("fluid", theirs))
    ]
    found = {each.name: each for each in figures_of(pair[:1], others=pair[1:])}
    return [
        found[f"{move} move: by frontier, max, sudden over fluid"] for move in ("first", "second")
    ]


def test_fluid_waits_a_tenth_of_all_at_once_at_most_in_either_move():
    first, second = beside_strategy((200.0, 99.9), (20.0, 10.0), domain=64_000_000)
    assert (first.bound, first.met, first.median) == (10, True, 10)
    assert (second.bound, second.met, second.median) == (10, False, 9.99)
    for said in ({"domain": 16_000_000}, {"domain": 64_000_000, "precopy": True}):
        recorded = beside_strategy((1.0, 1.0), (20.0, 10.0), **said)
        assert [each.bound for each in recorded] == [None, None]


def beside_domain(ours, theirs, domain=16_000_000, precopy=True):
    """Figures of all at once with more keys over fewer: waits of bins that move, ms."""
    pair = [
        moving("sudden", domain=keys, precopy=precopy, moved=waits((THERE, 1, a), (BACK, 1, b)))
        for keys, (a, b) in ((domain, ours), (4_000_000, theirs))
    ]
    found = list(figures_of(pair[:1], others=pair[1:]))
    return [each for each in found if each.name.endswith("over 4,000,000 keys")]


def test_a_copied_move_of_four_times_the_state_waits_half_as_long_again_at_most():
    first, second = beside_domain((30.0, 15.01), (20.0, 10.0))
    assert first.name == "first move: bins that move, max, 16,000,000 over 4,000,000 keys"
    assert (first.bound, first.met) == (1.5, True)
    assert (second.bound, second.met) == (1.5, False)
    assert [each.bound for each in beside_domain((9, 9), (1, 1), domain=8_000_000)] == [None, None]
    assert [each.bound for each in beside_domain((9, 9), (1, 1), precopy=False)] == [None, None]


def test_what_stands_beside_a_run_is_made_in_turns_and_told_in_the_document():
    options = replace(OPEN, migration="sudden", domain=64_000_000)
    other = other_of(options, "fluid", 0)
    asked = []

    def direct(given):
        asked.append(given.migration)
        return moving(given.migration, domain=given.domain)

    made = make_runs(options, 2, other=other, direct=direct)
    assert asked == ["sudden", "fluid", "sudden", "fluid"]
    document = json.loads(document_of(made, {}).json())
    Draft202012Validator(CONTRACT).validate(document)
    assert document["parameters"]["beside_strategy"] == "fluid"
    fewer = make_runs(options, 1, other=other_of(options, "", 16_000_000), direct=direct)
    assert json.loads(document_of(fewer, {}).json())["parameters"]["beside_domain"] == 16_000_000


def test_a_comparison_that_says_nothing_is_refused_by_name():
    options = replace(OPEN, migration="sudden")
    assert other_of(options, "", 0) is None
    for given, strategy, domain, said in (
        (options, "fluid", 9, "one comparison at a time"),
        (OPEN, "fluid", 0, "--beside-strategy compares waits while bins move"),
        (replace(options, rate=MAX), "", 9, "--beside-domain compares waits while bins move"),
        (options, "sudden", 0, "another than --migration sudden"),
        (options, "none", 0, "must be one of sudden, fluid, batched, optimized"),
        (options, "", 1_000_000, "that is what --domain says already"),
    ):
        with pytest.raises(UsageError, match=said):
            other_of(given, strategy, domain)
