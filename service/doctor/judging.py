"""What Kafka's answers mean for a job, and how to mend what is wrong.

Flow: ClusterFacts, what the job needs -> [judge_cluster] -> findings. Pure.

Invariants
  JD1  What Kafka does not tell is unknown, never good.
  JD2  Nothing is judged that the job does not need: a flow that was not named has no topics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from service.control_topics import AppTopics
from service.doctor.cluster_facts import ClusterFacts, Reach, TopicFacts, Trial
from service.doctor.finding import Finding, bad, good, unknown, warning

#: Oldest Kafka whose transactions fence by epoch as the controller's log needs it (KIP-360).
OLDEST = "2.5"
#: The newest that holds is what the broker is at least: (release, request, its least newest
#: version, its least oldest version).
_RELEASES = (
    ("4.1", "Fetch", 18, 0),
    ("4.0", "Fetch", 17, 4),
    ("3.7", "Fetch", 16, 0),
    ("3.1", "Fetch", 13, 0),
    (OLDEST, "InitProducerId", 3, 0),
)


@dataclass(frozen=True, slots=True)
class Needs:
    """What a job asks of a cluster."""

    #: Name of the job; empty: not said.
    app: str = ""
    #: Topics the flow reads and writes.
    inputs: Sequence[str] = ()
    outputs: Sequence[str] = ()
    gateways: int = 1
    #: A clock further away than this is worth a warning, µs.
    clock_us_max: int = 1_000_000

    @property
    def own(self) -> Mapping[str, Mapping[str, str]]:
        """Topics that the job makes, with their configuration."""
        return AppTopics(self.app).layout() if self.app else {}

    @property
    def letters(self) -> list[str]:
        """Dead-letter topics of the inputs."""
        return [f"{topic}.dlq" for topic in self.inputs]


def judge_cluster(facts: ClusterFacts, needs: Needs) -> list[Finding]:
    """Every finding about the cluster, in the order in which they are to be mended."""
    findings = [_reachable(facts)]
    if facts.brokers is None:
        return findings
    findings += [_advertised(facts.brokers), _version(facts.requests)]
    if needs.inputs or needs.outputs:
        findings += _ends(facts, needs)
    findings += _made(facts, needs)
    findings += _trial(facts.trial, needs)
    return findings


def _reachable(facts: ClusterFacts) -> Finding:
    name = "broker.reachable"
    where = ", ".join(reach.address for reach in facts.bootstrap)
    if facts.brokers is not None:
        count = len(facts.brokers)
        return good(name, f"{count} broker{'s' * (count != 1)} of {facts.cluster_id} by {where}")
    connected = [reach.address for reach in facts.bootstrap if reach.problem is None]
    if connected:
        return bad(
            name,
            f"{', '.join(connected)} takes connections but does not speak Kafka with us: "
            f"{facts.problem}",
            "name the listener meant for clients; if it wants TLS or SASL, give the client's "
            "settings; if it is still starting, wait",
        )
    problems = "; ".join(f"{reach.address}: {reach.problem}" for reach in facts.bootstrap)
    return bad(
        name,
        f"no broker listens: {problems or 'no address was given'}",
        "start the broker (`megaphone broker` runs one here), or name it by --bootstrap-servers or "
        "KAFKA_BOOTSTRAP_SERVERS",
    )


def _advertised(brokers: Sequence[Reach]) -> Finding:
    name = "broker.advertised"
    lost = [f"{reach.address}: {reach.problem}" for reach in brokers if reach.problem is not None]
    if lost:
        return bad(
            name,
            f"brokers tell clients to go where nothing is reached from here: {'; '.join(lost)}",
            "set advertised.listeners of these brokers to addresses that this machine reaches",
        )
    return good(name, f"reached at {', '.join(reach.address for reach in brokers)}")


def _version(requests: Mapping[str, tuple[int, int]]) -> Finding:
    name = "broker.version"
    if "Fetch" not in requests:
        return unknown(name, "the client did not learn which requests the broker takes")
    for release, request, newest, oldest in _RELEASES:
        least, most = requests.get(request, (0, -1))
        if most >= newest and least >= oldest:
            return good(name, f"Kafka {release} or newer, by the requests it takes")
    return bad(
        name,
        f"older than Kafka {OLDEST}: a lost controller could not be fenced",
        f"upgrade the brokers to {OLDEST} or newer",
    )


def _ends(facts: ClusterFacts, needs: Needs) -> Iterator[Finding]:
    """Input and output topics: there, wide enough, and ours to read and write."""
    wanted = dict.fromkeys((*needs.inputs, *needs.outputs))
    hidden = [topic for topic in wanted if topic in facts.hidden]
    absent = [topic for topic in wanted if topic not in facts.topics and topic not in hidden]
    if hidden:
        yield bad(
            "permissions.describe",
            f"Kafka does not show us {', '.join(hidden)}, if they are there",
            "grant READ on what the flow reads and WRITE on what it writes to the job's user; each "
            "brings DESCRIBE with it",
        )
    if absent:
        yield bad(
            "topics.exist",
            f"absent: {', '.join(absent)}",
            "`megaphone create-topics TARGET` makes them, with as many partitions as you want "
            "gateways at most; a job makes only its own topics",
        )
    elif not hidden:
        yield good("topics.exist", f"{', '.join(wanted)}")
    narrow = [
        f"{topic} has {facts.topics[topic].partitions}"
        for topic in needs.inputs
        if topic in facts.topics and facts.topics[topic].partitions < needs.gateways
    ]
    if narrow:
        yield warning(
            "topics.partitions",
            f"{needs.gateways} gateways, but {', '.join(narrow)}: some will read nothing",
            "start fewer gateways, or give the topics more partitions",
        )
    elif needs.inputs:
        yield good("topics.partitions", f"enough for {needs.gateways} gateways")
    yield from _may(facts.topics, ["READ"], needs.inputs, "permissions.read")
    yield from _may(facts.topics, ["WRITE"], needs.outputs, "permissions.write")
    yield from _may(facts.topics, ["WRITE"], needs.letters, "permissions.letters")
    yield from _durable(facts, [topic for topic in wanted if topic in facts.topics])


def _may(
    topics: Mapping[str, TopicFacts], operations: Sequence[str], names: Sequence[str], check: str
) -> Iterator[Finding]:
    there = {name: topics[name].operations for name in names if name in topics}
    if not there:
        return
    refused = {
        name: [operation for operation in operations if operation not in may]
        for name, may in there.items()
        if may is not None and not may.issuperset(operations)
    }
    untold = [name for name, may in there.items() if may is None]
    if refused:
        each = (f"{' or '.join(lacking).lower()} {name}" for name, lacking in refused.items())
        lacking = [name for name in operations if any(name in every for every in refused.values())]
        yield bad(
            check,
            f"Kafka does not let us {', '.join(each)}",
            f"grant {' and '.join(lacking)} on these topics to the job's user",
        )
    elif untold:
        yield unknown(check, f"Kafka does not say of {', '.join(untold)}")
    else:
        yield good(check, f"{' and '.join(operations).lower()} {', '.join(there)}")


def _durable(facts: ClusterFacts, names: Sequence[str]) -> Iterator[Finding]:
    """Copies: enough for the writes to be taken at all, and to outlive a broker."""
    check = "topics.copies"
    stuck, single = [], []
    for name in names:
        topic = facts.topics[name]
        needed = int((topic.config or {}).get("min.insync.replicas", "1"))
        if needed > topic.replicas:
            stuck.append(f"{name} has {topic.replicas} and min.insync.replicas is {needed}")
        if topic.replicas == 1 and len(facts.brokers or ()) > 1:
            single.append(name)
    if stuck:
        yield bad(
            check,
            f"writes will be refused: {'; '.join(stuck)}",
            "lower min.insync.replicas of these topics, or add replicas",
        )
    elif single:
        yield warning(
            check,
            f"one copy only: {', '.join(single)}; they are gone with their broker",
            "add replicas, or accept it for what can be made again",
        )


def _made(facts: ClusterFacts, needs: Needs) -> Iterator[Finding]:
    """Topics that the job makes by itself: there and right, or free to be made."""
    if not needs.app:
        return
    own = needs.own
    wrong = [
        f"{name} has {facts.topics[name].partitions} partitions"
        for name in own
        if name in facts.topics and facts.topics[name].partitions != 1
    ]
    if wrong:
        yield bad(
            "topics.own",
            f"must have one: {', '.join(wrong)}",
            "choose another --app, or delete these topics if no job needs them",
        )
    losing = [
        f"{name} has {key}={told.get(key)}, it needs {value}"
        for name, config in own.items()
        if name in facts.topics and (told := facts.topics[name].config) is not None
        for key, value in config.items()
        if told.get(key) != value
    ]
    if losing:
        yield bad(
            "topics.kept",
            f"Kafka would delete what the job goes on from: {'; '.join(losing)}",
            "set these back with kafka-configs --alter",
        )
    refused = [f"{name}: {why}" for name, why in facts.creatable.items() if why is not None]
    if refused:
        yield bad(
            "permissions.create",
            f"Kafka would not create {'; '.join(refused)}",
            f"grant CREATE on topics with the prefix {needs.app}. and on <input>.dlq, or create "
            "them yourself as docs/OPERATING.md lists them",
        )
    elif facts.creatable:
        yield good("permissions.create", f"may create {', '.join(facts.creatable)}")
    there = [name for name in own if name in facts.topics]
    if there and not wrong and not losing:
        yield good("topics.own", f"{len(there)} of {len(own)} are there and as they must be")
    yield from _may(facts.topics, ["READ", "WRITE"], there, "permissions.own")
    yield _group(facts.group, needs.app)


def _group(may: frozenset[str] | None, app: str) -> Finding:
    """The consumer group, in which positions are written for lag tools; the job keeps its own."""
    check = "permissions.group"
    if may is None:
        return unknown(check, f"Kafka does not say of the group {app}")
    if "READ" not in may:
        return warning(
            check,
            f"Kafka does not let us commit offsets to the group {app}: the job runs, but tools "
            "that watch consumer lag see nothing of it",
            f"grant READ on the group {app} to the job's user",
        )
    return good(check, f"commit offsets to the group {app}")


def _trial(trial: Trial | None, needs: Needs) -> Iterator[Finding]:
    """What one record through a topic of its own showed."""
    if trial is None:
        yield unknown("broker.trial", "not tried, as asked")
        yield unknown("clock.broker", "only a record brings the broker's time")
        return
    if trial.fencing is not None and needs.app:
        yield warning(
            "permissions.fencing",
            f"Kafka does not give us the transactional id {trial.fencing}; the controller takes "
            f"{needs.app}.controller",
            f"grant WRITE on transactional ids with the prefix {needs.app}. to the job's user",
        )
    if trial.problem is not None:
        left = "created" in trial.done and "deleted" not in trial.done
        rest = f"; delete {trial.topic}, which is left" if left else ""
        yield warning(
            "broker.trial",
            f"{trial.topic}: {', '.join(trial.done) or 'nothing'} done, then {trial.problem}",
            f"see permissions; --no-trial leaves this out{rest}",
        )
    else:
        took_ms = (trial.took_us or 0) / 1e3
        done = ", ".join(trial.done)
        yield good("broker.trial", f"{done}; acknowledged within {took_ms:.1f} ms")
    if trial.ahead_us is None:
        yield unknown("clock.broker", "no record came back with the broker's time")
        return
    off = f"{abs(trial.ahead_us) / 1e6:.3f} s {'ahead of' if trial.ahead_us > 0 else 'behind'} ours"
    if abs(trial.ahead_us) > needs.clock_us_max:
        yield warning(
            "clock.broker",
            f"the broker's clock is {off}",
            "let NTP keep both clocks; times in requests (`at`), retention and latencies are off "
            "by as much",
        )
    else:
        yield good("clock.broker", f"within {needs.clock_us_max / 1e6:g} s of the broker's")
