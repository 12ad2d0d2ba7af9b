"""PodMonitor and PrometheusRule against the fields of Prometheus' operator, strictly.

Cannot catch: what PromQL means (promtool checks the same rules in tests/integration).
"""

from __future__ import annotations

import copy

import jsonschema
import pytest

from tests.unit.deploy.operator_schemas import KINDS, validate
from tests.unit.deploy.test_kubernetes import CUSTOM, OVERLAYS, built, of


def monitor():
    return copy.deepcopy(of(built("overlays/production"), "PodMonitor", "megaphone"))


def rules():
    return copy.deepcopy(of(built("overlays/production"), "PrometheusRule", "megaphone"))


def first_alert(found):
    return next(
        rule for group in found["spec"]["groups"] for rule in group["rules"] if "alert" in rule
    )


def test_every_object_of_the_operator_is_what_its_kind_says():
    found = [each for name in OVERLAYS for each in built(f"overlays/{name}")]
    found = [each for each in found if each["apiVersion"].startswith("monitoring.coreos.com/")]
    assert {each["kind"] for each in found} == CUSTOM == KINDS
    for each in found:
        validate(each)


def test_no_two_groups_have_one_name():
    """They are a map in the cluster, by name."""
    names = [group["name"] for group in rules()["spec"]["groups"]]
    assert len(names) > 2
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda each: each["spec"].update(selectors={}),
        lambda each: each["spec"].pop("selector"),
        lambda each: each["spec"]["podMetricsEndpoints"].clear(),
        lambda each: each["spec"]["podMetricsEndpoints"][0].update(port=8080),
        lambda each: each["spec"]["podMetricsEndpoints"][0].update(targetport="http"),
        lambda each: each["spec"]["podMetricsEndpoints"][0].update(interval=5),
        lambda each: each["spec"]["podMetricsEndpoints"][0].update(scrapeTimeout="4 s"),
        lambda each: each["spec"]["selector"].update(app="megaphone"),
        lambda each: each["metadata"].update(label={}),
        lambda each: each.update(apiVersion="monitoring.coreos.com/v2"),
    ],
)
def test_a_wrong_monitor_would_be_seen(wrong):
    found = monitor()
    validate(found)
    wrong(found)
    with pytest.raises(jsonschema.ValidationError):
        validate(found)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda each: each["spec"]["groups"][0].update(every="5s"),
        lambda each: each["spec"]["groups"][0].update(rules=[]),
        lambda each: each["spec"]["groups"][0].pop("name"),
        lambda each: first_alert(each).update(severity="page"),
        lambda each: first_alert(each).update(record="both"),
        lambda each: first_alert(each).pop("expr"),
        lambda each: first_alert(each).update({"for": "2 min"}),
        lambda each: first_alert(each)["labels"].update(severity=1),
        lambda each: each["spec"]["groups"][0]["rules"][0].update({"for": "1m"}),
        lambda each: each["spec"].update(rules=[]),
    ],
)
def test_a_wrong_rule_would_be_seen(wrong):
    found = rules()
    validate(found)
    assert "record" in found["spec"]["groups"][0]["rules"][0]
    wrong(found)
    with pytest.raises(jsonschema.ValidationError):
        validate(found)
