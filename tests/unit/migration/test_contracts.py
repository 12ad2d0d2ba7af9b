"""docs/contracts against the code: what we write fits, what we refuse does not, examples hold.

Cannot catch: a meaning that changes while the shape stays.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from service.migration.records import RequestState, StatusRecord, encode
from service.migration.requests import Request, parse
from service.status import JobStatus, MemberStatus
from tests.unit.migration.controller_world import ControllerWorld

FOLDER = Path(__file__).parents[3] / "docs" / "contracts"
SCHEMAS: dict[str, dict[str, Any]] = {
    path.name.removesuffix(".schema.json"): json.loads(path.read_text(encoding="utf-8"))
    for path in sorted(FOLDER.glob("*.schema.json"))
}


def fits(contract: str, document: object) -> bool:
    return bool(Draft202012Validator(SCHEMAS[contract]).is_valid(document))


def example(contract: str) -> dict[str, Any]:
    first: dict[str, Any] = copy.deepcopy(SCHEMAS[contract]["examples"][0])
    return first


def test_every_contract_is_there() -> None:
    assert sorted(SCHEMAS) == [
        "bench",
        "check-config",
        "control-record",
        "doctor",
        "graph",
        "letter",
        "plan",
        "replay",
        "requests",
        "state",
        "state-export",
        "state-import",
        "state-value",
        "state-verify",
        "status",
        "status-record",
        "summary",
    ]


@pytest.mark.parametrize("contract", sorted(SCHEMAS))
def test_a_contract_is_a_schema_and_its_examples_fit(contract: str) -> None:
    Draft202012Validator.check_schema(SCHEMAS[contract])
    for document in SCHEMAS[contract]["examples"]:
        Draft202012Validator(SCHEMAS[contract]).validate(document)


@pytest.mark.parametrize("contract", sorted(SCHEMAS))
def test_no_required_field_may_be_missing(contract: str) -> None:
    for field in SCHEMAS[contract]["required"]:
        document = example(contract)
        del document[field]
        assert not fits(contract, document), field


@pytest.mark.parametrize(
    "body",
    [
        *SCHEMAS["control-record"]["examples"],
        {"id": "r", "kind": "move", "moves": []},
        {"id": "r", "kind": "move", "moves": [[0, 0]], "workers": None, "strategy": None},
        {"id": "r", "kind": "move", "moves": [[0, 0]], "batch": None, "at": 5},
        {"id": "x" * 200, "kind": "rescale", "workers": 1, "moves": None},
        {"id": "r", "kind": "rescale", "workers": 1, "moves": [], "strategy": "batched"},
        {"id": "r", "kind": "move", "moves": [[0, 0]], "strategy": "optimized", "queue": False},
        {"id": "r", "kind": "move", "waves": [[[0, 0]]], "moves": None, "queue": True},
        {"id": "r", "kind": "move", "waves": [], "after_us": []},
        {"id": "r", "kind": "rebalance", "threshold": 0.0, "by": None, "at": 5},
        {"id": "r", "kind": "pause"},
        {"id": "r", "kind": "resume", "plan": None, "queue": False, "moves": []},
        {"id": "r", "kind": "abort", "plan": "p", "workers": None},
    ],
)
def test_a_control_record_of_the_contract_is_understood(body: object) -> None:
    assert fits("control-record", body)
    assert isinstance(parse(json.dumps(body).encode(), 0), Request)


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        {"kind": "move", "moves": [[0, 0]]},
        {"id": "", "kind": "move", "moves": [[0, 0]]},
        {"id": 5, "kind": "move", "moves": [[0, 0]]},
        {"id": "x" * 201, "kind": "move", "moves": [[0, 0]]},
        {"id": "r", "moves": [[0, 0]]},
        {"id": "r", "kind": "stop"},
        {"id": "r", "kind": "move"},
        {"id": "r", "kind": "move", "moves": None},
        {"id": "r", "kind": "move", "moves": [[0]]},
        {"id": "r", "kind": "move", "moves": [[0, 0, 0]]},
        {"id": "r", "kind": "move", "moves": [[0, -1]]},
        {"id": "r", "kind": "move", "moves": [[True, 0]]},
        {"id": "r", "kind": "move", "moves": [[0, 0]], "workers": 2},
        {"id": "r", "kind": "move", "moves": [[0, 0]], "strategy": "luck"},
        {"id": "r", "kind": "move", "moves": [[0, 0]], "waves": [[[0, 0]]]},
        {"id": "r", "kind": "move", "moves": [[0, 0]], "after_us": [0]},
        {"id": "r", "kind": "move", "moves": [[0, 0]], "plan": "p"},
        {"id": "r", "kind": "move", "waves": [[]]},
        {"id": "r", "kind": "move", "waves": [[[0, 0]]], "strategy": "fluid"},
        {"id": "r", "kind": "move", "waves": [[[0, 0]]], "batch": 1},
        {"id": "r", "kind": "move", "waves": [[[0, 0]]], "after_us": [-1]},
        {"id": "r", "kind": "rebalance", "threshold": -0.1},
        {"id": "r", "kind": "rebalance", "by": "colour"},
        {"id": "r", "kind": "rebalance", "workers": 2},
        {"id": "r", "kind": "rescale", "workers": 2, "waves": [[[0, 0]]]},
        {"id": "r", "kind": "pause", "plan": 5},
        {"id": "r", "kind": "pause", "queue": True},
        {"id": "r", "kind": "abort", "strategy": "fluid"},
        {"id": "r", "kind": "move", "moves": [[0, 0]], "batch": 0},
        {"id": "r", "kind": "move", "moves": [[0, 0]], "at": 1.5},
        {"id": "r", "kind": "move", "moves": [[0, 0]], "at": -1},
        {"id": "r", "kind": "move", "moves": [[0, 0]], "force": True},
        {"id": "r", "kind": "rescale"},
        {"id": "r", "kind": "rescale", "workers": 0},
        {"id": "r", "kind": "rescale", "workers": 1, "moves": [[0, 0]]},
    ],
)
def test_a_control_record_outside_the_contract_is_rejected(body: object) -> None:
    assert not fits("control-record", body)
    assert not isinstance(parse(json.dumps(body).encode(), 0), Request)


def test_every_status_of_a_run_fits_the_contract() -> None:
    world = ControllerWorld()
    world.begin()
    world.request(b"{")
    world.request(b'{"id":"a","kind":"move","moves":[[0,1],[1,1]],"strategy":"fluid"}')
    world.request(b'{"id":"a","kind":"move","moves":[[0,0]]}')
    world.finish_plan(5_000_000)
    world.request(b'{"id":"b","kind":"move","moves":[[0,1]]}')
    world.request(b'{"id":"c","kind":"rescale","workers":2,"at":%d}' % (world.now + 9_000_000))
    world.request(b'{"id":"hold","kind":"pause"}')
    world.tell_loads()
    world.request(b'{"id":"d","kind":"rebalance","by":"rows","dry_run":true}')
    world.request(b'{"id":"end","kind":"abort","plan":"c"}')
    documents = [msgspec.json.decode(encode(status)) for status in world.statuses]
    for document in documents:
        Draft202012Validator(SCHEMAS["status-record"]).validate(document)
    assert {d["state"] for d in documents} == set(RequestState)


def test_an_aborted_status_fits_with_its_reason_only() -> None:
    status = StatusRecord(id="r", state=RequestState.ABORTED, reason="the job was stopped", at=5)
    assert fits("status-record", msgspec.json.decode(encode(status)))
    silent = msgspec.structs.replace(status, reason=None)
    assert not fits("status-record", msgspec.json.decode(encode(silent)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("state", "done"),
        ("reason", "although completed"),
        ("at", None),
        ("at", 1.5),
        ("bins", -1),
        ("duration_ms", 3.5),
        ("extra", 1),
    ],
)
def test_a_status_outside_the_contract_does_not_fit(field: str, value: object) -> None:
    assert not fits("status-record", example("status-record") | {field: value})


def test_the_status_document_carries_a_status_record_as_its_plan() -> None:
    plan = StatusRecord(id="r", state=RequestState.RUNNING, at=5, bins=1, waves=1)
    document = example("status")
    assert fits("status", document | {"plan": msgspec.json.decode(encode(plan))})
    assert not fits("status", document | {"plan": {"id": "r"}})
    assert fits("status", document | {"owners": None, "generation": None, "members": []})
    assert not fits("status", document | {"owners": ["worker-0"]})
    assert not fits("status", document | {"frontiers": {"stats": "soon"}})


def test_what_the_status_command_prints_fits_the_contract() -> None:
    running = MemberStatus(
        slot="gateway-0",
        role="gateway",
        state="running",
        address="tcp://127.0.0.1:1",
        incarnation="5",
        heartbeat=7,
        generation=1,
        details={"lag": 3},
    )
    status = JobStatus(
        app="shop",
        generation=1,
        members=[running],
        owners=[0, 1],
        frontiers={"stats": 9, "out": None},
        plan=StatusRecord(id="r", state=RequestState.ACCEPTED, at=5, bins=1, waves=1),
    )
    Draft202012Validator(SCHEMAS["status"]).validate(msgspec.to_builtins(status))


def test_a_member_of_the_status_document_says_who_and_how_it_is() -> None:
    document = example("status")
    document["members"][0] |= {"slot": "worker-any", "state": "waiting", "generation": None}
    assert fits("status", document)
    for field, value in (("slot", "node-1"), ("role", "leader"), ("state", "ok")):
        broken = copy.deepcopy(document)
        broken["members"][0][field] = value
        assert not fits("status", broken), field


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"bound": None, "met": None}, True),
        ({"bound": 0.6, "met": None}, False),
        ({"bound": None, "met": True}, False),
        ({"runs": 0}, False),
        ({"median": "0.7"}, False),
    ],
)
def test_a_figure_with_a_bound_says_whether_it_is_met(
    change: dict[str, object], expected: bool
) -> None:
    document = example("bench")
    document["figures"][0] |= change
    assert fits("bench", document) is expected


def test_a_bench_says_how_much_the_machine_stalled() -> None:
    assert not fits("bench", example("bench") | {"machine": {"cpus": 2}})
    assert not fits("bench", example("bench") | {"figures": []})


@pytest.mark.parametrize(
    ("latency", "expected"),
    [
        ({"count": 3, "p50": 1, "p99": 2, "p999": 2.5, "max": 3}, True),
        ({"count": 0, "p50": None, "p99": None, "p999": None, "max": None}, True),
        ({"count": 3, "p50": None, "p99": 2, "p999": 2.5, "max": 3}, False),
        ({"count": 3, "p50": 1, "p99": 2, "max": 3}, False),
    ],
)
def test_latencies_are_numbers_wherever_something_was_measured(
    latency: dict[str, object], expected: bool
) -> None:
    document = example("summary")
    document["latency_ms"]["migrating"] = latency
    assert fits("summary", document) is expected


def test_a_summary_lists_each_migration_in_full() -> None:
    document = example("summary")
    for field in ("id", "bins", "bytes", "waves", "duration_ms"):
        broken = copy.deepcopy(document)
        del broken["migrations"][0][field]
        assert not fits("summary", broken), field
    assert fits("summary", document | {"migrations": []})
    assert not fits("summary", document | {"results_exact": "yes"})
