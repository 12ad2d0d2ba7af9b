"""What users may write on the control topic, and the sentence they get if they may not."""

from __future__ import annotations

import msgspec
import pytest

from service.migration.requests import (
    ID_CHARS_MAX,
    MOVES_MAX,
    RECORD_BYTES_MAX,
    Kind,
    LoadKind,
    Rejected,
    Request,
    parse,
)
from service.migration.strategy import Strategy

MOVE = {"id": "r", "kind": "move", "moves": [[3, 1], [0, 0]]}
RESCALE = {"id": "r", "kind": "rescale", "workers": 2}


def parsed(body: object) -> Request | Rejected:
    return parse(msgspec.json.encode(body), 7)


def test_a_move_with_everything_said() -> None:
    body = MOVE | {"strategy": "all-at-once", "batch": 4, "at": 99, "workers": None}
    assert parsed(body) == Request(
        "r", Kind.MOVE, Strategy.ALL_AT_ONCE, moves=((3, 1), (0, 0)), batch=4, at=99
    )


def test_a_move_with_only_what_it_needs() -> None:
    assert parsed(MOVE) == Request("r", Kind.MOVE, Strategy.BATCHED, moves=((3, 1), (0, 0)))


def test_a_rescale() -> None:
    body = RESCALE | {"strategy": "fluid", "moves": [], "at": None}
    assert parsed(body) == Request("r", Kind.RESCALE, Strategy.FLUID, workers=2)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "the record is empty"),
        (b"move", "the record is not JSON: "),
        (b"\xff\x00", "the record is not JSON: "),
        (b'"\xed\xa0\x80"', "the record is not JSON: "),
        (b'{"id":"a"', "the record is not JSON: "),
        (b"[" * 100_000 + b"]" * 100_000, "the record is not JSON: maximum recursion depth"),
        (b"null", "the record is null, not a JSON object"),
        (b"[1]", "the record is an array, not a JSON object"),
        (b"7", "the record is a number, not a JSON object"),
        (b'"a"', "the record is a string, not a JSON object"),
        (b'{"kind":"move"}', "the request has no id"),
        (b'{"id":null}', "id is null, not a string"),
        (b'{"id":7}', "id is a number, not a string"),
        (b'{"id":true}', "id is a boolean, not a string"),
        (b'{"id":{}}', "id is an object, not a string"),
        (b'{"id":1.5}', "id is the number 1.5, which has a fraction or an exponent, not a string"),
        (b'{"id":""}', "id is an empty string"),
        (b'{"id":"a\\u0007"}', 'id "a\\u0007" holds characters that cannot be printed'),
    ],
)
def test_without_a_usable_id_the_status_is_keyed_by_the_offset(value: bytes, reason: str) -> None:
    rejected = parse(value, 7)
    assert isinstance(rejected, Rejected)
    assert rejected.id == "invalid@7"
    assert rejected.reason.startswith(reason)


def test_an_oversize_record_is_not_even_looked_at() -> None:
    value = msgspec.json.encode(MOVE) + b" " * RECORD_BYTES_MAX
    rejected = parse(value, 8)
    assert rejected.id == "invalid@8"
    assert isinstance(rejected, Rejected)
    assert rejected.reason == f"the record has {len(value):,} bytes; 1,048,576 bytes are allowed"


