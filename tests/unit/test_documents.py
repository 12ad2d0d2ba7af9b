"""Documents against the code: what a table lists is what there is, what a page names exists.

Cannot catch: a sentence that is wrong without naming anything.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pyarrow as pa
import pytest
import typer.main
from jsonschema import Draft202012Validator

import megaphone as mp
from loadgen import cli as loadgen_cli
from service import cli as service_cli
from service import errors
from service.avro.row_error import RowError
from service.catalogue import CATALOGUE
from service.control_topics import AppTopics
from service.dataflow.vertices import AggregateVertex, SinkVertex, SourceVertex
from service.egress.sink import SinkOperator
from service.hashing import bin_bits_of
from service.ingest.client_errors import UNREADABLE_REASON
from service.ingest.decode import columns_of
from service.ingest.registry import FolderRegistry
from service.ingest.source import SourceOperator
from service.migration.control_source import ControlSource
from service.migration.horizon import LogFollower
from service.migration.lowering import Edges, lower
from service.migration.records import StatusRecord
from service.migration.requests import Request, parse
from service.migration.routing_table import RoutingTable
from service.nexmark.query_topics import QueryTopics
from service.targets import load_flow
from tests.fakes.command_lines import VARIABLES, leaves, lines_of, parsed
from tests.integration.test_benchmark_pages import ELSEWHERE, SMALLER
from tests.integration.test_tutorials import OTHERS, PAGES

ROOT = Path(__file__).parents[2]
DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
    # Results of benchmarks are what was measured when, not what is.
    if path.parent.name != "benchmarks"
}
EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("[!_]*.py"))
SHIPPED = ROOT / "service" / "nexmark" / "schemas"
LINES_MAX = 400

LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
PATH = re.compile(r"`((?:service|loadgen|megaphone|demo|examples|tests|docs)/[\w./-]+\.\w+)`")
INVARIANT = re.compile(r"[A-Z]{1,2}\d{1,2}")
BLOCK = re.compile(r"^```(\w+)(?: ([\w.-]+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


def links() -> list[tuple[str, str, Path]]:
    """(document, text, target) of every link into the repository."""
    return [
        (name, text, (ROOT / name).parent / target.partition("#")[0])
        for name, document in DOCUMENTS.items()
        for text, target in LINK.findall(document)
        # That an anchor is there is seen when the site is built.
        if "://" not in target
    ]


def blocks(document: str, language: str) -> list[tuple[str, str]]:
    """(label, text) of the fenced blocks of a language."""
    return [
        (label, text)
        for found, label, text in BLOCK.findall(DOCUMENTS[document])
        if found == language
    ]


def table(document: str, heading: str) -> list[list[str]]:
    """Cells of the first table under a heading, the header row left out, backticks stripped."""
    section = re.split(r"^## ", DOCUMENTS[document], flags=re.MULTILINE)
    (text,) = (part for part in section if part.splitlines()[0].strip() == heading)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in row.strip("|").split(" | ")] for row in rows[2:]]


def sources() -> Iterator[tuple[str, ast.Module]]:
    """(path, syntax tree) of each file of the service."""
    for path in sorted((ROOT / "service").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        yield path.relative_to(ROOT).as_posix(), tree


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    """(name called, call), methods by their last name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute):
                yield node.func.attr, node
            elif isinstance(node.func, ast.Name):
                yield node.func.id, node


def opening(path: Path) -> str:
    """The docstring at the top of a file."""
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")), clean=False) or ""


# What is named exists ---------------------------------------------------------------------------


def test_every_link_leads_somewhere() -> None:
    assert len(links()) > 100
    assert [f"{name}: {target}" for name, _, target in links() if not target.exists()] == []


def test_every_file_named_exists() -> None:
    missing = [
        f"{name}: {path}"
        for name, document in DOCUMENTS.items()
        for path in PATH.findall(document)
        if not (ROOT / path).exists()
    ]
    assert missing == []


def test_every_invariant_cited_is_stated_in_the_file_it_links_to() -> None:
    cited = [
        (name, text, target)
        for name, text, target in links()
        if INVARIANT.fullmatch(text) and target.suffix == ".py"
    ]
    assert len(cited) > 60
    unstated = [
        f"{name}: {text} of {target.name}"
        for name, text, target in cited
        if not re.search(rf"^  {text}  \S", opening(target), re.MULTILINE)
    ]
    assert unstated == []


