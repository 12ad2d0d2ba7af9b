"""Every failure the service names, with who must act and whether a retry can help.

Flow: raised anywhere; the command line turns a class into an exit status and one printed sentence.

Invariants
  E1  Each concrete error states a cause and a next step in its message.
  E2  `exit_status` is 2 for usage and environment (`domain == "user"` at start-up), otherwise 1.
  E3  A foreign library's exception is translated in the one file that calls the library.
"""

from __future__ import annotations

from typing import ClassVar, Literal

Domain = Literal["user", "external", "internal"]
Retry = Literal["never", "backoff", "restart"]


class MegaphoneError(Exception):
    """Base of all named failures.

    Attributes:
        domain: who can act: the user, an external system, or us.
        retry: what can help: nothing, waiting, or starting the job again.
        exit_status: status of the process when the error ends it.
    """

    domain: ClassVar[Domain] = "internal"
    retry: ClassVar[Retry] = "never"
    exit_status: ClassVar[int] = 1


class UsageError(MegaphoneError):
    """The command line, the configuration or the environment cannot work."""

    domain: ClassVar[Domain] = "user"
    exit_status: ClassVar[int] = 2


class GraphError(UsageError):
    """A flow cannot be built: a missing port, a cycle that does not advance, a wrong column."""


class NotYetSupported(UsageError):
    """A feature that the design names but this version refuses.

    Raised by name rather than ignored, so that a flow never means something else than it says.
    """

    def __init__(self, feature: str, instead: str) -> None:
        """Name the `feature` and what to do `instead`."""
        super().__init__(f"{feature} is not supported in this version; {instead}")
        self.feature = feature


class RequestRejected(MegaphoneError):
    """A running job refused what it was asked for; nothing has changed."""

    domain: ClassVar[Domain] = "user"


class UserFunctionError(MegaphoneError):
    """A function of the flow raised; the job stops, and the text says on what."""

    domain: ClassVar[Domain] = "user"

    def __init__(
        self,
        vertex: str,
        time: tuple[int, ...],
        rows: int,
        columns: object,
        error: Exception,
        *,
        key: object = None,
    ) -> None:
        """Name the `vertex`, the `time` and size of the batch, what was raised, and on what key."""
        of_key = "" if key is None else f" for key {key!r}"
        super().__init__(
            f"the function of {vertex!r} raised {type(error).__name__}{of_key}: {error}; the "
            f"batch at {time} has {rows} rows of {columns}. Correct the function, or let it pass "
            "such rows by, and start the job again"
        )
        self.vertex = vertex
        self.key = key
        self._raised = (vertex, time, rows, columns, error)

    def of_key(self, key: object) -> UserFunctionError:
        """The same about a key by its own name, where a store knows keys by numbers."""
        return UserFunctionError(*self._raised, key=key)


class DataError(MegaphoneError):
    """A record of the input cannot be used; it is counted and dead-lettered, never lost."""

    domain: ClassVar[Domain] = "external"


class SchemaError(DataError):
    """A schema is malformed, unsafe to decode, or unknown to the registry."""


class BrokerError(MegaphoneError):
    """Kafka refused or did not answer."""

    domain: ClassVar[Domain] = "external"
    retry: ClassVar[Retry] = "backoff"


class BrokerUnavailable(BrokerError):
    """No broker answered within the time given: the environment cannot work."""

    exit_status: ClassVar[int] = 2

    def __init__(self, bootstrap_servers: str, seconds: float, said: str = "") -> None:
        """Name the `bootstrap_servers` asked, the `seconds` waited and what the client `said`."""
        super().__init__(
            f"no Kafka broker answered at {bootstrap_servers} within {seconds:g} s; "
            "check --bootstrap-servers and that the broker is up; if it expects TLS or SASL, see "
            "docs/SECURITY.md" + (f". The client's last words: {said}" if said else "")
        )


class BrokerRefused(BrokerError):
    """A broker answered and did not let us in: the credentials or certificates cannot work."""

    domain: ClassVar[Domain] = "user"
    retry: ClassVar[Retry] = "never"
    exit_status: ClassVar[int] = 2

    def __init__(self, bootstrap_servers: str, why: str) -> None:
        """Name the `bootstrap_servers` and `why` they refuse."""
        super().__init__(
            f"Kafka at {bootstrap_servers} refuses this process: {why}; check kafka.properties and "
            "the variables KAFKA_SECURITY_*, KAFKA_SASL_* and KAFKA_SSL_* (docs/SECURITY.md)"
        )


class BrokerLost(BrokerError):
    """The broker stopped answering while the job ran."""

    retry: ClassVar[Retry] = "restart"

    def __init__(self, bootstrap_servers: str, seconds: float) -> None:
        """Name the `bootstrap_servers` and for how many `seconds` nothing came."""
        super().__init__(
            f"Kafka at {bootstrap_servers} has not answered for {seconds:g} s, so the job stops; "
            "when it is back, start the job again to go on from its last checkpoint"
        )


class Fenced(BrokerError):
    """Another process took over this identity; this one must not write again."""

    retry: ClassVar[Retry] = "restart"


class StateError(MegaphoneError):
    """The state store cannot give what was asked."""


class StateCorrupt(StateError):
    """Bytes of state do not match their digest or row count; nothing of them was used."""

    retry: ClassVar[Retry] = "restart"


class FormatMismatch(StateError):
    """State was written by another format version or with another number of bins."""

    domain: ClassVar[Domain] = "user"


class PeerError(MegaphoneError):
    """Something is wrong between processes of one generation."""

    retry: ClassVar[Retry] = "restart"


class PeerLost(PeerError):
    """A process of the generation is gone; the generation cannot go on."""


class ProtocolViolation(PeerError):
    """A peer, or the accepted log, said what the protocol does not allow."""
