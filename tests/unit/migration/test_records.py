"""The control plane's records: JSON there and back, and everything a reader must refuse.

Cannot catch: a well formed record that is wrong for the state of the log; that is LogFollower's.
"""

from __future__ import annotations

import msgspec
import pytest

from service.errors import FormatMismatch, ProtocolViolation
from service.migration.records import (
    MAX_EPOCH,
    Generation,
    LogRecord,
    ManifestRecord,
    MemberDetails,
    MemberRecord,
    MemberState,
    Move,
    Promise,
    RequestState,
    SlotBinding,
    StatusRecord,
    Stop,
    decode_log,
    decode_manifest,
    decode_member,
    decode_status,
    encode,
)

GENERATION = Generation(
    generation=1,
    clock=1,
    horizon=20,
    first_epoch=10,
    bins=4,
    workers=2,
    gateways=1,
    slots=[
        SlotBinding(slot=slot, incarnation="a", address="tcp://127.0.0.1:1")
        for slot in ("worker-0", "worker-1", "gateway-0")
    ],
    bin_owners=[0, 0, 1, 1],
    sink_owners=[0, 1],
    partition_owners={"bids": [0, 0]},
    positions={"bids": [5, 7]},
    manifest=None,
    until_end=False,
)
MANIFEST = ManifestRecord(
    name="1-30",
    generation=1,
    cut=30,
    clock=25,
    bins=4,
    workers=2,
    gateways=1,
    bin_owners=[0, 0, 1, 1],
    sink_owners=[0, 1],
    partition_owners={"bids": [0, 0]},
    log_offset=12,
    positions={"bids": [9, 11]},
    files={"worker-0": {"files": [{"name": "a.sst", "bytes": 3, "rows": 1, "digest": "00"}]}},
)
LOG: list[LogRecord] = [
    Promise(horizon=7, clock=3),
    Move(at=8, request="r", wave=1, waves=2, moves=[(0, 1), (3, 0)], clock=3),
    Stop(at=9, drain=True, clock=4),
    GENERATION,
]


@pytest.mark.parametrize("record", LOG, ids=lambda record: type(record).__name__)
def test_a_log_record_reads_back_equal(record: LogRecord) -> None:
    assert decode_log(encode(record)) == record


def test_log_records_say_their_type_and_the_clock_in_plain_json() -> None:
    assert msgspec.json.decode(encode(LOG[1])) == {
        "type": "move",
        "clock": 3,
        "at": 8,
        "request": "r",
        "wave": 1,
        "waves": 2,
        "moves": [[0, 1], [3, 0]],
        "precopy": 0,
    }


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"[",
        b"[" * 100_000,
        b'"\xed\xa0\x80"',
        b"null",
        b"[]",
        b'{"type":"admit","slot":"worker-2","at":5,"clock":1}',
        b'{"horizon":7,"clock":3}',
        b'{"type":"promise","horizon":7}',
        b'{"type":"promise","horizon":7,"clock":3,"term":1}',
        b'{"type":"promise","horizon":7.0,"clock":3}',
        b'{"type":"promise","horizon":true,"clock":3}',
        b'{"type":"promise","horizon":"7","clock":3}',
        b'{"type":"promise","horizon":-1,"clock":3}',
        b'{"type":"promise","horizon":9223372036854775808,"clock":3}',
        b'{"type":"stop","at":5,"drain":0,"clock":1}',
        b'{"type":"move","at":8,"request":"r","wave":3,"waves":2,"moves":[[0,1]],"clock":3}',
        b'{"type":"move","at":8,"request":"r","wave":0,"waves":2,"moves":[[0,1]],"clock":3}',
        b'{"type":"move","at":8,"request":"r","wave":1,"waves":2,"moves":[],"clock":3}',
        b'{"type":"move","at":8,"request":"r","wave":1,"waves":2,"moves":[[0,1],[0,2]],"clock":3}',
        b'{"type":"move","at":8,"request":"r","wave":1,"waves":2,"moves":[[0]],"clock":3}',
    ],
)
def test_an_unknown_or_malformed_log_record_stops_the_process(data: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="accepted log"):
        decode_log(data)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("horizon", 9),
        ("bins", 3),
        ("workers", 1),
        ("gateways", 2),
        ("bin_owners", [0, 0, 1, 2]),
        ("sink_owners", [2]),
        ("partition_owners", {"bids": [0, 1]}),
        ("partition_owners", {"bids": [0]}),
        ("positions", {"bids": [5, 7], "other": [0]}),
    ],
)
def test_a_generation_that_contradicts_itself_is_refused(field: str, value: object) -> None:
    document = msgspec.json.decode(encode(GENERATION))
    document[field] = value
    with pytest.raises(ProtocolViolation):
        decode_log(msgspec.json.encode(document))


def test_the_largest_time_fits_and_one_more_does_not() -> None:
    record = Promise(horizon=MAX_EPOCH, clock=0)
    assert decode_log(encode(record)) == record
    with pytest.raises(ProtocolViolation):
        decode_log(encode(Promise(horizon=MAX_EPOCH + 1, clock=0)))


def test_status_and_member_records_read_back_equal() -> None:
    status = StatusRecord(id="r", state=RequestState.RUNNING, at=5, bins=3, waves=2)
    member = MemberRecord(
        slot="gateway-0",
        role="gateway",
        incarnation="a",
        address="tcp://127.0.0.1:1",
        state=MemberState.RUNNING,
        heartbeat=6,
        generation=2,
        details=MemberDetails(frontiers={"stats": 5, "out": None}, lag=9),
    )
    assert decode_status(encode(status)) == status
    assert decode_member(encode(member)) == member


def test_members_of_a_newer_version_are_understood() -> None:
    data = (
        b'{"slot":"worker-0","role":"worker","incarnation":"a","address":"","state":"waiting",'
        b'"heartbeat":1,"novelty":[1]}'
    )
    assert decode_member(data).state is MemberState.WAITING


@pytest.mark.parametrize("data", [b"", b"{}", b'{"id":"r","state":"done"}', b"\xff"])
def test_malformed_status_member_and_manifest_records_are_refused(data: bytes) -> None:
    for decode in (decode_status, decode_member, decode_manifest):
        with pytest.raises(ProtocolViolation):
            decode(data)


def test_a_manifest_reads_back_equal_with_its_opaque_files() -> None:
    assert decode_manifest(encode(MANIFEST)) == MANIFEST


def test_a_manifest_of_another_format_is_named_as_such() -> None:
    document = msgspec.json.decode(encode(MANIFEST))
    document["format_version"] = 2
    document["bin_owners"] = []
    with pytest.raises(FormatMismatch, match="format 2, this version reads 1"):
        decode_manifest(msgspec.json.encode(document))


def test_a_manifest_that_contradicts_itself_is_refused() -> None:
    document = msgspec.json.decode(encode(MANIFEST))
    document["bin_owners"] = [0, 0, 1, 2]
    with pytest.raises(ProtocolViolation, match="no member"):
        decode_manifest(msgspec.json.encode(document))
