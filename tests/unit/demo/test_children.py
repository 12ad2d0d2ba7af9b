"""Processes of the demo: real ones, whose ends are seen and told."""

from __future__ import annotations

import signal

import psutil
import pytest

from demo.children import ChildFailed, Children

#: Ends when its stdin does, as a well behaved child may.
WAITING = 'import sys; print(\'{"kind": "ready"}\', flush=True); sys.stdin.read()'
DEAF = (
    "import signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    'print(\'{"kind": "ready"}\', flush=True); signal.pause()'
)


@pytest.fixture
def children(tmp_path):
    found = Children(tmp_path)
    yield found
    found.close()


def wait_for_end(child):
    process = psutil.Process(child._process.pid) if child._process.poll() is None else None
    if process is not None:
        child._process.wait(20)
    if child._reader is not None:
        child._reader.join(20)


def test_lines_of_json_are_documents_and_others_are_passed_over(children):
    seen = []
    child = children.start(
        "talker", ["-c", "print('hello'); print('[1]'); print('{\"a\": 1}')"], seen.append
    )
    child.may_end()
    wait_for_end(child)
    assert seen == [{"a": 1}]
    assert child.ended
    children.check()


def test_a_child_that_fails_is_named_with_its_last_words(children):
    child = children.start("talker", ["-c", "import sys; sys.exit('no such thing')"])
    wait_for_end(child)
    with pytest.raises(ChildFailed, match=r"talker ended with status 1.*\n.*no such thing"):
        children.check()


def test_a_structured_last_line_is_shown_as_a_sentence(children):
    line = '{"t_us": 1, "level": "error", "slot": "worker-1", "event": "x.y", "message": "too hot"}'
    child = children.start("job", ["-c", f"import sys; sys.stderr.write({line!r}); sys.exit(1)"])
    wait_for_end(child)
    with pytest.raises(ChildFailed, match=r"worker-1: x\.y too hot"):
        child.check()


def test_a_child_that_ends_unasked_is_a_failure_even_with_status_0(children):
    child = children.start("talker", ["-c", "pass"])
    wait_for_end(child)
    with pytest.raises(ChildFailed, match="status 0"):
        child.check()


def test_a_killed_child_is_told_by_its_signal(children):
    child = children.start("talker", ["-c", WAITING])
    child._process.send_signal(signal.SIGKILL)
    wait_for_end(child)
    with pytest.raises(ChildFailed, match="killed by signal 9"):
        child.check()


def test_an_early_end_kills_what_does_not_listen_and_what_that_started(children):
    grandchild = (
        f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {DEAF!r}]).wait()"
    )
    ready = []
    child = children.start("parent", ["-c", grandchild], ready.append)
    while not ready:
        child.check()
    family = psutil.Process(child._process.pid).children(recursive=True)
    assert family
    child.end(grace_s=0.2)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert alive == []
