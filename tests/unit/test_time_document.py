"""The Python of docs/TIME.md runs, block after block, and the flow it writes can run.

Cannot catch: a sentence there that is wrong.
"""

from __future__ import annotations

import re
from pathlib import Path

import megaphone as mp

DOCUMENT = Path(__file__).parents[2] / "docs" / "TIME.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_blocks_run_and_the_stream_they_end_in_can_be_sunk() -> None:
    blocks = BLOCK.findall(DOCUMENT.read_text(encoding="utf-8"))
    assert len(blocks) >= 4
    names: dict[str, object] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"{DOCUMENT.name}, block {number}", "exec"), names)
    flow = names["flow"]
    assert isinstance(flow, mp.Flow)
    stream = names["silent"]
    assert isinstance(stream, mp.Stream)
    stream.sink("out", mp.KafkaSink("silent", key="user", schema=1))
    flow.check()
