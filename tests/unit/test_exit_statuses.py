"""Exit statuses: the table of docs/OPERATING.md against what the code ends with, both ways.

A status comes from a named error, which any command may meet, or from a command that says it
itself: `typer.Exit` in its function, or in one that it calls. Both are read from the code.
Cannot catch: a sentence that says something else of a status than the code means by it.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from functools import cache
from types import FunctionType, ModuleType

import pytest
import typer

from demo import cli as demo_cli
from loadgen import broker as load_errors
from loadgen import cli as loadgen_cli
from service import errors, launcher
from service.bench import document
from service.doctor import finding
from tests.fakes.command_lines import leaves
from tests.tidy.source import ROOT

TABLE = re.findall(
    r"^\| (\d+) \| ([^|]+) \| ([^|]+) \|$",
    (ROOT / "docs" / "OPERATING.md")
    .read_text(encoding="utf-8")
    .split("\n## Exit statuses\n")[1]
    .split("\n## ")[0],
    re.MULTILINE,
)
ANY = "any"


@cache
def functions(module: ModuleType) -> dict[str, ast.FunctionDef]:
    """Functions and methods of a module, by name."""
    tree = ast.parse(inspect.getsource(module))
    return {each.name: each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef)}


def returned(module: ModuleType, *names: str) -> set[int]:
    """Numbers that functions of a module return, other than 0."""
    found = {
        node.value
        for name in names
        for returns in ast.walk(functions(module)[name])
        if isinstance(returns, ast.Return) and returns.value is not None
        # `return 2 if status == 2 else 1`: what is compared is returned, too.
        for node in ast.walk(returns.value)
        if isinstance(node, ast.Constant) and isinstance(node.value, int)
    }
    return found - {0}


#: What stands in a `typer.Exit` that is no number -> the statuses that it can be, other than 0.
COMPUTED = {
    "document.exit_status": {document.FIGURE_MISSED},
    "made.document.exit_status": {document.FIGURE_MISSED},
    "damaged.exit_status": {errors.StateCorrupt.exit_status},
    "launcher.run()": returned(launcher, "run", "_watch", "_lost"),
    # service/doctor/command.py
    "status": returned(finding, "exit_status_of"),
}


def said_by(module: ModuleType, name: str, seen: set[tuple[str, str]]) -> Iterator[int]:
    """Statuses that a function, or one that it calls, ends the process with by itself."""
    if (module.__name__, name) in seen or name not in functions(module):
        return
    seen.add((module.__name__, name))
    for call in ast.walk(functions(module)[name]):
        if not isinstance(call, ast.Call):
            continue
        called = ast.unparse(call.func)
        if called == "typer.Exit":
            (status,) = call.args
            if isinstance(status, ast.Constant) and isinstance(status.value, int):
                yield status.value
            else:
                yield from COMPUTED[ast.unparse(status)]
        target = vars(module).get(called)
        if isinstance(target, FunctionType) and target.__module__.startswith("service."):
            yield from said_by(sys.modules[target.__module__], target.__name__, seen)


def of_commands() -> set[tuple[int, str]]:
    """(status, command) of every status that a command of `megaphone` says by itself."""
    found = set()
    for verbs, command in leaves():
        name, module = command.callback.__name__, sys.modules[command.callback.__module__]
        found |= {(status, " ".join(verbs)) for status in said_by(module, name, set())}
    return found


def of_errors(module: ModuleType, base: type) -> set[int]:
    """Statuses of the named errors of a module."""
    classes = [each for each in vars(module).values() if inspect.isclass(each)]
    return {vars(each).get("exit_status", 1) for each in classes if issubclass(each, base)}


def documented() -> set[tuple[int, str]]:
    """(status, command or `any`) of the table."""
    return {
        (int(status), command)
        for status, commands, _ in TABLE
        for command in (re.findall(r"`([^`]+)`", commands) or [commands.strip()])
    }


def test_the_table_has_a_row_for_each_status_and_says_what_it_means() -> None:
    assert len(TABLE) >= 8
    statuses = [int(status) for status, *_ in TABLE]
    assert statuses == sorted(statuses)
    assert all(len(means) > 10 for *_, means in TABLE)


def test_what_commands_say_by_themselves_is_what_the_table_says_of_them() -> None:
    found = of_commands()
    assert len(found) > 15
    others = {"make demo", "nexmark-loadgen", ANY}
    assert {each for each in documented() if each[1] not in others} == found


def test_what_any_command_may_end_with_is_what_errors_say_and_an_interruption() -> None:
    of_any = {status for status, command in documented() if command == ANY}
    assert of_any == {0, 130} | of_errors(errors, errors.MegaphoneError)


def test_every_error_has_a_status_of_the_table() -> None:
    table = {
        row.split(" | ")[0].strip("`| "): int(row.split(" | ")[2])
        for row in (ROOT / "docs" / "OPERATING.md").read_text(encoding="utf-8").splitlines()
        if re.match(r"\| `[A-Z]\w+` \| (user|external|internal) \|", row)
    }
    assert table == {
        name: each.exit_status
        for name, each in vars(errors).items()
        if inspect.isclass(each) and issubclass(each, errors.MegaphoneError)
    }


def test_the_demo_and_the_load_generator_end_as_the_table_says() -> None:
    demo = {status for status, command in documented() if command == "make demo"}
    by_name = of_errors(errors, errors.MegaphoneError)
    own = returned(demo_cli, "main", "_demonstrated") | {demo_cli._INTERRUPTED}
    assert demo == {0} | own | by_name
    load = {status for status, command in documented() if command == "nexmark-loadgen"}
    raised = {
        node.args[0].value
        for node in ast.walk(functions(loadgen_cli)["main"])
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "SystemExit"
        and isinstance(node.args[0], ast.Constant)
    }
    assert load == {0} | raised | of_errors(load_errors, load_errors.LoadError)


def test_ctrl_c_ends_a_command_that_does_not_take_it_with_130() -> None:
    app = typer.Typer()

    @app.command()
    def waits() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as ended:
        typer.main.get_command(app).main([])
    assert ended.value.code == 130
    assert (130, ANY) in documented()