def test_a_long_id_is_rejected_and_the_longest_one_is_not() -> None:
    assert parsed(MOVE | {"id": "x" * ID_CHARS_MAX}).id == "x" * ID_CHARS_MAX
    assert parsed(MOVE | {"id": "x" * (ID_CHARS_MAX + 1)}) == Rejected(
        "invalid@7", "id has 201 characters; 200 are allowed"
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kind": None}, "the request has no kind; it must be one of move, rescale, "),
        ({"kind": "fly"}, 'unknown kind "fly"; it must be one of move, rescale'),
        ({"kind": 1}, "unknown kind 1; it must be one of move, rescale"),
        ({"kind": ["move"]}, 'unknown kind ["move"]; it must be one of move'),
        (
            {"force": 1},
            'unknown field "force"; known are id, kind, moves, waves, after_us, st',
        ),
        ({"workers": 2}, "workers belongs to kind 'rescale'; kind 'move' must not have it"),
        ({"moves": None}, "kind 'move' needs moves: a list of [bin, worker] pairs"),
        ({"moves": {"1": 2}}, "moves is an object, not a list of [bin, worker] pairs"),
        ({"moves": [[1, 2], [1]]}, "moves[1] is [1], not a pair [bin, worker]"),
        ({"moves": ["ab"]}, 'moves[0] is "ab", not a pair [bin, worker]'),
        ({"moves": [[1, True]]}, "moves[0]: worker true is not an integer"),
        ({"moves": [[1.0, 0]]}, "moves[0]: bin 1.0 is not an integer"),
        ({"moves": [["1", 0]]}, 'moves[0]: bin "1" is not an integer'),
        ({"moves": [[-1, 0]]}, "moves[0]: unknown bin -1"),
        ({"moves": [[0, 1 << 63]]}, "moves[0]: unknown worker 9223372036854775808"),
        ({"moves": [[5, 0], [5, 1]]}, "moves[1]: bin 5 is named twice"),
        ({"strategy": 1}, "strategy is a number, not a string"),
        ({"strategy": "fast"}, "unknown strategy 'fast'; use one of all-at-once, fluid, batched"),
        ({"queue": 1}, "queue is a number, not a boolean"),
        ({"plan": "p"}, "plan belongs to kind 'pause' and 'resume' and 'abort'; kind 'move' must"),
        ({"threshold": 0.5}, "threshold belongs to kind 'rebalance'; kind 'move' must not have it"),
        ({"after_us": [1]}, "after_us needs waves: a list of lists of [bin, worker] pairs"),
        ({"waves": [[[0, 1]]]}, "moves and waves exclude each other; waves are moved as they are"),
        ({"batch": 0}, "batch is 0; it must be from 1 to 65536"),
        ({"batch": True}, "batch is a boolean, not an integer"),
        ({"batch": "4"}, "batch is a string, not an integer"),
        ({"at": 1.5e15}, "at is the number 1.5e+15, which has a fraction or an exponent, not an"),
        ({"at": -1}, "at is -1; it must be from 0 to 9223372036854775807"),
        ({"at": "now"}, "at is a string, not an integer"),
    ],
)
def test_an_invalid_move_is_rejected_under_its_id(change: dict[str, object], reason: str) -> None:
    rejected = parsed(MOVE | change)
    assert isinstance(rejected, Rejected)
    assert rejected.id == "r"
    assert rejected.reason.startswith(reason)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"workers": None}, "kind 'rescale' needs workers: the number of workers to spread the"),
        ({"workers": 0}, "workers is 0; it must be from 1 to 9223372036854775807"),
        ({"workers": True}, "workers is a boolean, not an integer"),
        ({"moves": [[0, 1]]}, "moves belongs to kind 'move'; kind 'rescale' must not have it"),
    ],
)
def test_an_invalid_rescale_is_rejected_under_its_id(
    change: dict[str, object], reason: str
) -> None:
    rejected = parsed(RESCALE | change)
    assert isinstance(rejected, Rejected)
    assert rejected.id == "r"
    assert rejected.reason.startswith(reason)


@pytest.mark.parametrize(
    "kind",
    ["admit", "retire", "stop", "move-partitions", "move-sinks"],
)
def test_what_later_versions_will_do_is_refused_by_name(kind: str) -> None:
    rejected = parsed(MOVE | {"kind": kind})
    assert isinstance(rejected, Rejected)
    assert "is not supported in this version; " in rejected.reason


