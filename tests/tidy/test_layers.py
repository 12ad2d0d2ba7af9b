"""Imports point downward only, without cycles, type imports included.

The table below is the layering. A module belongs to its longest prefix in the table and may import
what its row names, and its own part. Vocabulary is the bottom; files directly in `service/` that
are not vocabulary (app, cli, admin and their parts) know everything in `service`.
"""

from __future__ import annotations

import ast
import sys
from graphlib import CycleError, TopologicalSorter

from tests.tidy.source import PACKAGES, ROOT, Module, imports, product

VOCABULARY = tuple(
    f"service.{name}"
    for name in (
        "errors",
        "durations",
        "ids",
        "clock",
        "config",
        "config_layers",
        "catalogue",
        "kafka_access",
        "kafka_client",
        "telemetry",
        "log",
        "hashing",
        "arrow_messages",
        "avro",
        "json_text",
    )
)
_STORE = (*VOCABULARY, "service.dataflow.progress", "service.statestore")
_FLOW = (*_STORE, "service.dataflow")
_MOVES = (*_FLOW, "service.migration")

MAY_IMPORT: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(VOCABULARY, VOCABULARY),
    "service.dataflow.progress": (),
    "service.statestore": VOCABULARY,
    "service.dataflow": _STORE,
    "service.migration": _FLOW,
    "service.ingest": _MOVES,
    "service.egress": _MOVES,
    "service.nexmark": (
        *VOCABULARY,
        *(
            f"service.dataflow.{name}"
            for name in ("flow", "vertices", "event_time", "window_values")
        ),
    ),
    "service.broker": VOCABULARY,
    "service": ("service",),
    "loadgen": ("service.nexmark.events", "service.kafka_access", "service.kafka_client"),
    "megaphone": ("service",),
    "demo": PACKAGES,
    "dashboards": (),
}


def _within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def _part(name: str) -> str:
    return max((prefix for prefix in MAY_IMPORT if _within(name, prefix)), key=len)


KNOWN = frozenset(module.name for module in product())


def test_every_import_points_downward():
    wrong = []
    for module in product():
        part = _part(module.name)
        for line, name in imports(module, KNOWN):
            if name.partition(".")[0] not in (*PACKAGES, "tests"):
                continue
            own = name != "tests" and not name.startswith("tests.") and _part(name) == part
            if not own and not any(_within(name, allowed) for allowed in MAY_IMPORT[part]):
                wrong.append(f"{module.where}:{line}: {part} may not import {name}")
    assert wrong == []


def test_there_are_no_import_cycles():
    graph = {
        module.name: {name for _, name in imports(module, KNOWN) if name in KNOWN}
        for module in product()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as cycle:
        raise AssertionError(" -> ".join(cycle.args[1])) from None


def test_package_files_of_the_service_hold_one_docstring_and_nothing_else():
    full = [
        module.where
        for module in product()
        if module.is_package
        and module.name.partition(".")[0] == "service"
        and (len(module.tree.body) != 1 or ast.get_docstring(module.tree) is None)
    ]
    assert full == []


def test_the_mathematics_of_progress_imports_only_the_standard_library_and_itself():
    wrong = [
        f"{module.where}:{line}: {name}"
        for module in product()
        if _within(module.name, "service.dataflow.progress")
        for line, name in imports(module, KNOWN)
        if not _within(name, "service.dataflow.progress")
        and name.partition(".")[0] not in sys.stdlib_module_names
    ]
    assert wrong == []


def test_the_facade_only_re_exports():
    facade = [module for module in product() if _within(module.name, "megaphone")]
    assert {module.name for module in facade} >= {"megaphone", "megaphone.testing"}
    wrong = [
        f"{module.where}:{node.lineno}"
        for module in facade
        for node in module.tree.body
        if not _re_exports(node)
    ]
    assert wrong == []
    allowed = {"__init__.py", "__main__.py", "py.typed", "testing.py"}
    files = {path.name for path in (ROOT / "megaphone").iterdir() if path.is_file()}
    assert files <= allowed


def _re_exports(node: ast.stmt) -> bool:
    match node:
        case ast.Expr(value=ast.Constant(value=str())) | ast.ImportFrom():
            return True
        case ast.Assign(targets=[ast.Name(id=name)]):
            return name.startswith("__")
        case _:
            return False


def test_a_cycle_and_an_upward_import_would_be_seen():
    tree = ast.parse("def f():\n    from service.app import run\n    import service.cli\n")
    path = ROOT / "service" / "statestore" / "sample.py"
    sample = Module("service.statestore.sample", path, "", tree)
    found = list(imports(sample, frozenset({"service.app", "service.cli"})))
    assert found == [(2, "service.app"), (3, "service.cli")]
    assert _part("service.app") == "service"
    assert _part("service.dataflow.progress.tracker") == "service.dataflow.progress"
