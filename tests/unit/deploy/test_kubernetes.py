"""k8s/ without a cluster: what kustomize makes of it, against Kubernetes' schemas and our promises.

Cannot catch: what a cluster's own policies refuse, and what a scheduler cannot place.
"""

from __future__ import annotations

import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from service.broker.properties import KAFKA_VERSION
from service.config import load_config
from service.ids import Role
from service.process_options import slot_of
from service.sizes import bytes_of

ROOT = Path(__file__).parents[3]
OVERLAYS = ("dev", "production")
ROLES = ("controller", "gateway", "worker")
#: The oldest version that is to take them, and the newest that the schemas know.
VERSIONS = ("1.29", kubernetes_validate.latest_version())
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
CUSTOM = {"PodMonitor", "PrometheusRule"}
UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
#: Of a worker beside its state and rows that wait: interpreter, libraries, machine code, clients,
#: windows of a few peers.
WORKER_BASE = 640 << 20


@cache
def built(folder: str) -> tuple[dict, ...]:
    """The objects that kustomize makes of a folder of k8s/."""
    command = subprocess.run(
        [ROOT / ".ci" / "kustomize"], capture_output=True, text=True, check=True
    ).stdout.split()
    done = subprocess.run(
        [*command, str(ROOT / "k8s" / folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


@pytest.fixture(params=OVERLAYS)
def objects(request):
    """Of each overlay."""
    return built(f"overlays/{request.param}")


def of(objects, kind, name=None):
    """Those of a kind, or the one of that name."""
    found = [each for each in objects if each["kind"] == kind]
    if name is None:
        return found
    (one,) = [each for each in found if each["metadata"]["name"] == name]
    return one


def pod_of(each):
    return each["spec"]["template"]["spec"]


def container_of(each):
    (container,) = pod_of(each)["containers"]
    return container


def settings(objects):
    """What the job's ConfigMap says."""
    (found,) = [
        each for each in of(objects, "ConfigMap") if each["metadata"]["name"].startswith("job-")
    ]
    return found


def pods(objects):
    """Everything that has a template of pods."""
    return [each for each in objects if "template" in each.get("spec", {})]


def size(text):
    return int(text[:-2]) * UNITS[text[-2:]]


@pytest.mark.parametrize("folder", ["base", *(f"overlays/{name}" for name in OVERLAYS)])
@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_what_its_kind_says(folder, version):
    objects = [each for each in built(folder) if each["kind"] not in CUSTOM]
    assert len(objects) > 12
    for each in objects:
        kubernetes_validate.validate(each, version, strict=True)


def test_the_check_would_see_a_wrong_key_and_a_wrong_type():
    for wrong in ({"replica": 1}, {"replicas": "one"}):
        each = of(built("base"), "StatefulSet", "worker")
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(
                {**each, "spec": {**each["spec"], **wrong}}, VERSIONS[0], strict=True
            )


@pytest.mark.parametrize("role", ROLES)
def test_every_role_is_a_set_with_names_that_are_known_before_it_is_ready(objects, role):
    found = of(objects, "StatefulSet", role)
    service = of(objects, "Service", found["spec"]["serviceName"])
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True
    labels = found["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert found["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert found["spec"]["podManagementPolicy"] == "Parallel"
    assert found["spec"]["updateStrategy"] == {"type": "OnDelete"}
    told = {each["name"]: each for each in container_of(found)["env"]}
    assert told["POD_NAME"]["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
    advertised = told["MEGAPHONE_LINKS__ADVERTISE"]["value"]
    assert advertised == f"$(POD_NAME).{service['metadata']['name']}"
    names = [each["name"] for each in container_of(found)["env"]]
    assert names.index("POD_NAME") < names.index("MEGAPHONE_LINKS__ADVERTISE")


def test_slots_are_ordinals_and_as_many_as_the_controller_waits_for(objects):
    told = settings(objects)["data"]
    for role, variable in (("worker", "WORKERS"), ("gateway", "GATEWAYS")):
        found = of(objects, "StatefulSet", role)
        assert str(found["spec"]["replicas"]) == told[variable]
        assert "--slot=ordinal" in container_of(found)["args"]
        last = found["spec"]["replicas"] - 1
        assert str(slot_of(Role(role), "ordinal", f"{role}-{last}")) == f"{role}-{last}"
        assert (
            f"--{role}s=$({variable})"
            in container_of(of(objects, "StatefulSet", "controller"))["args"]
        )
    assert of(objects, "StatefulSet", "controller")["spec"]["replicas"] == 1


def test_every_variable_of_a_command_line_is_set(objects):
    for each in pods(objects):
        container = container_of(each)
        used = set(re.findall(r"\$\((\w+)\)", " ".join(container.get("args", []))))
        if not used:
            continue
        (source,) = container["envFrom"]
        assert source["configMapRef"]["name"] == settings(objects)["metadata"]["name"]
        assert used <= set(settings(objects)["data"])
        assert container["args"][1] in ROLES


def test_knobs_of_the_config_map_are_knobs(objects, monkeypatch):
    told = settings(objects)["data"]
    for name, value in told.items():
        if "__" in name:
            monkeypatch.setenv(name, value)
    config = load_config()
    assert config.links.address == "tcp://0.0.0.0:7070"
    assert config.http.host == "0.0.0.0"
    assert config.http.port == 8080
    # Somebody vouches for the network, or keys make it unnecessary; never both, never neither.
    keys = bool(config.links.key_file and config.links.allowed_file)
    assert keys is not config.links.trusted_network


@pytest.mark.parametrize("role", ROLES)
def test_probes_ask_the_process_and_never_kafka(objects, role):
    container = container_of(of(objects, "StatefulSet", role))
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert ports == {"links": 7070, "http": 8080}
    asked = {
        kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")
    }
    assert asked == {
        "startup": {"path": "/healthz", "port": "http"},
        "readiness": {"path": "/readyz", "port": "http"},
        "liveness": {"path": "/healthz", "port": "http"},
    }
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 300
    liveness = container["livenessProbe"]
    # A loop is called hanging after the peer timeout; a probe is not the first to lose patience.
    hangs = liveness["periodSeconds"] * liveness["failureThreshold"]
    assert hangs >= 2 * load_config().limits.peer_timeout_s


@pytest.mark.parametrize("role", ROLES)
def test_a_plain_stop_is_given_the_time_it_may_take(objects, role):
    pod = pod_of(of(objects, "StatefulSet", role))
    assert pod["terminationGracePeriodSeconds"] >= load_config().limits.stop_timeout_s + 30


def test_pods_are_restricted(objects):
    """What the policy `restricted` demands, and a file system that cannot be written."""
    labels = of(objects, "Namespace")[0]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for each in pods(objects):
        pod, container = pod_of(each), container_of(each)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] >= 1000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert pod["automountServiceAccountToken"] is False
        # Kubernetes would set KAFKA_PORT and the like, which mean something to clients and brokers.
        assert pod["enableServiceLinks"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert {kind for volume in pod.get("volumes", []) for kind in volume} <= {
            *("name", "emptyDir", "secret")
        }
        if container["image"].rpartition("/")[2].startswith("megaphone-kafka"):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert "/tmp" in mounts


def test_images_are_pinned(objects):
    for each in pods(objects):
        image, _, tag = container_of(each)["image"].rpartition(":")
        expected = KAFKA_VERSION if image == "apache/kafka" else VERSION
        assert tag == expected


def test_memory_holds_the_state_budget_and_what_a_worker_takes_beside_it(objects):
    container = container_of(of(objects, "StatefulSet", "worker"))
    budget = bytes_of(settings(objects)["data"]["STATE_MEMORY"], "STATE_MEMORY")
    limit = size(container["resources"]["limits"]["memory"])
    assert limit >= budget + load_config().worker.held_budget_bytes + WORKER_BASE
    assert "--state-memory=$(STATE_MEMORY)" in container["args"]


def test_topics_of_the_load_are_those_of_the_composition():
    texts = [ROOT / "docker-compose.yml", ROOT / "k8s" / "overlays" / "dev" / "load.yaml"]
    made = [set(re.findall(r"-(events|auction-bids):([\w:]+)", each.read_text())) for each in texts]
    assert made == [{("events", "delete:uncompressed"), ("auction-bids", "compact")}] * 2
    parts = (
        r"""set -- \$+\(echo "\$+topic" \| tr : " "\)""",
        r"""--topic "\$+1" """,
        r"""--config cleanup.policy="\$+2" --config compression.type="\$+\{3:-producer\}\"""",
    )
    for each in texts:
        assert all(re.search(part, each.read_text()) for part in parts), each


def test_memory_is_guaranteed_and_processor_time_is_not_capped(objects):
    for each in pods(objects):
        resources = container_of(each)["resources"]
        assert resources["requests"]["memory"] == resources["limits"]["memory"]
        assert resources["requests"]["cpu"]
        assert "cpu" not in resources["limits"]


def test_state_is_kept_on_claims_of_the_slots(objects):
    worker = of(objects, "StatefulSet", "worker")
    (claim,) = worker["spec"]["volumeClaimTemplates"]
    mounts = {each["name"]: each["mountPath"] for each in container_of(worker)["volumeMounts"]}
    folder = mounts[claim["metadata"]["name"]]
    assert f"--state-dir={folder}" in container_of(worker)["args"]
    assert worker["spec"]["persistentVolumeClaimRetentionPolicy"] == {
        "whenDeleted": "Retain",
        "whenScaled": "Retain",
    }
    assert pod_of(worker)["securityContext"]["fsGroup"] == 10001


@pytest.mark.parametrize("role", ["gateway", "worker"])
def test_pods_of_a_role_are_spread_and_leave_one_by_one(objects, role):
    found = of(objects, "StatefulSet", role)
    labels = found["spec"]["template"]["metadata"]["labels"]
    spread = pod_of(found)["topologySpreadConstraints"]
    assert {each["topologyKey"] for each in spread} == {
        "topology.kubernetes.io/zone",
        "kubernetes.io/hostname",
    }
    assert all(each["labelSelector"]["matchLabels"].items() <= labels.items() for each in spread)
    budget = of(objects, "PodDisruptionBudget", role)["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"]["matchLabels"].items() <= labels.items()


def allowed(objects, direction, labels):
    """(peers, ports) of all policies that select pods of these labels; None: no policy does."""
    key, peers = ("ingress", "from") if direction == "Ingress" else ("egress", "to")
    policies = [
        each["spec"]
        for each in of(objects, "NetworkPolicy")
        if direction in each["spec"]["policyTypes"]
        and each["spec"]["podSelector"].get("matchLabels", {}).items() <= labels.items()
    ]
    if not policies:
        return None
    return [
        (rule.get(peers), {port["port"] for port in rule["ports"]})
        for policy in policies
        for rule in policy.get(key, [])
    ]


def test_nothing_is_reached_but_what_is_named(objects):
    default = of(objects, "NetworkPolicy", "default-deny")["spec"]
    assert default == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    ours = {"app.kubernetes.io/name": "megaphone"}
    kafka = int(settings(objects)["data"]["KAFKA_BOOTSTRAP_SERVERS"].rpartition(":")[2])
    incoming, outgoing = (allowed(objects, way, ours) for way in ("Ingress", "Egress"))
    assert sorted(min(ports) for _, ports in incoming) == [7070, 8080]
    assert sorted(min(ports) for _, ports in outgoing) == [53, 7070, kafka]
    assert all(peers for peers, _ in (*incoming, *outgoing)), "everybody is nobody in particular"
    for each in pods(objects):
        labels = each["spec"]["template"]["metadata"]["labels"]
        assert allowed(objects, "Egress", labels) is not None
    (links,) = [peers for peers, ports in incoming if ports == {7070}]
    assert links == [{"podSelector": {"matchLabels": ours}}]


def test_prometheus_is_told_of_every_process():
    objects = built("overlays/production")
    monitor = of(objects, "PodMonitor", "megaphone")["spec"]
    (endpoint,) = monitor["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("http", "/metrics")
    for role in ROLES:
        found = of(objects, "StatefulSet", role)
        labels = found["spec"]["template"]["metadata"]["labels"]
        assert monitor["selector"]["matchLabels"].items() <= labels.items()
        assert endpoint["port"] in {each["name"] for each in container_of(found)["ports"]}


def test_monitoring_has_all_alerts_and_dashboards():
    objects = built("overlays/production")
    alerts = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())
    assert of(objects, "PrometheusRule", "megaphone")["spec"] == alerts
    dashboards = of(objects, "ConfigMap", "dashboards")
    assert dashboards["metadata"]["labels"]["grafana_dashboard"] == "1"
    folder = ROOT / "deploy" / "grafana" / "dashboards"
    assert dashboards["data"] == {path.name: path.read_text() for path in folder.glob("*.json")}


def test_secrets_are_files_and_none_is_in_the_repository():
    objects = built("overlays/production")
    secrets = {each["metadata"]["name"]: set(each["data"]) for each in of(objects, "Secret")}
    assert {name.rpartition("-")[0] for name in secrets} == {"kafka", "links"}
    told = settings(objects)["data"]
    named = {
        value
        for name, value in told.items()
        if name.endswith(("_FILE", "_LOCATION")) and value.startswith("/")
    }
    for role in ROLES:
        found = of(objects, "StatefulSet", role)
        mounts = {each["name"]: each for each in container_of(found)["volumeMounts"]}
        files = set()
        for volume in pod_of(found)["volumes"]:
            if "secret" in volume:
                assert volume["secret"]["defaultMode"] == 0o440
                assert mounts[volume["name"]]["readOnly"] is True
                folder = mounts[volume["name"]]["mountPath"]
                files |= {f"{folder}/{name}" for name in secrets[volume["secret"]["secretName"]]}
        assert named == files
        assert pod_of(found)["securityContext"]["fsGroup"] == 10001
    credentials = ROOT / "k8s" / "overlays" / "production" / "credentials"
    assert {path.read_text() for path in credentials.iterdir()} == {"replace-me\n"}
    assert of(built("overlays/dev"), "Secret") == []


def test_kafka_of_the_overlay_for_development_is_told_everything():
    objects = built("overlays/dev")
    told = {
        each["name"]: each["value"]
        for each in container_of(of(objects, "StatefulSet", "kafka"))["env"]
    }
    composed = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    elsewhere = set(composed["services"]["kafka"]["environment"])
    assert elsewhere - set(told) <= {
        "KAFKA_NUM_PARTITIONS",
        "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS",
        "KAFKA_LOG_RETENTION_HOURS",
    }
