"""A query in another stream processor, on the same events: its rate, and whether it is right.

Flow: Drawn -> JSON lines -> [run_beside] starts the peer's side with its own interpreter -> rate,
rows -> oracle.

Invariants
  NB1  A peer's figure counts only if its rows are those of the oracle.
  NB2  A peer is given the fields that the query needs, by event time, as objects that are there
       before its clock starts, and one core, as ours is. Its clock stops with its last result.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.json as pa_json

from service.bench.nexmark.oracle import differences, expected
from service.bench.nexmark.stream import Drawn
from service.errors import MegaphoneError
from service.json_text.encoder import JsonEncoder
from service.nexmark.rules import RULES

_ROOT = Path(__file__).parents[3]
_SECONDS_MAX = 900.0
#: What the peer's query needs of each type.
_FIELDS: dict[str, dict[str, list[str]]] = {
    "q0": {"bid": list(RULES["q0"].columns)},
    "q1": {"bid": list(RULES["q1"].columns)},
    "q2": {"bid": list(RULES["q2"].columns)},
    "q3": {"auction": ["id", "seller", "category"], "person": ["id", "name", "city", "state"]},
    "q4": {
        "auction": ["id", "reserve", "date_time", "expires", "category"],
        "bid": ["auction", "price", "date_time"],
    },
    "q5": {"bid": ["auction", "date_time"]},
    "q6": {
        "auction": ["id", "reserve", "date_time", "expires", "seller"],
        "bid": ["auction", "price", "date_time"],
    },
    "q7": {"bid": ["auction", "bidder", "price", "date_time", "extra"]},
    "q8": {"auction": ["seller", "date_time"], "person": ["id", "name", "date_time"]},
}


@dataclass(frozen=True, slots=True)
class Beside:
    """One run of a peer."""

    seconds: float


def can_express(query: str) -> bool:
    """Whether there is a peer's side of a query."""
    return query in _FIELDS


def run_beside(python: Path, module: str, query: str, stream: Drawn) -> Beside:
    """Run a peer's side on a stream.

    Args:
        python: the interpreter of its environment.
        module: its side.
        query: which.
        stream: the events, a small one: a peer takes some microseconds for each.

    Raises:
        MegaphoneError: it failed, or its rows are wrong (NB1).

    Cost: its run, and 2 us an event to write and read them.
    """
    with tempfile.TemporaryDirectory(prefix="megaphone-peer-") as folder:
        events, results = Path(folder) / "events.jsonl", Path(folder) / "results.jsonl"
        with events.open("wb") as out:
            for lines in _lines(query, stream):
                out.write(lines)
        done = subprocess.run(
            [python, "-m", module, query, str(events), str(results)],
            cwd=_ROOT,  # where `-m` finds the package: it is not installed there
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS_MAX,
        )
        if done.returncode:
            last = done.stderr.strip().rpartition("\n")[2]
            raise MegaphoneError(f"{module} failed at {query}: {last}")
        wrong = differences(query, _rows(query, results), expected(query, stream.recorded()))
    if wrong:
        raise MegaphoneError(f"{module} is not exact: {'; '.join(wrong)}")
    return Beside(json.loads(done.stdout)["took_ns"] / 1e9)


def _lines(query: str, stream: Drawn) -> Iterator[bytes]:
    """The events a peer is given, each a line, by event time and of equal times as they came."""
    encoder = JsonEncoder()
    for batch in stream.batches:
        lines, times = [], []
        for kind, fields in _FIELDS[query].items():
            rows = batch[kind].select(fields)
            columns = dict(zip(fields, rows.columns, strict=True))
            if len(_FIELDS[query]) > 1:
                columns["kind"] = pa.array([kind] * rows.num_rows)
            if rows.num_rows:
                data, offsets = encoder.encode(columns)
                buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
                lines.append(pa.Array.from_buffers(pa.large_binary(), rows.num_rows, buffers))
                times.append(batch[kind].column("date_time").to_numpy())
        if lines:
            order = np.argsort(np.concatenate(times), kind="stable")
            yield b"\n".join(pa.concat_arrays(lines).take(pa.array(order)).to_pylist()) + b"\n"


def _rows(query: str, path: Path) -> pa.Table:
    """The peer's rows."""
    columns = RULES[query].columns
    if not path.stat().st_size:
        return pa.table({name: pa.array([], pa.string()) for name in columns})
    read: pa.Table = pa_json.read_json(path)
    return read
