"""Which verbs the command has, and where each is; a verb's module is loaded when it is asked for.

Flow: words -> [assembled] -> the command with these verbs -> `entry`, or with all of them `cli`.

Invariants
  VE1  This module loads none of those it names: a question to a running job must not wait for the
       kernels of a worker, which take a second of a core to load.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

import msgspec
import typer

from service.cli_options import example


class Verb(msgspec.Struct, frozen=True):
    """Where a verb, or a group of verbs, is."""

    module: str
    attribute: str
    #: Shown in a verb's help; a group's verbs say their own.
    example: str = ""


#: In the order in which the help lists them.
VERBS: dict[str, Verb] = {
    "run": Verb(
        "service.run_cli", "run", "run examples.filtered:flow --app large --workers 2 --bins 64"
    ),
    "status": Verb("service.status_cli", "status", "status --app bids --watch"),
    "migrate": Verb("service.migrate_cli", "migrate"),
    "rescale": Verb("service.migrate_cli", "rescale", "rescale --app bids --workers 2 --dry-run"),
    "rebalance": Verb(
        "service.migrate_cli", "rebalance", "rebalance --app bids --threshold 0.1 --by updates"
    ),
    "checkpoint": Verb("service.checkpoint_cli", "checkpoint", "checkpoint --app bids"),
    "control": Verb("service.control_cli", "app"),
    "state": Verb("service.state_cli", "app"),
    "dlq": Verb("service.dlq_cli", "app"),
    "graph": Verb("service.graph_cli", "graph", "graph examples.two_stages:flow --svg flow.svg"),
    "create-topics": Verb(
        "service.topics_cli", "create_topics", "create-topics examples.filtered:flow --partitions 4"
    ),
    "doctor": Verb("service.doctor.command", "doctor", "doctor examples.filtered:flow --app large"),
    "check-config": Verb("service.config_cli", "check_config", "check-config knobs.toml --changed"),
    "keys": Verb("service.keys_cli", "keys"),
    "bench": Verb("service.bench.cli", "app"),
    "broker": Verb("service.broker_cli", "broker", "broker"),
    "controller": Verb(
        "service.roles_cli",
        "controller",
        "controller nexmark:auction_bids --app bids --workers 2 --gateways 1",
    ),
    "worker": Verb(
        "service.roles_cli", "worker", "worker nexmark:auction_bids --app bids --slot 0"
    ),
    "gateway": Verb(
        "service.roles_cli", "gateway", "gateway nexmark:auction_bids --app bids --slot 0"
    ),
    "completion": Verb("service.completion", "completion", "completion bash"),
}


def assembled(words: Iterable[str]) -> typer.Typer:
    """The command with the verbs named.

    Args:
        words: keys of `VERBS`.
    """
    app = typer.Typer(
        name="megaphone",
        help="Stateful stream processing on Kafka whose state moves while it runs.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    # Without it a single verb would be the command itself, and its name an argument.
    app.callback()(_nothing)
    for word in words:
        verb = VERBS[word]
        found = getattr(import_module(verb.module), verb.attribute)
        if isinstance(found, typer.Typer):
            app.add_typer(found, name=word)
        else:
            app.command(word, epilog=example(verb.example))(found)
    return app


def _nothing() -> None:
    """Stateful stream processing on Kafka whose state moves while it runs."""
