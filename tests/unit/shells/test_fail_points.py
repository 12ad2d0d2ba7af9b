"""Fail points: refused unless allowed, each at a place there is, gone when not asked for."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from service.errors import UsageError
from service.fail_points import ALLOWED, FAIL_POINTS, VARIABLE, arm, at
from service.ids import Role


def target(name):
    point = FAIL_POINTS[name]
    found = importlib.import_module(point.module)
    for attribute in point.path:
        found = getattr(found, attribute)
    return found


@pytest.mark.parametrize("name", FAIL_POINTS)
def test_every_point_is_a_function_of_the_engine_and_is_put_back(name):
    original = target(name)
    assert callable(original)
    assert set(FAIL_POINTS[name].by) <= set(Role)
    with at(name, 1, lambda: None):
        assert target(name) is not original
    assert target(name) is original


def test_without_the_variable_nothing_is_wrapped():
    before = {name: target(name) for name in FAIL_POINTS}
    arm("worker-0", {ALLOWED: "1"})
    assert {name: target(name) for name in FAIL_POINTS} == before


def test_a_variable_left_behind_stops_the_start():
    with pytest.raises(UsageError, match="which is for tests; unset it"):
        arm("worker-0", {VARIABLE: "worker-0/move.read"})


@pytest.mark.parametrize("asked", ["", "worker-0", "worker-0/nowhere", "worker-0/move.read/x"])
def test_a_malformed_variable_names_the_points_there_are(asked):
    with pytest.raises(UsageError, match=r"points are copy\.announced, "):
        arm("worker-0", {VARIABLE: asked, ALLOWED: "1"})


def test_a_point_of_another_slot_is_not_armed():
    original = target("move.read")
    arm("worker-1", {VARIABLE: "worker-0/move.read", ALLOWED: "1"})
    assert target("move.read") is original


def test_a_process_dies_at_once_at_the_nth_time():
    code = (
        "import numpy as n, service.fail_points as f, service.statestore.frozen as z\n"
        f"f.arm('worker-0', {{'{VARIABLE}': 'worker-0/checkpoint.copying/2', '{ALLOWED}': '1'}})\n"
        "class S:\n"
        "    bin_bits, bins = 1, 2\n"
        "    def stored_rows(self, bins): return n.zeros(0, n.int64), n.zeros(0, object)\n"
        "    def timers(self, b): return ()\n"
        "z.Freezing(S()).copy([1]); print('once', flush=True)\n"
        "z.Freezing(S()).copy([1]); print('twice', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-9, "once\n")
