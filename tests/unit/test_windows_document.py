"""The Python of docs/WINDOWS.md runs, block after block, and the flow it writes can run.

Cannot catch: a sentence there that is wrong.
"""

from __future__ import annotations

import re
from pathlib import Path

import megaphone as mp

DOCUMENT = Path(__file__).parents[2] / "docs" / "WINDOWS.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_blocks_run_and_every_stream_they_write_can_be_sunk() -> None:
    blocks = BLOCK.findall(DOCUMENT.read_text(encoding="utf-8"))
    assert len(blocks) >= 4
    names: dict[str, object] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{DOCUMENT.name}, block {number}", "exec"), names)
    flow = names["flow"]
    assert isinstance(flow, mp.Flow)
    streams = {
        name: stream
        for name, stream in names.items()
        if isinstance(stream, mp.Stream) and name != "bids"
    }
    for name, stream in streams.items():
        assert stream.event_time is not None
        stream.sink(f"{name}-out", mp.KafkaSink(name, key="window_start", schema=1))
    flow.check()
    assert set(streams) >= {
        "counts",
        "volume",
        "busiest",
        "again",
        "highest",
        "hottest",
        "visits",
        "spreads",
    }
