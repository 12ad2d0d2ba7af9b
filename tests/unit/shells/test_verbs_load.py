"""A verb loads what it needs: those that ask a running job, or a file, load no kernel.

Cannot catch: a slow import of something else.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from service.completion import VARIABLE
from service.entry import asked
from service.verbs import VERBS

#: Verbs that a person waits for, and that move no rows.
QUICK = (
    "status", "migrate", "rescale", "rebalance", "checkpoint", "control", "dlq", "check-config",
    "keys", "completion", "broker",
)  # fmt: skip
#: What takes most of a second to load, or brings what does.
SLOW = ("numba", "pyarrow", "rocksdict", "service.dataflow.flow")
#: A shell that completes a line.
ASKED = {VARIABLE: "complete_bash"}
LOAD = """
import sys
from service import entry
from service.verbs import assembled
assembled(sys.argv[1:])
print(*[name for name in {slow!r} if name in sys.modules])
"""


def loaded(*verbs: str) -> list[str]:
    """Which of the slow modules a process has that was asked for these verbs."""
    command = [sys.executable, "-c", LOAD.format(slow=SLOW), *verbs]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.split()


def test_verbs_that_move_no_rows_load_no_kernel():
    assert loaded(*QUICK) == []
    assert "numba" in loaded("worker")


@pytest.mark.parametrize(
    ("words", "environment", "verbs"),
    [
        (["megaphone", "status", "--app", "a"], {}, ["status"]),
        (["megaphone", "--help"], {}, [*VERBS]),
        (["megaphone"], {}, [*VERBS]),
        (["megaphone", "statsu"], {}, [*VERBS]),
        (["megaphone"], {**ASKED, "COMP_WORDS": "megaphone status --a"}, ["status"]),
        (["megaphone"], {**ASKED, "_TYPER_COMPLETE_ARGS": "megaphone sta"}, [*VERBS]),
        # Left over from something else that was completed.
        (["megaphone", "run"], {"COMP_WORDS": "megaphone status --a"}, ["run"]),
    ],
)
def test_the_verb_that_is_named_is_the_one_that_is_loaded(words, environment, verbs):
    assert list(asked(words, environment)) == verbs
