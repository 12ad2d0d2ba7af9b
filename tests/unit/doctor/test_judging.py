"""What answers of a cluster are taken to mean; whatever is not good says how to mend it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.control_topics import AppTopics
from service.doctor.cluster_facts import ClusterFacts, Reach, TopicFacts, Trial
from service.doctor.finding import (
    Finding,
    Verdict,
    exit_status_of,
    report_of,
    text_of,
)
from service.doctor.judging import Needs, judge_cluster

HERE = Reach("127.0.0.1:9092")
ALL = frozenset({"READ", "WRITE", "DESCRIBE"})
NEEDS = Needs("bids", ["in"], ["out"], gateways=2)
OWN = {name: TopicFacts(1, 1, ALL, config) for name, config in AppTopics("bids").layout().items()}
WELL = ClusterFacts(
    (HERE,),
    brokers=(HERE,),
    cluster_id="c",
    topics={"in": TopicFacts(4, 1, ALL, {}), "out": TopicFacts(4, 1, ALL, {}), **OWN},
    group=frozenset({"READ", "DESCRIBE"}),
    creatable={"in.dlq": None},
    requests={"Fetch": (4, 18), "InitProducerId": (0, 5)},
    trial=Trial(
        "bids.doctor-1",
        ("fenced", "created", "written", "read", "deleted"),
        ahead_us=0,
        took_us=3_000,
    ),
)


def judged(facts: ClusterFacts, needs: Needs = NEEDS) -> dict[str, Finding]:
    findings = judge_cluster(facts, needs)
    names = [each.name for each in findings]
    assert len(set(names)) == len(names), "each thing is judged once"
    assert all(each.mend for each in findings if each.verdict in ("warning", "bad"))
    return {each.name: each for each in findings}


def with_topic(name: str, topic: TopicFacts) -> ClusterFacts:
    return replace(WELL, topics={**WELL.topics, name: topic})


def test_a_cluster_that_has_everything_is_good() -> None:
    found = judged(WELL)
    assert {each.verdict for each in found.values()} == {Verdict.GOOD}
    assert set(found) == {
        "broker.reachable", "broker.advertised", "broker.version", "topics.exist",
        "topics.partitions", "permissions.read", "permissions.write", "permissions.create",
        "topics.own", "permissions.own", "permissions.group", "broker.trial", "clock.broker",
    }  # fmt: skip
    assert exit_status_of([*found.values()]) == 0


def test_nobody_at_the_address_ends_the_questions_with_status_2() -> None:
    gone = ClusterFacts((Reach("b:1", "the name b is not known here"),))
    (only,) = judge_cluster(gone, NEEDS)
    assert only.verdict is Verdict.BAD
    assert "b:1: the name b is not known here" in only.says
    assert "megaphone broker" in str(only.mend)
    assert exit_status_of([only]) == 2


def test_a_listener_that_is_no_kafka_for_us_is_told_from_nobody() -> None:
    (only,) = judge_cluster(ClusterFacts((HERE,), problem="Broker transport failure"), NEEDS)
    assert "takes connections but does not speak Kafka with us" in only.says
    assert "TLS or SASL" in str(only.mend)


def test_what_brokers_advertise_must_be_reached_from_here() -> None:
    lost = replace(WELL, brokers=(HERE, Reach("kafka:9092", "the name kafka is not known here")))
    found = judged(lost)["broker.advertised"]
    assert (found.verdict, "advertised.listeners" in str(found.mend)) == (Verdict.BAD, True)


@pytest.mark.parametrize(
    ("requests", "says"),
    [
        ({"Fetch": (4, 18)}, "Kafka 4.1 or newer"),
        ({"Fetch": (4, 17)}, "Kafka 4.0 or newer"),
        ({"Fetch": (0, 17)}, "Kafka 3.7 or newer"),
        ({"Fetch": (0, 13)}, "Kafka 3.1 or newer"),
        ({"Fetch": (0, 11), "InitProducerId": (0, 3)}, "Kafka 2.5 or newer"),
    ],
)
def test_the_requests_a_broker_takes_tell_its_release(requests, says) -> None:
    found = judged(replace(WELL, requests=requests))["broker.version"]
    assert found.verdict is Verdict.GOOD
    assert says in found.says


def test_a_broker_without_fencing_is_too_old_and_a_silent_one_unknown() -> None:
    old = replace(WELL, requests={"Fetch": (0, 11), "InitProducerId": (0, 1)})
    assert judged(old)["broker.version"].verdict is Verdict.BAD
    assert judged(replace(WELL, requests={}))["broker.version"].verdict is Verdict.UNKNOWN


def test_absent_topics_and_idle_gateways_are_named() -> None:
    topics = {name: each for name, each in WELL.topics.items() if name != "out"}
    found = judged(replace(WELL, topics=topics))
    assert found["topics.exist"].verdict is Verdict.BAD
    assert "out" in found["topics.exist"].says
    narrow = judged(with_topic("in", TopicFacts(1, 1, ALL, {})))
    assert narrow["topics.partitions"].verdict is Verdict.WARNING
    assert "in has 1" in narrow["topics.partitions"].says


@pytest.mark.parametrize(
    ("topic", "check", "missing"),
    [("in", "permissions.read", "READ"), ("out", "permissions.write", "WRITE")],
)
def test_a_right_that_is_lacking_is_named_and_one_not_told_is_unknown(
    topic, check, missing
) -> None:
    refused = judged(with_topic(topic, TopicFacts(4, 1, ALL - {missing}, {})))[check]
    assert refused.verdict is Verdict.BAD
    assert missing in str(refused.mend)
    assert judged(with_topic(topic, TopicFacts(4, 1, None, {})))[check].verdict is Verdict.UNKNOWN


def test_topics_that_are_not_ours_to_see_are_not_called_absent() -> None:
    topics = {name: each for name, each in WELL.topics.items() if name != "in"}
    found = judged(replace(WELL, topics=topics, hidden=frozenset({"in", "elsewhere"})))
    assert found["permissions.describe"].verdict is Verdict.BAD
    assert found["permissions.describe"].says == "Kafka does not show us in, if they are there"
    assert "topics.exist" not in found


def test_each_right_to_own_topics_is_asked_for() -> None:
    config = OWN["bids.accepted"].config
    blind = judged(with_topic("bids.accepted", TopicFacts(1, 1, ALL - {"READ"}, config)))
    assert "let us read bids.accepted" in blind["permissions.own"].says
    assert blind["permissions.own"].mend.startswith("grant READ on")
    mute = judged(with_topic("bids.accepted", TopicFacts(1, 1, frozenset({"DESCRIBE"}), config)))
    assert "let us read or write bids.accepted" in mute["permissions.own"].says
    assert mute["permissions.own"].mend.startswith("grant READ and WRITE on")
    letters = judged(with_topic("in.dlq", TopicFacts(1, 1, ALL - {"WRITE"}, {})))
    assert "let us write in.dlq" in letters["permissions.letters"].says


@pytest.mark.parametrize(
    ("group", "verdict"),
    [(None, Verdict.UNKNOWN), (frozenset(), Verdict.WARNING), ({"DESCRIBE"}, Verdict.WARNING)],
)
def test_a_job_without_its_group_runs_unseen(group, verdict) -> None:
    assert judged(replace(WELL, group=group))["permissions.group"].verdict is verdict


def test_a_transactional_id_that_is_not_given_is_a_warning_of_a_named_job() -> None:
    refused = replace(WELL, trial=replace(WELL.trial, fencing="bids.doctor: refused"))
    found = judged(refused)["permissions.fencing"]
    assert "bids.doctor: refused; the controller takes bids.controller" in found.says
    assert "permissions.fencing" not in judged(refused, replace(NEEDS, app=""))


def test_a_topic_that_takes_no_writes_and_one_that_dies_with_its_broker_are_told() -> None:
    stuck = judged(with_topic("out", TopicFacts(4, 1, ALL, {"min.insync.replicas": "2"})))
    assert stuck["topics.copies"].verdict is Verdict.BAD
    several = replace(WELL, brokers=(HERE, Reach("127.0.0.1:9093")))
    assert judged(several)["topics.copies"].verdict is Verdict.WARNING


def test_own_topics_that_would_lose_records_are_bad() -> None:
    wide = judged(with_topic("bids.accepted", TopicFacts(3, 1, ALL, OWN["bids.accepted"].config)))
    assert wide["topics.own"].verdict is Verdict.BAD
    config = {"cleanup.policy": "delete", "retention.ms": "604800000"}
    losing = judged(with_topic("bids.accepted", TopicFacts(1, 1, ALL, config)))["topics.kept"]
    assert losing.verdict is Verdict.BAD
    assert "bids.accepted has retention.ms=604800000, it needs -1" in losing.says


def test_topics_that_could_not_be_created_are_told_with_kafkas_reason() -> None:
    found = judged(replace(WELL, creatable={"in.dlq": "Topic authorization failed"}))
    assert found["permissions.create"].verdict is Verdict.BAD
    assert "in.dlq: Topic authorization failed" in found["permissions.create"].says


def test_a_trial_that_was_left_out_or_failed_leaves_the_clock_unknown() -> None:
    left_out = judged(replace(WELL, trial=None))
    assert left_out["broker.trial"].verdict is Verdict.UNKNOWN
    failed = judged(replace(WELL, trial=Trial("t", ("created",), "not written: refused")))
    assert failed["broker.trial"].verdict is Verdict.WARNING
    assert "delete t, which is left" in str(failed["broker.trial"].mend)
    assert failed["clock.broker"].verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("ahead_us", "says"), [(2_000_000, "2.000 s ahead of"), (-9_000_000, "9.000 s behind")]
)
def test_a_clock_that_is_off_by_more_than_the_lookahead_is_a_warning(ahead_us, says) -> None:
    off = replace(WELL, trial=replace(WELL.trial, ahead_us=ahead_us))
    found = judged(off)["clock.broker"]
    assert found.verdict is Verdict.WARNING
    assert says in found.says


def test_nothing_is_judged_that_was_not_named() -> None:
    found = judged(WELL, Needs())
    assert set(found) == {
        "broker.reachable", "broker.advertised", "broker.version", "broker.trial", "clock.broker",
    }  # fmt: skip


def test_a_finding_that_is_not_good_must_say_how_to_mend_it() -> None:
    with pytest.raises(ValueError, match="does not say how to mend"):
        Finding("disk.room", Verdict.BAD, "full")


def test_the_report_counts_and_the_text_has_a_line_each() -> None:
    findings = [
        Finding("a.b", Verdict.GOOD, "yes"),
        Finding("a.c", Verdict.WARNING, "so so", "do this"),
        Finding("a.d", Verdict.BAD, "no", "do that"),
    ]
    assert (report_of(findings).bad, report_of(findings).warnings) == (1, 1)
    assert text_of(findings).plain.splitlines() == [
        "good     a.b  yes",
        "warning  a.c  so so",
        "              to mend: do this",
        "bad      a.d  no",
        "              to mend: do that",
        "3 checks, 1 bad, 1 warnings",
    ]
    assert exit_status_of(findings) == 1
