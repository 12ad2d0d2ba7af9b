"""The table of broken rules in docs/CORRECTNESS.md against the tests that break them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.property import test_progress_mutants as protocol
from tests.simulation import test_checkpoint_mutants as checkpoints
from tests.simulation import test_copies as copies
from tests.simulation import test_event_time as event_time
from tests.simulation import test_handovers as handovers
from tests.simulation import test_keyed_mutants as keyed
from tests.simulation import test_mutants as job
from tests.simulation import test_timed_plans as timed_plans

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| ([^|]+) \| [^|]+ \| \[[^]]+\]\(\.\./([^)]+)\) \|$", re.MULTILINE)


@pytest.mark.parametrize(
    "module", [protocol, job, copies, handovers, checkpoints, keyed, event_time, timed_plans]
)
def test_the_document_lists_exactly_the_broken_rules_that_are_tested(module) -> None:
    text = (ROOT / "docs" / "CORRECTNESS.md").read_text(encoding="utf-8")
    section = text.split("\n## What would break", 1)[1].split("\n## ", 1)[0]
    where = Path(module.__file__).relative_to(ROOT).as_posix()
    listed = [name for name, file in ROW.findall(section) if file == where]
    assert sorted(listed) == sorted(module.MUTANTS)
