"""Under which address other processes reach this one.

Flow: endpoint that a socket listens at -> [advertised] -> <app>.members -> generation -> peers.

A socket that listens at all addresses of its machine has none to give away: a name is told it
(`links.advertise`), or it takes the one from which this machine reaches Kafka, where every process
of the job has to come from, too.
"""

from __future__ import annotations

import socket

from service.errors import UsageError

#: What a socket says it listens at when that is everywhere.
_EVERYWHERE = ("0.0.0.0", "[::]", "*")  # noqa: S104 - recognised, not bound


def advertised(endpoint: str, host: str, bootstrap_servers: str) -> str:
    """The endpoint that peers connect to.

    Args:
        endpoint: where the socket listens, with its port.
        host: name or address to be told in its place; empty: its own.
        bootstrap_servers: Kafka's, for a socket that listens everywhere; nothing is sent there.

    Raises:
        UsageError: it listens everywhere and there is no way to Kafka.
    """
    scheme, _, place = endpoint.partition("://")
    if scheme != "tcp":
        return endpoint
    own, _, port = place.rpartition(":")
    if host:
        return f"tcp://{host}:{port}"
    if own not in _EVERYWHERE:
        return endpoint
    return f"tcp://{_towards(bootstrap_servers)}:{port}"


def _towards(bootstrap_servers: str) -> str:
    """The address of this machine that packets to Kafka would carry."""
    kafka, _, port = bootstrap_servers.partition(",")[0].rpartition(":")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            # Of a datagram socket this chooses a route and sends nothing.
            probe.connect((kafka, int(port)))
            return str(probe.getsockname()[0])
    except (OSError, ValueError) as error:
        raise UsageError(
            f"no address to tell others: no way to Kafka at {bootstrap_servers!r} was found "
            f"({error}); say under which name they reach this process, links.advertise"
        ) from error
