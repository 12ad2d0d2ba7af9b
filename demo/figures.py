"""The main job's figures: several whole runs, their medians, one document.

Flow: `python -m demo.figures --rate R --seconds S --runs N` -> N runs of the demo, each with its
proof -> summary.json of each -> [figures_of] -> BenchDocument on standard output, logs on standard
error. Exit status 0, 1 if a run failed or was inexact, 3 if a figure was missed.

Invariants
  FG1  A ratio (migrating to steady) and an allowance (a run's own stall) are taken inside each run,
       never between medians.
  FG2  A run that failed or was inexact ends the benchmark: there is no median without it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, cast

import typer

from demo.summary import Summary
from service.bench.document import BenchDocument, Figure
from service.bench.machine import commit, machine
from service.broker.lookup import open_broker

#: Bounds of docs/benchmarks/main-job.md.
LATE_SHARE_MAX = 0.01
LAG_GROWTH_SHARE_MAX = 0.01
STEADY_P99_MS_MAX = 30.0
MIGRATING_RATIO_MAX = 1.5
MIGRATING_MAX_MS = 100.0
#: From this rate on a run shows what is sustained; below it, how late results are.
_THROUGHPUT_RATE = 200_000


def figures_of(runs: Sequence[Summary], rate: int) -> list[Figure]:
    """Figures of runs at one `rate`; latency bounds hold at 100,000 events/s and below (FG1)."""
    steady = [run["latency_ms"]["steady"] for run in runs]
    moving = [run["latency_ms"]["migrating"] for run in runs]
    stalls = [float(run["machine"]["stall_ms"]) for run in runs]
    bounded = rate < _THROUGHPUT_RATE
    return [
        Figure.of(
            "generator late",
            "of events",
            [r["generator"]["late_fraction"] for r in runs],
            at_most=LATE_SHARE_MAX,
        ),
        Figure.of(
            "lag growth",
            "events/s",
            [r["lag"]["growth_per_second"] for r in runs],
            at_most=LAG_GROWTH_SHARE_MAX * rate,
        ),
        Figure.of("throughput", "events/s", [r["throughput_events_per_second"] for r in runs]),
        Figure.of("steady p50", "ms", [s["p50"] for s in steady]),
        Figure.of(
            "steady p99",
            "ms",
            [s["p99"] for s in steady],
            at_most=STEADY_P99_MS_MAX if bounded else None,
        ),
        Figure.of("migrating p99", "ms", [m["p99"] for m in moving]),
        Figure.of(
            "migrating p99 / steady p99",
            "",
            [m["p99"] / s["p99"] for m, s in zip(moving, steady, strict=True)],
            at_most=MIGRATING_RATIO_MAX if bounded else None,
        ),
        Figure.of("migrating max", "ms", [m["max"] for m in moving]),
        Figure.of(
            "migrating max - stall",
            "ms",
            [m["max"] - stall for m, stall in zip(moving, stalls, strict=True)],
            at_most=MIGRATING_MAX_MS if bounded else None,
        ),
        Figure.of(
            "move of a quarter of the bins",
            "ms",
            [float(move["duration_ms"]) for r in runs for move in r["migrations"]],
        ),
        Figure.of("stall", "ms", stalls),
    ]


def main(
    rate: Annotated[int, typer.Option(help="events per second")] = 100_000,
    seconds: Annotated[int, typer.Option(help="length of each stream")] = 60,
    runs: Annotated[int, typer.Option(min=1, help="how many whole runs")] = 5,
    state_keys: Annotated[int, typer.Option(help="auctions opened before")] = 2_000_000,
    output: Annotated[str, typer.Option(help="text or json")] = "text",
) -> None:
    """Run the demo several times on one broker and print the medians of its figures."""
    summaries = []
    with open_broker() as broker:
        for number in range(runs):
            print(f"run {number + 1} of {runs}", file=sys.stderr)
            summaries.append(_run(broker.bootstrap_servers, rate, seconds, state_keys))
    stall = max(float(summary["machine"]["stall_ms"]) for summary in summaries)
    document = BenchDocument(
        "main-job",
        commit(),
        {**machine(), "stall_ms": stall},
        {"rate": rate, "seconds": seconds, "runs": runs, "state_keys": state_keys},
        figures_of(summaries, rate),
    )
    print(document.json() if output == "json" else document.text())
    raise typer.Exit(document.exit_status)


def _run(bootstrap_servers: str, rate: int, seconds: int, state_keys: int) -> Summary:
    """One whole run in a process of its own (FG2)."""
    with tempfile.TemporaryDirectory(prefix="megaphone-figures-") as folder:
        arguments = {
            "--rate": rate,
            "--seconds": seconds,
            "--state-keys": state_keys,
            "--report-dir": folder,
        }
        flat = [str(part) for pair in arguments.items() for part in pair]
        ended = subprocess.run(
            [sys.executable, "-m", "demo", *flat],
            env={**os.environ, "KAFKA_BOOTSTRAP_SERVERS": bootstrap_servers},
            stdout=sys.stderr,
            check=False,
        )
        if ended.returncode != 0:
            print(f"a run ended with status {ended.returncode}", file=sys.stderr)
            raise typer.Exit(1)
        return cast(Summary, json.loads((Path(folder) / "summary.json").read_text("utf-8")))


if __name__ == "__main__":
    typer.run(main)
