"""The examples of docs/FLOWS.md give what the page says they give.

Blocks marked `start` open every example, `input` holds the records, `after` runs when the flow of
the example before it has ended; all others are examples, each followed by what it gives, one line a
row: `stream: column=value ...`, with the epoch where the block is marked `timed`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import megaphone as mp
from tests.fakes.small_job import SmallJob

PAGE = (Path(__file__).parents[2] / "docs" / "FLOWS.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)(?: ([\w-]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall(PAGE)
LINE = re.compile(r"(\w+) @ (\d+): (.*)")
(START,) = (text for _, label, text in BLOCKS if label == "start")
(INPUT,) = (text for _, label, text in BLOCKS if label == "input")
SCHEMA = pa.schema(
    [
        ("auction", pa.int64()),
        ("bidder", pa.int64()),
        ("price", pa.int64()),
        ("channel", pa.string()),
    ]
)


def examples() -> list[list[tuple[str, str, str]]]:
    """Each example: its code, what it gives, and what runs after it."""
    found: list[list[tuple[str, str, str]]] = []
    for language, label, text in BLOCKS:
        if label in ("start", "input"):
            continue
        if language == "python" and label != "after":
            found.append([])
        found[-1].append((language, label, text))
    return found


def batches() -> dict[int, pa.RecordBatch]:
    """The records of the page, by epoch."""
    records: dict[int, list[dict[str, Any]]] = {}
    for line in INPUT.splitlines():
        _, epoch, cells = LINE.fullmatch(line).groups()
        record: dict[str, Any] = dict(cell.split("=") for cell in cells.split(" "))
        for name in ("auction", "bidder", "price"):
            record[name] = int(record[name])
        records.setdefault(int(epoch), []).append(record)
    return {
        epoch: pa.RecordBatch.from_pylist(found, schema=SCHEMA) for epoch, found in records.items()
    }


def shown(name: str, epoch: int, rows: pa.RecordBatch, *, timed: bool) -> list[str]:
    head = f"{name} @ {epoch}: " if timed else f"{name}: "
    return [
        head + " ".join(f"{column}={value}" for column, value in record.items())
        for record in rows.to_pylist()
    ]


@pytest.mark.parametrize("blocks", examples(), ids=lambda blocks: blocks[0][2].split(" ")[0])
def test_an_example_gives_what_the_page_says(
    blocks: list[tuple[str, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(START, "FLOWS.md", "exec"), names)
    exec(compile(blocks[0][2], "FLOWS.md", "exec"), names)
    given = {name: [] for name, value in names.items() if isinstance(value, mp.Stream)}
    for name, found in given.items():
        names[name].inspect(
            f"shown {name}", lambda epoch, rows, found=found: found.append((epoch, rows))
        )
    job = names["job"] = SmallJob(names["flow"], SCHEMA)
    for epoch, rows in batches().items():
        job.put(rows, epoch, "bids")
    job.end()
    assert job.complete
    capsys.readouterr()
    for number, (language, label, text) in enumerate(blocks):
        if label == "after":
            exec(compile(text, "FLOWS.md", "exec"), names)
        elif language == "text" and blocks[number - 1][1] == "after":
            assert capsys.readouterr().out == text
        elif language == "text":
            of = re.findall(r"^(\w+)(?=[: ])", text, re.MULTILINE)
            lines = [
                line
                for name in dict.fromkeys(of)
                for epoch, rows in given[name]
                for line in shown(name, epoch, rows, timed=label == "timed")
            ]
            assert lines == text.splitlines()


def test_every_operation_of_a_stream_stands_on_the_page() -> None:
    operations = {name for name in dir(mp.Stream) if not name.startswith("_")}
    assert {name for name in operations if f"`{name}(" not in PAGE} <= {
        # Attributes, and what has a page section or a word of its own.
        "columns",
        "event_time",
        "flow",
        "vertex",
        "into",
        "sink",
        "errors",
    }


def test_every_example_says_what_it_gives() -> None:
    assert len(examples()) == 11
    assert [blocks[0][2] for blocks in examples() if blocks[-1][0] != "text"] == []
