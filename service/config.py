"""The one frozen tree of knobs.

Flow: default.toml < environment (MEGAPHONE_SECTION__KNOB) < command line -> [Config]; sub-trees,
not the tree, go to constructors.

Invariants
  N1  Every knob stands in default.toml with its unit and reason; an unknown one is an error.
  N2  Read once, checked once: relations between knobs are checked here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from service.errors import UsageError

_PREFIX = "MEGAPHONE_"
#: With less than 16 MiB a worker would do little else than read and write single rows.
STATE_MEMORY_LEAST = 16 << 20
_DEFAULTS = Path(__file__).with_name("default.toml")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GatewayConfig(_Section):
    """Reading and ticking."""

    tick_ms: float = Field(gt=0)
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


class LinksConfig(_Section):
    """Where peers connect to."""

    address: str = Field(min_length=1)
    advertise: str
    trusted_network: bool


class HttpConfig(_Section):
    """Where each process answers."""

    host: str
    port: int = Field(ge=0, le=65535)


class Config(BaseSettings):
    """All knobs; see default.toml."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_nested_delimiter="__",
        toml_file=_DEFAULTS,
        extra="forbid",
        frozen=True,
    )

    gateway: GatewayConfig
    worker: WorkerConfig
    control: ControlConfig
    limits: LimitsConfig
    links: LinksConfig
    http: HttpConfig

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Command line, then environment, then default.toml."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

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
        if self.gateway.idle_tick_ms < self.gateway.tick_ms:
            raise ValueError("gateway.idle_tick_ms must not be below gateway.tick_ms")
        return self


def load_config(state_memory_bytes: int | None = None) -> Config:
    """Read and check all knobs.

    Args:
        state_memory_bytes: the knob of this name, if the command line says it.

    Raises:
        UsageError: a knob is unknown, malformed, or contradicts another; the text names it.
    """
    sections = [name.upper() for name in Config.model_fields]
    for variable in os.environ:
        section, nested, _ = variable.removeprefix(_PREFIX).partition("__")
        if variable.startswith(_PREFIX) and nested and section not in sections:
            raise UsageError(
                f"{variable} names no section of knobs; there are {', '.join(sections)} "
                "(see service/default.toml)"
            )
    try:
        config = Config()
        if state_memory_bytes is None:
            return config
        worker = {**config.worker.model_dump(), "state_memory_bytes": state_memory_bytes}
        return Config(worker=WorkerConfig(**worker))
    except ValidationError as error:
        first = error.errors()[0]
        knob = ".".join(str(part) for part in first["loc"]) or "configuration"
        raise UsageError(f"{knob}: {first['msg']} (see service/default.toml)") from error