def test_every_option_named_is_an_option() -> None:
    # Of pip-compile, of mypy, of docker and kubectl, and of every command.
    known = {"--upgrade", "--strict", "--help"}
    known |= {
        "--build-arg",
        "--namespace",
        "--profile",
        "--scale",
        "--selector",
        "--tag",
        "--volumes",
    }
    # kafka-acls.sh and kafka-configs.sh
    known |= {"--alter", "--add-config"}
    known |= {"--add", "--allow-principal", "--bootstrap-server", "--resource-pattern-type"}
    known |= {"--group", "--operation", "--transactional-id"}
    # prometheus: --storage.tsdb.path, --web.listen-address
    known |= {"--storage", "--web"}
    left = [typer.main.get_command(app) for app in (service_cli.app, loadgen_cli.app)]
    while left:
        command = left.pop()
        left += getattr(command, "commands", {}).values()
        for parameter in command.params:
            known |= {*parameter.opts, *parameter.secondary_opts}
    known |= set(OPTION.findall((ROOT / "demo" / "options.py").read_text(encoding="utf-8")))
    unknown = {
        f"{name}: {option}"
        for name, document in DOCUMENTS.items()
        for option in OPTION.findall(document)
        if option not in known
    }
    assert unknown == set()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_command_shown_would_be_understood(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in VARIABLES.items():
        monkeypatch.setenv(variable, value)
    for words in lines_of(DOCUMENTS[name]):
        parsed(words)


def test_every_verb_named_in_a_sentence_is_one() -> None:
    below: dict[str, set[str]] = {}
    for verb, *more in (verbs for verbs, _ in leaves()):
        below.setdefault(verb, set()).update(more)
    named = {
        (name, words)
        for name, document in DOCUMENTS.items()
        for words in re.findall(r"`megaphone ((?=[a-z])[^`\n]+)`", document)
    }
    assert len(named) > 20
    unknown = set()
    for name, words in named:
        verb, _, rest = words.partition(" ")
        second = rest.partition(" ")[0]
        is_word = bool(re.fullmatch(r"[a-z][a-z-]*", second))
        if verb not in below or (below[verb] and is_word and second not in below[verb]):
            unknown.add((name, words))
    assert unknown == set()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_document_has_one_title_and_a_bounded_length(name: str) -> None:
    text = re.sub(r"^```.*?^```$", "", DOCUMENTS[name], flags=re.MULTILINE | re.DOTALL)
    assert len(DOCUMENTS[name].splitlines()) <= LINES_MAX
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1


def test_the_reading_order_lists_every_document() -> None:
    listed = {
        target.resolve().relative_to(ROOT).as_posix()
        for name, _, target in links()
        if name == "docs/README.md"
    }
    assert set(DOCUMENTS) - {"docs/README.md"} <= listed


# Tables -----------------------------------------------------------------------------------------


def test_the_metrics_table_is_the_catalogue() -> None:
    assert [tuple(row) for row in table_of("Metrics")] == [
        (
            spec.name,
            spec.kind,
            ", ".join(f"`{label}`" for label in spec.labels).strip("`"),
            spec.help,
            spec.on.strip("`"),
        )
        for spec in CATALOGUE
    ]


def test_the_errors_table_is_the_file_of_errors() -> None:
    classes = [
        (name, each.domain, str(each.exit_status))
        for name, each in vars(errors).items()
        if inspect.isclass(each) and issubclass(each, errors.MegaphoneError)
    ]
    rows = table_of("Errors")
    assert [(name, who, status) for name, who, status, *_ in rows] == classes
    assert all(cause and step for *_, cause, step in rows)


def test_the_table_of_log_events_is_what_the_service_logs() -> None:
    logged = {
        call.args[0].value
        for _, tree in sources()
        for name, call in calls(tree)
        if name in ("info", "error")
        and call.args
        and isinstance(call.args[0], ast.Constant)
        and re.fullmatch(r"[a-z]+\.[a-z_]+", str(call.args[0].value))
    }
    rows = [name for name, *_ in table_of("Log events")]
    assert sorted(rows) == sorted(map(str, logged))


def test_the_table_of_topics_is_the_layout_of_an_app() -> None:
    kept = {
        topic: "compacted" if config.get("cleanup.policy") == "compact" else "for ever"
        for topic, config in AppTopics("<app>").layout().items()
    }
    documented = {topic: how for topic, how, *_ in table_of("Topics")}
    assert documented.pop("<input>.dlq")
    assert documented == kept


#: Files that say why a record is no row.
_REJECTING = (
    "service/ingest/decode.py",
    "service/ingest/json_decode.py",
    "service/json_text/decoder.py",
)


def test_the_table_of_bad_records_is_every_reason_there_is() -> None:
    reasons = {error.slug for error in RowError} - {RowError.OK.slug} | {UNREADABLE_REASON}
    for path, tree in sources():
        if path not in _REJECTING:
            continue
        for name, call in calls(tree):
            if name in ("Rejected", "_Refused", "_Wrong"):
                reasons |= {
                    str(argument.value)
                    for argument in call.args[:2]
                    if isinstance(argument, ast.Constant)
                    and re.fullmatch(r"[a-z_0-9]+", str(argument.value))
                }
    assert {reason for reason, _ in table_of("Bad records")} == reasons


def test_the_table_of_what_is_refused_names_every_file_that_refuses() -> None:
    refusing = {
        path
        for path, tree in sources()
        if any(name == "NotYetSupported" for name, _ in calls(tree))
    }
    rows = table("docs/CORRECTNESS.md", "Refused by name in this version")
    assert {LINK.findall(where)[0][0] for _, where in rows} == refusing


def table_of(heading: str) -> list[list[str]]:
    """A table of docs/OPERATING.md."""
    return table("docs/OPERATING.md", heading)


# Examples ---------------------------------------------------------------------------------------


def test_every_record_shown_fits_its_contract() -> None:
    seen = set()
    for label, text in blocks("docs/CONTROL.md", "json"):
        schema = json.loads(
            (ROOT / "docs" / "contracts" / f"{label}.schema.json").read_text(encoding="utf-8")
        )
        Draft202012Validator(schema).validate(json.loads(text))
        if label == "control-record":
            assert isinstance(parse(text.encode(), 0), Request)
        seen.add(label)
    assert seen == {"control-record", "status-record", "status"}
    for _, text in blocks("README.md", "json"):
        msgspec.json.decode(text, type=StatusRecord)


def test_every_line_of_python_for_the_shell_compiles() -> None:
    found = [
        code
        for document in DOCUMENTS.values()
        for code in re.findall(r"python -c '([^']*)'", document)
    ]
    assert len(found) >= 3
    for code in found:
        compile(code, "<document>", "exec")
        for record in re.findall(r'"""(.*?)"""', code):
            assert isinstance(parse(record.encode(), 0), Request)


def test_the_flow_of_the_readme_can_be_built() -> None:
    ((_, text),) = blocks("README.md", "python")
    names: dict[str, object] = {}
    exec(compile(text, "README.md", "exec"), names)
    flow = names["flow"]
    assert isinstance(flow, mp.Flow)
    build(flow)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_can_be_built_and_its_results_fit_their_schema(name: str) -> None:
    flow = load_flow(f"examples.{name}:flow", QueryTopics())
    flow.check()
    build(flow)


#: Who runs the Python of a page; the tutorials and how-to pages are run as a whole.
RUN_BY = {
    "README.md": "tests/unit/test_documents.py",
    "docs/FLOWS.md": "tests/unit/test_flows_document.py",
    "docs/TESTING_FLOWS.md": "tests/unit/kit/test_document.py",
    **dict.fromkeys(
        ("docs/JOINS.md", "docs/KEYED_STATE.md", "docs/TIME.md", "docs/WINDOWS.md"),
        "tests/unit/test_page_examples.py",
    ),
}


#: Lines for a shell that no test types, by document, and why.
NOT_TYPED = {
    "README.md": {"make"},  # what CI does itself
    "CONTRIBUTING.md": {"make"},
    "docs/tutorial/first-flow.md": {"make", "export"},  # setting up, and the reader's own broker
    "docs/DEPLOYING.md": {
        *("docker", "WORKERS=4", "kubectl"),  # wants an engine or a cluster
        *("sed", "python"),  # changes the repository; test_dashboards.py does it to a copy
    },
    "docs/SECURITY.md": {
        "export",
        "[kafka.properties]",
        "security.protocol",
        "sasl.password.file",
        "kafka-acls.sh",  # not in the jars; test_permissions.py does what it would
        "kafka-configs.sh",  # the same; test_topics_command.py sees what it sets
    },
}


def test_every_command_shown_is_typed_by_a_test_or_said_why_not() -> None:
    found: dict[str, set[str]] = {}
    for name, document in DOCUMENTS.items():
        for line in re.findall(r"^    (?=\S)(.*)$", BLOCK.sub("", document), re.MULTILINE):
            if line in SMALLER or line in ELSEWHERE:
                continue
            found.setdefault(name, set()).add(shlex.split(line)[0])
    assert found == NOT_TYPED


def test_every_block_of_code_is_run_by_a_test() -> None:
    read = {
        name: set(re.findall(r"^```(\w+)", document, re.MULTILINE))
        for name, document in DOCUMENTS.items()
    }
    followed = {page.relative_to(ROOT).as_posix() for page in PAGES}
    code = {name for name, found in read.items() if found & {"python", "toml", "yaml"}}
    typed = {name for name, found in read.items() if "sh" in found}
    assert len(followed) >= 5
    assert typed == followed | set(OTHERS)
    assert code - followed - {"docs/OPERATING.md"} == set(RUN_BY)
    for name, test in RUN_BY.items():
        assert name.rpartition("/")[2] in (ROOT / test).read_text(encoding="utf-8"), name
    # JSON is held against contracts, text is what something printed.
    assert {name for name, found in read.items() if "json" in found} - followed <= {
        "README.md",
        "docs/CONTROL.md",
    }


def test_documents_name_metrics_that_there_are() -> None:
    known = {spec.name for spec in CATALOGUE}
    known |= {f"{name}{part}" for name in known for part in ("_bucket", "_count", "_sum")}
    named = {
        (document, metric)
        for document, text in DOCUMENTS.items()
        for metric in re.findall(r"\bmegaphone_[a-z]+_[a-z_]*[a-z]\b(?![_*<])", text)
    }
    assert len({metric for _, metric in named}) > 50
    assert {each for each in named if each[1] not in known} == set()


def test_the_readme_names_every_example() -> None:
    assert [name for name in EXAMPLES if f"examples/{name}.py" not in DOCUMENTS["README.md"]] == []
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_examples_read_the_events_by_the_schemas_that_are_shipped(number: int) -> None:
    shipped = (SHIPPED / f"{number}.avsc").read_text(encoding="utf-8")
    assert (ROOT / "examples" / "schemas" / f"{number}.avsc").read_text("utf-8") == shipped


def test_the_package_of_examples_imports_the_users_api_only() -> None:
    for name in EXAMPLES:
        module = importlib.import_module(f"examples.{name}")
        tree = ast.parse(inspect.getsource(module))
        imported = {
            each.name if isinstance(node, ast.Import) else str(node.module)
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for each in node.names
        }
        assert imported <= {"__future__", "megaphone", "pyarrow", "pyarrow.compute"}, name


class _Nowhere:
    """A producer that is never asked: the flow is built, not run."""

    def has_room(self) -> bool:
        return True

    def submit(self, rows: pa.RecordBatch, acknowledged: object) -> None:
        raise AssertionError("the flow is not run")


def build(flow: mp.Flow) -> None:
    """Lower a flow with the examples' schemas; each sink's columns are those of its schema."""
    registry = FolderRegistry(ROOT / "examples" / "schemas")
    bins = 8

    def columns(vertex: SourceVertex) -> pa.Schema:
        return columns_of(registry.find(vertex.connector.record), vertex.connector.fields)

    control = ControlSource(LogFollower(), RoutingTable([0] * bins, 1))
    edges = Edges(
        lambda _: SourceOperator(owns_partitions=False),
        lambda *_: SinkOperator(_Nowhere()),
        columns,
    )
    lowered = lower(flow, bins, control, edges)
    assert lowered.hosts
    assert all(host.store.bin_bits == bin_bits_of(bins) for host in lowered.hosts.values())
    for vertex in flow.vertices:
        if isinstance(vertex, SinkVertex):
            above = flow.vertices[vertex.upstream]
            assert isinstance(above, AggregateVertex)
            fields = [each.name for each in registry.schema(vertex.connector.schema).fields]
            assert fields == [above.key, *above.aggregates]
