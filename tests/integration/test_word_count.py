"""Word-count in real processes: keys move while they are counted, and every count is exact."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from service.bench.experiments.charts import draw
from service.bench.experiments.command import files_of
from service.bench.experiments.report import page
from service.bench.experiments.results import read_result
from service.bench.experiments.sets import Group
from service.bench.experiments.store import Store
from service.bench.words.command import WordRuns, document_of
from service.bench.words.director import direct
from service.bench.words.lines import lines_of
from service.bench.words.options import MAX, Backend, WordOptions
from service.bench.words.outcome import WordRun
from tests.tidy.source import ROOT

CONTRACT = json.loads((ROOT / "docs/contracts/bench.schema.json").read_text(encoding="utf-8"))
TINY = WordOptions(
    rate=20_000,
    duration_s=2.0,
    migration="fluid",
    domain=3_000,
    bins=16,
    batch=1 << 12,
    validate=True,
)

#: What the system's counters of a process may be apart at two readings.
READING_BYTES = 1 << 20


def contract_of(run: WordRun) -> dict[str, object]:
    document: dict[str, object] = json.loads(document_of(WordRuns([run], [], []), {}).json())
    Draft202012Validator(CONTRACT).validate(document)
    return document


@pytest.mark.parametrize("backend", [Backend.HASH, Backend.VEC])
def test_bins_move_both_ways_while_every_count_stays_exact(
    backend: Backend, tmp_path: Path
) -> None:
    options = replace(TINY, backend=backend)
    # `validate`: the count of each key is compared with the stream drawn again.
    run = direct(options)
    assert run.records == [40_000, 40_000]
    there, back = run.spans
    assert len(there.waves) == len(back.waves) == 4
    assert sum(wave.bins for wave in there.waves) == 4
    assert there.bytes > 0
    assert [bin_ for _, bin_, _, _ in run.left] == 2 * [8, 9, 10, 11]
    # Every record has its latency, by frontier and by record, whatever bin it is of.
    assert run.frontier.counts.sum() == run.by_record.counts.sum() == 80_000
    assert run.moved.counts.sum() == pytest.approx(20_000, rel=0.1)
    # Both workers have a mark, and had no more at once than their marks together.
    assert len(run.peaks) == 2
    assert all(run.peaks)
    assert run.rss_steady() <= run.rss_peak()
    assert max(run.peaks) < run.rss_peak() <= sum(run.peaks) + READING_BYTES
    contract_of(run)

    store = Store(tmp_path, "abc")
    assert not store.is_done(options)
    store.prepare(options)
    lines = list(lines_of(run))
    store.keep(options, lines, "{}")
    assert store.is_done(options)
    result = read_result(store.lines(options), options.duration_ns)
    assert (result.backend, result.bin_shift) == (backend.original, 4)
    assert sum(count for _, _, count in result.ccdf) == run.frontier.over(run.counted_windows).count
    assert len(result.waves) == len(result.bytes) == 8
    assert sum(line.startswith("migration\t") for line in lines) == 8
    assert all(window.values["p50"] <= window.values["max"] for window in _windows(result))
    groups = [Group("domain", "domain", (options,))]
    pictures = draw(groups, store)
    assert set(pictures) == {"domain", "timeline", "memory"}
    html = page(groups, store, pictures, {"cpus": 2}, "abc")
    assert html.count("data:image/png;base64,") == 3
    told = files_of(groups, store, pictures, tmp_path / "report.html", "abc")
    (result,) = told["results"].values()
    assert all(Path(path).is_file() for path in (*told["charts"].values(), result))


def _windows(result):
    return [window for timeline in result.timelines.values() for window in timeline]


@pytest.mark.parametrize("backend", [Backend.HASH_NATIVE, Backend.VEC_NATIVE, Backend.HASH])
def test_at_full_speed_nothing_is_lost_with_bins_and_without(backend: Backend) -> None:
    run = direct(
        replace(
            TINY, backend=backend, rate=MAX, migration="none", duration_s=1.0, workers=3, bare_s=0.1
        )
    )
    assert all(records > 0 and records % TINY.batch == 0 for records in run.records)
    assert all(rate > 0 for rate in run.bare)
    assert run.rows == TINY.domain
    assert not run.spans
    document = contract_of(run)
    names = [figure["name"] for figure in document["figures"]]
    assert "records counted by each worker" in names
    assert not any("latency" in name for name in names)
