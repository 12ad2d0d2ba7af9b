"""What a broker is to the rest of the project, whoever runs it.

Three kinds exist: one that runs already (`lookup.py`), a Java child process (`java.py`) and a
Docker container (`container.py`). Each start function returns a `Broker` that answers, raises
`KindMissing` if this machine cannot run its kind, or raises `BrokerError` if it could but Kafka did
not come up.

Invariants
  K1  A broker that is returned has answered a metadata request.
  K2  `close` may be called twice, and leaves no process, container or file behind.
"""

from __future__ import annotations

from typing import Protocol

from service.errors import UsageError


class Broker(Protocol):
    """A Kafka cluster to connect to, and the right to end it if it is ours."""

    @property
    def bootstrap_servers(self) -> str:
        """Address list for `bootstrap.servers`."""
        ...

    @property
    def alive(self) -> bool:
        """Whether the process that we started still runs; always true of one that is not ours."""
        ...

    def close(self) -> None:
        """End the broker if we started it, and remove its data."""
        ...


class KindMissing(UsageError):
    """This machine lacks what one kind of broker needs; another kind may do."""
