"""`megaphone controller`, `worker`, `gateway`: the roles of a job, each a process of its own.

Flow: arguments and environment -> options -> [controller, worker, gateway] -> the role's process,
which runs until the job ends.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from socket import gethostname

from service.cli_options import (
    Address,
    AppName,
    Bins,
    CheckpointEvery,
    Gateways,
    HttpPort,
    Knobs,
    Registry,
    Servers,
    SlotText,
    StateDir,
    StateMemory,
    Target,
    Tied,
    UntilEnd,
    Workers,
    with_knobs,
    with_query,
)
from service.config import Config
from service.controller_process import ControllerProcess
from service.controller_start import ControllerOptions, check_bins
from service.dataflow.flow import Flow
from service.fail_points import arm
from service.ids import Role
from service.log import Log
from service.nexmark.query_topics import QueryTopics
from service.parent import tie_to_parent
from service.preflight import require_kafka
from service.process import MemberProcess
from service.process_options import (
    ProcessOptions,
    slot_of,
    state_memory_of,
    told_slot,
)
from service.targets import load_flow, registry_of


@with_knobs
@with_query
def controller(
    target: Target,
    bootstrap_servers: Servers,
    app_name: AppName,
    workers: Workers = 2,
    gateways: Gateways = 1,
    bins: Bins = 1024,
    until_end: UntilEnd = False,
    checkpoint_every: CheckpointEvery = 0.0,
    address: Address = "",
    http_port: HttpPort = None,
    knobs: Knobs = Knobs(),
    query: QueryTopics = QueryTopics(),
    tied: Tied = False,
) -> None:
    """Run the controller of a job: admits members, answers requests, plans moves, stops the job."""
    check_bins(bins)
    config = _begin(knobs, tied=tied)
    flow = load_flow(target, query)
    require_kafka(flow)
    options = ControllerOptions(
        bootstrap_servers,
        app_name,
        workers,
        gateways,
        bins,
        until_end,
        address,
        http_port,
        checkpoint_every,
    )
    ControllerProcess(options, config, flow, Log("controller")).run()


@with_knobs
@with_query
def worker(
    target: Target,
    bootstrap_servers: Servers,
    app_name: AppName,
    slot: SlotText,
    state_dir: StateDir = Path("megaphone-state"),
    state_memory: StateMemory = "",
    registry: Registry = "",
    address: Address = "",
    http_port: HttpPort = None,
    knobs: Knobs = Knobs(),
    query: QueryTopics = QueryTopics(),
    tied: Tied = False,
) -> None:
    """Run a worker: hosts bins of state and writes results."""
    config = _begin(knobs, tied=tied, state_memory=state_memory)
    options = ProcessOptions(
        bootstrap_servers,
        app_name,
        slot_of(Role.WORKER, slot, gethostname()),
        state_dir,
        address,
        http_port,
    )
    _run_member(options, config, load_flow(target, query), registry)


@with_knobs
@with_query
def gateway(
    target: Target,
    bootstrap_servers: Servers,
    app_name: AppName,
    slot: SlotText,
    state_dir: StateDir = Path("megaphone-state"),
    registry: Registry = "",
    address: Address = "",
    http_port: HttpPort = None,
    knobs: Knobs = Knobs(),
    query: QueryTopics = QueryTopics(),
    tied: Tied = False,
) -> None:
    """Run a gateway: reads Kafka partitions and routes their records."""
    config = _begin(knobs, tied=tied)
    options = ProcessOptions(
        bootstrap_servers,
        app_name,
        slot_of(Role.GATEWAY, slot, gethostname()),
        state_dir,
        address,
        http_port,
    )
    _run_member(options, config, load_flow(target, query), registry)


def _begin(knobs: Knobs, *, tied: bool, state_memory: str = "") -> Config:
    """What every role does first."""
    config = knobs.load(worker__state_memory_bytes=state_memory_of(state_memory))
    arm(told_slot(sys.argv, gethostname()), os.environ)
    if tied:
        tie_to_parent(config.limits.stop_timeout_s)
    return config


def _run_member(options: ProcessOptions, config: Config, flow: Flow, registry: str) -> None:
    require_kafka(flow)
    MemberProcess(options, config, flow, registry_of(registry), Log(str(options.slot))).run()
