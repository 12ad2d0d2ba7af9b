"""Proves that every output is the running aggregate of the inputs, which DuckDB computes again.

Flow: Parquet files of bids and outputs (readback), migrations -> [prove] -> Verdict.

The oracle shares nothing with the service but the question. Bids are numbered per auction in the
order of their partition; the k-th has a running sum and a running maximum. An output that counts k
bids must equal the k-th, and its `oldest` must be the smallest date_time of the bids that came
after the auction's output before it.

Invariants
  P1  An output that is lost, repeated, reordered, altered or made up is a violation of at least one
      check; the tests break each of them and name the check.
  P2  Never exact: nothing compared, no migration, or no change of ownership that outputs show. A
      single change may stay unseen for want of outputs; one that outputs contradict may not.
  P3  Memory is bounded by the rows of one slice (`_SLICE_ROWS`), not by the length of the run, as
      long as no bin is larger than that. Slices are whole bins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from demo import ownership
from demo.ownership import Migration

_SLICE_ROWS = 2_000_000
_MEMORY_LIMIT = "2GB"
_SAMPLES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is to be judged.

    Attributes:
        folder: holds bids-*.parquet and outputs-*.parquet, as `readback` writes them.
        bins: how many bins the job has.
        owners: the worker of each bin when the job started.
        migrations: those that completed, in order.
        events: records of the input topic.
        published: how many events the generator says it sent.
        unreadable: records of either topic that could not be decoded.
    """

    folder: Path
    bins: int
    owners: Sequence[int]
    migrations: Sequence[Migration]
    events: int
    published: int
    unreadable: int = 0


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what must hold, how often it did not, and examples."""

    name: str
    claim: str
    violations: int
    samples: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the proof found.

    Attributes:
        outputs_compared: outputs that were compared with the running aggregate.
        bids: bids of the input.
        auctions: distinct auctions of the input.
        bids_counted: sum over auctions of the count in the last output.
        changes: (bin, migration) pairs whose ownership was to change.
        changes_witnessed: those that the outputs' headers show.
        findings: one per check.
    """

    outputs_compared: int
    bids: int
    auctions: int
    bids_counted: int
    changes: int
    changes_witnessed: int
    findings: Sequence[Finding]

    @property
    def violated(self) -> list[Finding]:
        """The checks that failed."""
        return [finding for finding in self.findings if finding.violations]

    @property
    def exact(self) -> bool:
        """Whether something was compared and every check holds (P2)."""
        return self.outputs_compared > 0 and not self.violated


@dataclass(frozen=True, slots=True)
class _Check:
    """Rows of `table` that meet `condition` are violations."""

    name: str
    claim: str
    table: str
    condition: str


_CHECKS = (
    _Check(
        "count",
        "each output counts as many bids as its auction had at some moment",
        "compared",
        "expected_total is null",
    ),
    _Check(
        "total",
        "each output's total is the running sum at its count",
        "compared",
        "total <> expected_total",
    ),
    _Check(
        "highest",
        "each output's highest is the running maximum at its count",
        "compared",
        "highest <> expected_highest",
    ),
    _Check(
        "oldest",
        "each output's oldest is the smallest date_time since the output before it",
        "absorbed",
        "oldest <> expected_oldest",
    ),
    _Check(
        "order",
        "an auction's counts increase from output to output",
        "compared",
        "bids <= bids_before",
    ),
    _Check(
        "last",
        "each auction's last output counts all its bids",
        "ends",
        "bids is distinct from expected_bids",
    ),
    _Check("key", "each message's key is its auction", "compared", "key is distinct from auction"),
    _Check(
        "bin", "each bin header is the bin of the auction's hash", "compared", "bin <> hash_bin"
    ),
    _Check(
        "partition",
        "an auction stays in one partition of each topic",
        "places",
        "first_partition <> last_partition",
    ),
)

