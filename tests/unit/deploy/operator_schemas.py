"""What Prometheus' operator takes as a PodMonitor and a PrometheusRule, for a check without it.

Flow: an object of k8s/ -> [validate] -> nothing, or the place that is wrong. Pure.

A cluster drops fields that it does not know, silently; here they are refused. Written from the
fields that the operator documents for `monitoring.coreos.com/v1` (0.82 and 0.91 agree on these): of
a PodMonitor those for plain HTTP without credentials, of a PrometheusRule all that Prometheus
itself reads. A field that is missing here is added when a manifest begins to use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jsonschema import Draft202012Validator

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string", "minLength": 1}
_FLAG: Schema = {"type": "boolean"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_LABEL_VALUE: Schema = {"type": "string", "maxLength": 63, "pattern": r"^([A-Za-z0-9][\w.-]*)?$"}
#: Prometheus' durations: units from large to small, each once.
_DURATION: Schema = {
    "type": "string",
    "minLength": 1,
    "pattern": r"^(0|(\d+y)?(\d+w)?(\d+d)?(\d+h)?(\d+m)?(\d+s)?(\d+ms)?)$",
}


def _object(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    """An object with these fields and no others."""
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [*required],
        "properties": properties,
    }


def _list(items: Schema) -> Schema:
    return {"type": "array", "minItems": 1, "items": items}


def _texts(names: str, values: Schema) -> Schema:
    """A mapping of names to texts."""
    return {
        "type": "object",
        "propertyNames": {"pattern": names},
        "additionalProperties": values,
    }


_LABELS = _texts(r"^([a-z0-9.-]+/)?[A-Za-z0-9][\w.-]*$", _LABEL_VALUE)
_SERIES_LABELS = _texts(r"^[a-zA-Z_]\w*$", {"type": "string"})
_METADATA = _object(
    ("name",),
    name={"type": "string", "pattern": r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", "maxLength": 253},
    namespace=_TEXT,
    labels=_LABELS,
    annotations={"type": "object", "additionalProperties": {"type": "string"}},
)
_SELECTOR = _object(
    matchLabels=_LABELS,
    matchExpressions=_list(
        _object(
            ("key", "operator"),
            key=_TEXT,
            operator={"enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
            values=_list(_LABEL_VALUE),
        )
    ),
)
_RELABELING = _object(
    sourceLabels=_list(_TEXT),
    separator={"type": "string"},
    targetLabel=_TEXT,
    regex={"type": "string"},
    modulus=_COUNT,
    replacement={"type": "string"},
    action=_TEXT,
)
_ENDPOINT = _object(
    port=_TEXT,
    portNumber={"type": "integer", "minimum": 1, "maximum": 65_535},
    path={"type": "string", "pattern": "^/"},
    scheme={"enum": ["http", "https"]},
    params={"type": "object", "additionalProperties": _list({"type": "string"})},
    interval=_DURATION,
    scrapeTimeout=_DURATION,
    honorLabels=_FLAG,
    honorTimestamps=_FLAG,
    trackTimestampsStaleness=_FLAG,
    followRedirects=_FLAG,
    filterRunning=_FLAG,
    metricRelabelings=_list(_RELABELING),
    relabelings=_list(_RELABELING),
)
_MONITOR = _object(
    ("selector", "podMetricsEndpoints"),
    selector=_SELECTOR,
    podMetricsEndpoints=_list(_ENDPOINT),
    namespaceSelector=_object(any=_FLAG, matchNames=_list(_TEXT)),
    jobLabel={"type": "string"},
    podTargetLabels=_list(_TEXT),
    sampleLimit=_COUNT,
    targetLimit=_COUNT,
    labelLimit=_COUNT,
    labelNameLengthLimit=_COUNT,
    labelValueLengthLimit=_COUNT,
    keepDroppedTargets=_COUNT,
    attachMetadata=_object(node=_FLAG),
)
_EXPRESSION: Schema = {"type": ["string", "integer"], "minLength": 1}
_ALERT = _object(
    ("alert", "expr"),
    alert={"type": "string", "pattern": r"^[a-zA-Z_]\w*$"},
    expr=_EXPRESSION,
    **{"for": _DURATION},
    keep_firing_for=_DURATION,
    labels=_SERIES_LABELS,
    annotations=_SERIES_LABELS,
)
_RECORDING = _object(
    ("record", "expr"),
    record={"type": "string", "pattern": r"^[a-zA-Z_:][\w:]*$"},
    expr=_EXPRESSION,
    labels=_SERIES_LABELS,
)
_GROUP = _object(
    ("name", "rules"),
    name=_TEXT,
    interval=_DURATION,
    query_offset=_DURATION,
    limit=_COUNT,
    labels=_SERIES_LABELS,
    rules=_list({"oneOf": [_ALERT, _RECORDING]}),
)
_RULE = _object(("groups",), groups=_list(_GROUP))


def _kind(name: str, spec: Schema) -> Draft202012Validator:
    schema = _object(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": "monitoring.coreos.com/v1"},
        kind={"const": name},
        metadata=_METADATA,
        spec=spec,
    )
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


_VALIDATORS = {
    "PodMonitor": _kind("PodMonitor", _MONITOR),
    "PrometheusRule": _kind("PrometheusRule", _RULE),
}
#: Kinds that are known here.
KINDS = frozenset(_VALIDATORS)


def validate(manifest: Mapping[str, Any]) -> None:
    """Refuse what the operator would, and every field that it would drop.

    Raises:
        KeyError: the object is of another kind.
        jsonschema.ValidationError: something is missing, too much or of another form.
    """
    _VALIDATORS[manifest["kind"]].validate(manifest)
