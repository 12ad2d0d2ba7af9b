"""The Python of pages that write one flow runs, block after block, and the flow can run.

Cannot catch: a sentence there that is wrong.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

import megaphone as mp

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Page:
    """One page: what it must write, and what makes its streams end."""

    name: str
    blocks: int
    #: Streams it writes, at least.
    streams: frozenset[str]
    #: Column that is the key of each sink.
    key: str
    #: Streams that others come of and that need no end of their own.
    inner: frozenset[str] = frozenset()
    #: Whether every stream must carry its event time.
    timed: bool = False
    #: Whether only the streams named above are given an end.
    last_only: bool = False


PAGES = [
    Page(
        "JOINS.md",
        3,
        frozenset({"winning", "early", "bid_on", "quick"}),
        "id",
        inner=frozenset({"bids", "auctions"}),
    ),
    Page(
        "KEYED_STATE.md",
        9,
        frozenset({"stats", "rises", "steps", "first", "sold", "ordered"}),
        "auction",
        inner=frozenset({"bids", "auctions"}),
    ),
    Page("TIME.md", 4, frozenset({"silent"}), "user", last_only=True),
    Page(
        "WINDOWS.md",
        4,
        frozenset(
            {
                "counts",
                "volume",
                "busiest",
                "again",
                "highest",
                "hottest",
                "visits",
                "spreads",
            }
        ),
        "window_start",
        inner=frozenset({"bids"}),
        timed=True,
    ),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_blocks_run_and_every_stream_they_write_can_be_sunk(page: Page) -> None:
    blocks = BLOCK.findall((DOCS / page.name).read_text(encoding="utf-8"))
    assert len(blocks) >= page.blocks
    names: dict[str, object] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)
    flow = names["flow"]
    assert isinstance(flow, mp.Flow)
    streams = {
        name: stream
        for name, stream in names.items()
        if isinstance(stream, mp.Stream)
        and name not in page.inner
        and (name in page.streams or not page.last_only)
    }
    for name, stream in streams.items():
        assert not page.timed or stream.event_time is not None, name
        stream.sink(f"{name}-out", mp.KafkaSink(name, key=page.key, schema=1))
    flow.check()
    assert set(streams) >= page.streams