#: Bids of one slice with their running aggregate, in the order of their partition.
_RUNNING = """
create or replace temp table running as
select auction, partition, date_time,
       row_number() over sequence as n,
       cast(sum(price) over sequence as bigint) as total,
       max(price) over sequence as highest
from read_parquet($bids) where hash_bin % $slices = $slice
window sequence as (partition by auction order by partition, "offset"
                    rows between unbounded preceding and current row)
"""
#: Outputs of the slice beside the running aggregate at their count, and the output before each.
_COMPARED = """
create or replace temp table compared as
select o.*, r.total as expected_total, r.highest as expected_highest
from (select *, lag(bids) over sequence as bids_before, lead(bids) over sequence is null as is_last
      from read_parquet($outputs) where hash_bin % $slices = $slice
      window sequence as (partition by auction order by partition, "offset")) o
left join running r on o.auction = r.auction and o.bids = r.n
"""
#: Each bid belongs to the first output that counts it; outputs with what they absorbed.
_ABSORBED = """
create or replace temp table absorbed as
select o.auction, o.bids, any_value(o.partition) as partition, any_value(o."offset") as "offset",
       any_value(o.oldest) as oldest, min(r.date_time) as expected_oldest
from running r asof join compared o on r.auction = o.auction and r.n <= o.bids
group by o.auction, o.bids
"""
_ENDS = """
create or replace temp table ends as
select auction, o.bids, r.bids as expected_bids
from (select auction, max(n) as bids from running group by auction) r
full join (select auction, bids from compared where is_last) o using (auction)
"""
_PLACES = """
create or replace temp table places as
select topic, auction, min(partition) as first_partition, max(partition) as last_partition
from (select 'input' as topic, auction, partition from running
      union all select 'output', auction, partition from compared)
group by topic, auction
"""
_STEPS = (_RUNNING, _COMPARED, _ABSORBED, _ENDS, _PLACES)

_PATHS = """
select hash_bin, partition, list(worker order by "offset")
from (select hash_bin, partition, "offset", worker,
             lag(worker) over (partition by hash_bin, partition order by "offset") as worker_before
      from compared)
where worker is distinct from worker_before
group by hash_bin, partition
"""
_SIGHTINGS = """
select distinct hash_bin, phase, worker
from compared join quiet on written_ms * 1000 >= from_us and written_ms * 1000 < until_us
"""
_COUNTS = """
select (select count(*) from compared),
       (select count(*) from running),
       (select count(*) from ends where expected_bids is not null),
       (select coalesce(sum(bids), 0) from compared where is_last)
"""


@dataclass(slots=True)
class _Sums:
    """What the slices add up to."""

    outputs: int = 0
    bids: int = 0
    auctions: int = 0
    bids_counted: int = 0
    violations: dict[str, int] = field(default_factory=dict)
    samples: dict[str, list[str]] = field(default_factory=dict)
    paths: list[ownership.Path] = field(default_factory=list)
    sightings: list[ownership.Sighting] = field(default_factory=list)


def prove(
    evidence: Evidence,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
    *,
    threads: int = 2,
    slice_rows: int = _SLICE_ROWS,
) -> Verdict:
    """Judge the evidence.

    Args:
        evidence: what was read back.
        progress: called with (slices done, slices).
        threads: how many DuckDB may use.
        slice_rows: rows of bids and outputs computed at a time, roughly.

    Cost: 14 M bids and 8 M outputs take 15 s of two cores and 1 GB.
    """
    connection = duckdb.connect()
    try:
        connection.execute("set threads = ?", [threads])
        connection.execute("set memory_limit = ?", [_MEMORY_LIMIT])
        connection.execute("set temp_directory = ?", [str(evidence.folder / "spill")])
        connection.execute("set preserve_insertion_order = false")
        return _verdict(evidence, _sums(connection, evidence, progress, slice_rows))
    finally:
        connection.close()


