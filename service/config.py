"""The one frozen tree of knobs.

Flow: default.toml < a file < environment (MEGAPHONE_SECTION__KNOB) < command line -> [Config];
sub-trees, not the tree, go to constructors.

Invariants
  N1  Every knob stands in default.toml with its unit and reason; an unknown one is an error.
  N2  Read once, checked once: relations between knobs are checked here.
  N3  A secret is a SecretStr, or a property that `kafka_access` calls one: neither `knobs_of` nor
      an error shows its value.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator

from service import kafka_access
from service.config_layers import Layer, Origin, Said, of_environment, of_file, of_settings
from service.errors import UsageError

#: Variable that names the file of knobs where the command line does not.
FILE_VARIABLE = "MEGAPHONE_CONFIG"
#: With less than 16 MiB a worker would do little else than read and write single rows.
STATE_MEMORY_LEAST = 16 << 20
_DEFAULTS = Path(__file__).with_name("default.toml")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GatewayConfig(_Section):
    """Reading and ticking."""

    tick_ms: float = Field(gt=0)
    busy_tick_ms: float = Field(gt=0)
    idle_tick_ms: float = Field(gt=0)
    poll_records: int = Field(gt=0, le=1_000_000)
    prefetch_kb: int = Field(ge=1024)


class WorkerConfig(_Section):
    """Bounds of queues, and output."""

    data_window_bytes: int = Field(ge=1 << 16)
    state_window_bytes: int = Field(ge=1 << 21)
    local_queue_bytes: int = Field(ge=1 << 16)
    held_budget_bytes: int = Field(ge=1 << 20)
    state_memory_bytes: int = Field(ge=0)
    linger_ms: float = Field(ge=0)


class ControlConfig(_Section):
    """Promises and heartbeats."""

    lookahead_ms: float = Field(gt=0)
    plan_lookahead_ms: float = Field(gt=0)
    promise_every_ms: float = Field(gt=0)
    heartbeat_ms: float = Field(gt=0)


class LimitsConfig(_Section):
    """When waiting ends."""

    broker_timeout_s: float = Field(gt=0)
    start_timeout_s: float = Field(gt=0)
    peer_timeout_s: float = Field(gt=0)
    stop_timeout_s: float = Field(gt=0)
    record_bytes_max: int = Field(gt=0)
    ready_lag_s: float = Field(gt=0)


class KafkaConfig(_Section):
    """How clients reach the brokers."""

    properties: dict[str, str]


class LinksConfig(_Section):
    """How processes of a job talk to one another."""

    address: str = Field(min_length=1)
    advertise: str
    trusted_network: bool
    key_file: str
    allowed_file: str


class HttpConfig(_Section):
    """Where each process answers."""

    host: str
    port: int = Field(ge=0, le=65535)


class Config(_Section):
    """All knobs; see default.toml."""

    gateway: GatewayConfig
    worker: WorkerConfig
    control: ControlConfig
    limits: LimitsConfig
    kafka: KafkaConfig
    links: LinksConfig
    http: HttpConfig

    @model_validator(mode="after")
    def _relations(self) -> Self:
        control = self.control
        if control.plan_lookahead_ms > control.lookahead_ms:
            raise ValueError("control.plan_lookahead_ms must not exceed control.lookahead_ms")
        # A promise must be read before the one before it runs out, or gateways stop at the horizon.
        if control.promise_every_ms * 2 > control.plan_lookahead_ms:
            raise ValueError("control.promise_every_ms must be at most half of plan_lookahead_ms")
        if 0 < self.worker.state_memory_bytes < STATE_MEMORY_LEAST:
            raise ValueError(f"worker.state_memory_bytes must be 0 or {STATE_MEMORY_LEAST} or more")
        for name in ("busy_tick_ms", "idle_tick_ms"):
            if getattr(self.gateway, name) < self.gateway.tick_ms:
                raise ValueError(f"gateway.{name} must not be below gateway.tick_ms")
        return self


@dataclass(frozen=True, slots=True)
class Knob:
    """One knob as it is in force, and who said so."""

    name: str
    #: As it was read; a secret's is masked (N3).
    value: object
    default: object
    origin: Origin
    #: The file, variable or option that says it.
    place: str
    secret: bool


def load_config(
    file: Path | None = None,
    settings: Sequence[str] = (),
    options: Mapping[str, object] | None = None,
) -> Config:
    """Read and check all knobs.

    Args:
        file: TOML of some knobs; without it the one that MEGAPHONE_CONFIG names, if any.
        settings: `section.knob=value`, as `--set` takes them.
        options: knobs that have an option of their own, by name; None as a value says nothing.

    Raises:
        UsageError: a knob is unknown, malformed, or contradicts another; the text names it and
            where it was said.

    Affects: the Kafka clients that this process makes from now on (`service.kafka_access`).
    """
    config = _checked(_said(file, settings, options or {}))
    kafka_access.use(config.kafka.properties)
    return config


def knobs_of(file: Path | None = None, settings: Sequence[str] = ()) -> list[Knob]:
    """Every knob in force, in the order of default.toml; raises as `load_config` does.

    Of Kafka's properties only the names are looked at: no file that holds a secret is opened.
    """
    said = _said(file, settings, {})
    config = _checked(said)
    kafka_access.refuse_unknown(config.kafka.properties, os.environ)
    defaults = of_file(_DEFAULTS, knob_names(), Origin.DEFAULT)
    found = []
    for name in knob_names():
        value = _value(config, name)
        shown = str(value) if isinstance(value, SecretStr) else _shown(value)
        origin = said[name]
        found.append(
            Knob(
                name,
                shown,
                defaults[name].value,
                origin.origin,
                origin.place if origin.origin is not Origin.DEFAULT else _DEFAULTS.name,
                shown != value,
            )
        )
    return found


def knob_names() -> list[str]:
    """`section.knob` of every knob, in order."""
    return [
        f"{section}.{name}"
        for section, field in Config.model_fields.items()
        for name in getattr(field.annotation, "model_fields", {})
    ]


def _said(file: Path | None, settings: Sequence[str], options: Mapping[str, object]) -> Layer:
    """Who says what of each knob: the last layer that says anything."""
    known = knob_names()
    named = os.environ.get(FILE_VARIABLE, "")
    if file is None and named:
        file = Path(named)
    own = {
        name: Said(value, Origin.COMMAND_LINE, "an option")
        for name, value in options.items()
        if value is not None
    }
    return {
        **of_file(_DEFAULTS, known, Origin.DEFAULT),
        **(of_file(file, known) if file is not None else {}),
        **of_environment(os.environ, known),
        **of_settings(settings, known),
        **own,
    }


def _checked(said: Layer) -> Config:
    tree: dict[str, dict[str, object]] = {}
    for knob, each in said.items():
        section, _, name = knob.partition(".")
        tree.setdefault(section, {})[name] = each.value
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        path = [str(part) for part in first["loc"]]
        who = said.get(".".join(path[:2]))
        place = "" if who is None or who.origin is Origin.DEFAULT else f"said by {who.place}; "
        raise UsageError(
            f"{'.'.join(path) or 'configuration'}: {first['msg']} ({place}see service/default.toml)"
        ) from error


def _shown(value: object) -> object:
    """A value without the secrets among its properties (N3)."""
    if not isinstance(value, dict):
        return value
    return {name: kafka_access.shown(name, each) for name, each in value.items()}


def _value(config: Config, knob: str) -> object:
    section, _, name = knob.partition(".")
    return getattr(getattr(config, section), name)
