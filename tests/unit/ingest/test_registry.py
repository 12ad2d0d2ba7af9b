"""One contract for the folder and for a registry over HTTP, and what only HTTP can get wrong.

The registry here is a real server on a loopback socket; it cannot show TLS or a slow network.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import pytest

from service.clock import Clock
from service.errors import SchemaError, UsageError
from service.ingest import registry as subject
from service.ingest.registry import (
    FolderRegistry,
    HttpRegistry,
    RegistryUnavailable,
    SchemaRegistry,
    UnknownSchema,
    open_registry,
)
from tests.fakes.registry_server import RegistryServer
from tests.unit.ingest.records import record_schema, write_schemas

_OLD_BID = record_schema("bid", {"auction": "long"})
_BID = record_schema("bid", {"auction": "long", "price": "long"})
_PERSON = record_schema("person", {"id": "long"})
_RECURSIVE = record_schema("tree", {"left": ["null", "tests.tree"]})
_SCHEMAS: dict[int, object] = {1: _PERSON, 2: _OLD_BID, 3: _BID, 4: "long", 5: _RECURSIVE}


class ManualClock:
    """Time that moves when the test says so."""

    def __init__(self) -> None:
        self.now_ns = 10**12

    def wall_us(self) -> int:
        return self.now_ns // 1000

    def monotonic_ns(self) -> int:
        return self.now_ns


@pytest.fixture
def server(monkeypatch) -> Iterator[RegistryServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    made = RegistryServer(_SCHEMAS)
    yield made
    made.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


class _Kind(Protocol):
    def __call__(self, schemas: Mapping[int, object]) -> SchemaRegistry: ...


@pytest.fixture(params=["folder", "http"])
def make(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> _Kind:
    """Makes a registry of either kind that holds the given schemas."""

    def of(schemas: Mapping[int, object]) -> SchemaRegistry:
        if request.param == "folder":
            return FolderRegistry(write_schemas(tmp_path, schemas))
        served: RegistryServer = request.getfixturevalue("server")
        served.schemas = dict(schemas)
        return HttpRegistry(served.url, clock)

    return of


def test_a_schema_is_found_by_its_id(make):
    registry = make(_SCHEMAS)
    assert registry.schema(3).fullname == "tests.bid"
    assert [field.name for field in registry.schema(3).fields] == ["auction", "price"]
    assert registry.schema(3) is registry.schema(3)


def test_an_id_that_is_not_there_is_unknown(make):
    with pytest.raises(UnknownSchema, match="schema id 77 is unknown"):
        make(_SCHEMAS).schema(77)


@pytest.mark.parametrize(("schema_id", "complaint"), [(4, "a record is needed"), (5, "recursion")])
def test_a_schema_that_cannot_be_used_is_refused_but_not_unknown(make, schema_id, complaint):
    registry = make(_SCHEMAS)
    for _ in range(2):
        with pytest.raises(SchemaError, match=complaint) as caught:
            registry.schema(schema_id)
        assert not isinstance(caught.value, UnknownSchema)


def test_the_newest_schema_of_a_record_is_found(make):
    registry = make(_SCHEMAS)
    assert len(registry.find("bid").fields) == 2
    assert registry.find("person").name == "person"


def test_a_record_that_nothing_describes_is_unknown(make):
    with pytest.raises(UnknownSchema, match="describes a record 'sale'"):
        make(_SCHEMAS).find("sale", ["events"])


def test_many_schemas_are_served_within_a_bounded_cache(make, monkeypatch):
    monkeypatch.setattr(subject, "CACHE_MAX", 3)
    registry = make({at: record_schema(f"r{at}", {"x": "long"}) for at in range(6)})
    for _ in range(2):
        assert [registry.schema(at).name for at in range(6)] == [f"r{at}" for at in range(6)]
    assert len(registry._known) == 3


def test_a_folder_that_is_not_there_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        FolderRegistry(tmp_path / "nowhere")


def test_the_address_decides_which_registry_it_is(tmp_path, clock):
    assert isinstance(open_registry(str(tmp_path), clock), FolderRegistry)
    assert isinstance(open_registry("https://registry.example:8081", clock), HttpRegistry)
    for wrong in ("ftp://registry.example", "http://", "file:///etc/passwd"):
        with pytest.raises(UsageError):
            open_registry(wrong, clock)


def test_a_known_schema_is_asked_for_once(server, clock):
    registry = HttpRegistry(server.url, clock)
    for _ in range(5):
        registry.schema(3)
        with pytest.raises(SchemaError):
            registry.schema(5)
    assert [path for path, _ in server.requests] == [f"/registry/schemas/ids/{at}" for at in (3, 5)]


def test_an_unknown_id_is_asked_for_again_only_after_a_while(server, clock):
    registry = HttpRegistry(server.url, clock)
    for _ in range(5):
        with pytest.raises(UnknownSchema):
            registry.schema(77)
    assert len(server.requests) == 1
    server.schemas[77] = _BID
    clock.now_ns += subject.UNKNOWN_FOR_NS + 1
    assert registry.schema(77).name == "bid"


def test_a_flood_of_unknown_ids_makes_a_bounded_number_of_requests(server, clock, monkeypatch):
    monkeypatch.setattr(subject, "UNKNOWN_MAX", 5)
    registry = HttpRegistry(server.url, clock)
    registry.schema(3)
    for schema_id in range(1000, 1100):
        with pytest.raises(UnknownSchema):
            registry.schema(schema_id)
    assert len(server.requests) == 6
    assert registry.schema(3).name == "bid"
    clock.now_ns += subject.UNKNOWN_FOR_NS + 1
    assert registry.schema(2).name == "bid"


def test_a_topics_own_subject_serves_when_none_is_named_after_the_record(server, clock):
    server.schemas = {1: _PERSON}
    registry = HttpRegistry(server.url, clock)
    assert registry.find("tests.person", ["persons"]).name == "person"
    assert [path.split("/")[3] for path, _ in server.requests] == [
        "tests.person",
        "persons-tests.person",
        "persons-value",
    ]


def test_user_and_password_of_the_address_are_sent_and_never_shown(server, clock):
    url = server.url.replace("http://", "http://anna:s%40fe@")
    registry = HttpRegistry(url, clock)
    registry.schema(3)
    expected = "Basic " + base64.b64encode(b"anna:s@fe").decode()
    assert server.requests == [("/registry/schemas/ids/3", expected)]
    with pytest.raises(UnknownSchema) as caught:
        registry.schema(77)
    assert "s%40fe" not in str(caught.value)
    with pytest.raises(UsageError) as refused:
        HttpRegistry("ftp://anna:secret@registry.example", clock)
    assert "secret" not in str(refused.value)


_GOOD = json.dumps({"schema": json.dumps(_BID)}).encode()


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ((500, b"oops", {}), "answered 500"),
        ((401, b"{}", {}), "answered 401"),
        ((404, b"<html>", {}), "answered 404"),
        ((404, b'{"error_code": 404}', {}), "answered 404"),
        ((302, b"", {"Location": "http://127.0.0.1:1/elsewhere"}), "answered 302"),
        ((200, b"not json", {}), "Expecting value"),
        ((200, b"[1]", {}), "no JSON object"),
        ((200, b"[" * 100_000, {}), "nests too deep"),
        ((200, b" " * (subject.ANSWER_BYTES_MAX + 1), {}), "larger than"),
    ],
)
def test_a_registry_that_answers_nonsense_is_unavailable_and_not_a_missing_schema(
    server, clock, answer, complaint
):
    registry = HttpRegistry(server.url, clock)
    server.instead = lambda _: answer
    for _ in range(3):
        with pytest.raises(RegistryUnavailable, match=complaint):
            registry.schema(3)
    assert len(server.requests) == 1, "while it is down it is not asked again at once"
    server.instead = None
    clock.now_ns += subject.DOWN_FOR_NS + 1
    assert registry.schema(3).name == "bid"


def test_a_registry_that_is_not_there_is_unavailable(server, clock):
    with pytest.raises(RegistryUnavailable, match=r"refused.*check --registry"):
        HttpRegistry("http://127.0.0.1:1", clock).schema(3)


def test_a_registry_that_does_not_answer_in_time_is_unavailable(server, clock):
    release = threading.Event()

    def hang(_: str) -> tuple[int, bytes, dict[str, str]]:
        release.wait(5)
        return 500, b"", {}

    server.instead = hang
    with pytest.raises(RegistryUnavailable, match="timed out"):
        HttpRegistry(server.url, clock, timeout_s=0.05).schema(3)
    release.set()


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ({"schemaType": "PROTOBUF", "schema": "x"}, "only Avro"),
        ({"schema": "{}", "references": [{"name": "x"}]}, "refers to other subjects"),
        ({"schema": 7}, "holds no schema"),
        ({"schema": "nonsense"}, "no JSON"),
    ],
)
def test_a_schema_of_another_kind_is_refused(server, clock, answer, complaint):
    server.instead = lambda _: (200, json.dumps(answer).encode(), {})
    with pytest.raises(SchemaError, match=complaint):
        HttpRegistry(server.url, clock).schema(3)