def _sums(
    connection: duckdb.DuckDBPyConnection,
    evidence: Evidence,
    progress: Callable[[int, int], None],
    slice_rows: int,
) -> _Sums:
    connection.execute("create temp table quiet (phase int, from_us bigint, until_us bigint)")
    for phase, (start, end) in enumerate(ownership.quiet_phases(evidence.migrations)):
        connection.execute("insert into quiet values (?, ?, ?)", [phase, start, end])
    files = {
        "bids": str(evidence.folder / "bids-*.parquet"),
        "outputs": str(evidence.folder / "outputs-*.parquet"),
    }
    rows = sum(
        connection.execute("select count(*) from read_parquet(?)", [pattern]).fetchall()[0][0]
        for pattern in files.values()
    )
    slices = min(evidence.bins, 1 + rows // slice_rows)
    sums = _Sums()
    for number in range(slices):
        for step in _STEPS:
            _run(connection, step, {**files, "slices": slices, "slice": number})
        _add(sums, connection)
        progress(number + 1, slices)
    return sums


def _run(connection: duckdb.DuckDBPyConnection, step: str, values: dict[str, int | str]) -> None:
    """Run one step with those of the values that it names."""
    connection.execute(step, {name: v for name, v in values.items() if f"${name}" in step})


def _add(sums: _Sums, connection: duckdb.DuckDBPyConnection) -> None:
    """Add what the tables of the current slice show."""
    outputs, bids, auctions, counted = connection.execute(_COUNTS).fetchall()[0]
    sums.outputs += outputs
    sums.bids += bids
    sums.auctions += auctions
    sums.bids_counted += int(counted)
    for check in _CHECKS:
        bad = connection.table(check.table).filter(check.condition)
        violations = bad.aggregate("count(*)").fetchall()[0][0]
        sums.violations[check.name] = sums.violations.get(check.name, 0) + violations
        samples = sums.samples.setdefault(check.name, [])
        if violations and len(samples) < _SAMPLES:
            samples.extend(_described(bad.limit(_SAMPLES - len(samples))))
    for bin_, partition, workers in connection.execute(_PATHS).fetchall():
        sums.paths.append(ownership.Path(bin_, partition, workers))
    for bin_, phase, worker in connection.execute(_SIGHTINGS).fetchall():
        sums.sightings.append(ownership.Sighting(bin_, phase, worker))


def _described(rows: duckdb.DuckDBPyRelation) -> Iterator[str]:
    for row in rows.fetchall():
        yield ", ".join(f"{name} {value}" for name, value in zip(rows.columns, row))


def _verdict(evidence: Evidence, sums: _Sums) -> Verdict:
    judgement = ownership.judge(evidence.owners, evidence.migrations, sums.paths, sums.sightings)
    changes, changes_witnessed = sum(judgement.changes), sum(judgement.witnessed)
    findings = [
        Finding(check.name, check.claim, sums.violations[check.name], sums.samples[check.name])
        for check in _CHECKS
    ]
    findings += [
        _equal(
            "sum",
            "the counts of the last outputs add up to the bids of the input",
            sums.bids_counted,
            sums.bids,
        ),
        _equal(
            "published",
            "the input topic holds what the generator sent",
            evidence.events,
            evidence.published,
        ),
        _equal("readable", "every record can be decoded, to its last byte", evidence.unreadable, 0),
        Finding(
            "owner",
            "each output was written by its bin's owner of that time",
            judgement.violations,
            judgement.samples,
        ),
        Finding(
            "moved",
            "outputs show bins with their old owner before a migration, their new one after",
            int(changes_witnessed == 0),
            [f"{changes_witnessed} of {changes} changes of ownership seen"],
        ),
    ]
    return Verdict(
        outputs_compared=sums.outputs,
        bids=sums.bids,
        auctions=sums.auctions,
        bids_counted=sums.bids_counted,
        changes=changes,
        changes_witnessed=changes_witnessed,
        findings=findings,
    )


def _equal(name: str, claim: str, found: int, expected: int) -> Finding:
    difference = abs(found - expected)
    samples = [f"{found:,} instead of {expected:,}"] if difference else []
    return Finding(name, claim, difference, samples)