def test_waves_as_they_are_to_be() -> None:
    body = {"id": "r", "kind": "move", "waves": [[[3, 1], [0, 0]], [[3, 0]]], "after_us": [0, 9]}
    assert parsed(body | {"queue": True, "moves": None}) == Request(
        "r", Kind.MOVE, waves=(((3, 1), (0, 0)), ((3, 0),)), after_us=(0, 9), queue=True
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"strategy": "fluid"}, "strategy and waves exclude each other"),
        ({"batch": 2}, "batch and waves exclude each other"),
        ({"after_us": [0]}, "after_us has 1 times for 2 waves"),
        ({"after_us": [5, 4]}, "after_us[1] is 4; it must be from 5 to 3600000000"),
        ({"after_us": [0, None]}, "after_us[1] is null, not an integer"),
        ({"after_us": 7}, "after_us is a number, not a list of times"),
        ({"waves": {}}, "waves is an object, not a list of waves"),
        ({"waves": [[[0, 1]], []]}, "waves[1] is []; a wave names at least one bin"),
        ({"waves": [[[0, 1]], None]}, "waves[1] is null; a wave names at least one bin"),
        ({"waves": [[[0, 1]], [[0]]]}, "waves[1][0] is [0], not a pair [bin, worker]"),
        ({"waves": [[[0, 1], [0, 2]]]}, "waves[0][1]: bin 0 is named twice"),
    ],
)
def test_waves_that_cannot_be_are_rejected(change: dict[str, object], reason: str) -> None:
    body = {"id": "r", "kind": "move", "waves": [[[3, 1]], [[3, 0]]]}
    rejected = parsed(body | change)
    assert isinstance(rejected, Rejected)
    assert rejected.reason.startswith(reason)


def test_waves_with_too_many_moves_in_all_are_rejected() -> None:
    half = [[bin_, 0] for bin_ in range(MOVES_MAX // 2 + 1)]
    body = {"id": "r", "kind": "move", "waves": [half, half]}
    rejected = parsed(body)
    assert isinstance(rejected, Rejected)
    assert rejected.reason.startswith("waves has over 65,536 pairs")


def test_a_rebalance() -> None:
    body = {"id": "r", "kind": "rebalance"}
    assert parsed(body) == Request("r", Kind.REBALANCE, threshold=0.1, by=LoadKind.UPDATES)
    more = {"threshold": 0, "by": "bytes", "strategy": "optimized", "batch": 2, "dry_run": True}
    assert parsed(body | more) == Request(
        "r", Kind.REBALANCE, Strategy.OPTIMIZED, threshold=0.0, by=LoadKind.BYTES, batch=2,
        dry_run=True,
    )  # fmt: skip
    for change, reason in (
        ({"threshold": -1}, "threshold is -1; it must be from 0 to 1000"),
        ({"threshold": True}, "threshold is a boolean, not a number"),
        ({"by": "colour"}, 'by is "colour"; it must be one of updates, bytes, rows'),
        ({"workers": 1}, "workers belongs to kind 'rescale'; kind 'rebalance' must not have it"),
    ):
        rejected = parsed(body | change)
        assert isinstance(rejected, Rejected)
        assert rejected.reason == reason


@pytest.mark.parametrize("kind", [Kind.PAUSE, Kind.RESUME, Kind.ABORT])
def test_steering_a_plan(kind: Kind) -> None:
    assert parsed({"id": "r", "kind": kind}) == Request("r", kind)
    assert parsed({"id": "r", "kind": kind, "plan": "p"}) == Request("r", kind, plan="p")
    for change, reason in (
        ({"plan": 7}, "plan is a number, not a string: the id of the request that began it"),
        ({"at": 0}, f"at belongs to kind 'move' and 'rescale' and 'rebalance'; kind '{kind}' must"),
        ({"dry_run": True}, "dry_run belongs to kind 'move' and 'rescale' and 'rebalance'; kind"),
    ):
        rejected = parsed({"id": "r", "kind": kind} | change)
        assert isinstance(rejected, Rejected)
        assert rejected.reason.startswith(reason)


def test_too_many_moves_are_rejected_and_the_most_allowed_are_not() -> None:
    most = [[bin_, 0] for bin_ in range(MOVES_MAX)]
    assert isinstance(parsed(MOVE | {"moves": most}), Request)
    assert parsed(MOVE | {"moves": [*most, [MOVES_MAX, 0]]}) == Rejected(
        "r", "moves has 65,537 pairs; 65,536 are allowed in one request"
    )


def test_huge_values_are_cut_short_in_the_reason() -> None:
    rejected = parse(b'{"id":"r","kind":"move","at":' + b"1" * 4000 + b"}", 7)
    assert isinstance(rejected, Rejected)
    assert len(rejected.reason) < 200
