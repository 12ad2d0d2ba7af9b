"""What the command line says about one process, and which slot that makes it play.

Flow: `megaphone worker --slot TEXT` -> [slot_of] -> ProcessOptions -> MemberProcess.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from service.errors import UsageError
from service.ids import Role, Slot
from service.sizes import bytes_of

#: Values of --slot that are no number.
ANY, ORDINAL = "any", "ordinal"
_NUMBER = re.compile(r"\d{1,5}")
_LAST_NUMBER = re.compile(r"-(\d{1,5})$")


@dataclass(frozen=True, slots=True)
class ProcessOptions:
    """What the command line says about one process."""

    bootstrap_servers: str
    app: str
    #: May be that of who takes any (I2 of `ids`).
    slot: Slot
    state_dir: Path
    #: Where to listen for peers; empty: links.address.
    address: str = ""
    http_port: int | None = None


def slot_of(role: Role, text: str, host: str) -> Slot:
    """The slot that `--slot` means on a machine called `host`.

    Args:
        role: of the process.
        text: a number; `any`; or `ordinal`, the number that the host's name ends with, as the names
            of a StatefulSet's pods do.
        host: name of this machine, with or without its domain.

    Raises:
        UsageError: it is none of those, or the host's name has no such number.

    Example:
        >>> str(slot_of(Role.WORKER, "ordinal", "bids-worker-3"))
        'worker-3'
    """
    if text == ANY:
        return Slot.any_of(role)
    if text == ORDINAL:
        found = _LAST_NUMBER.search(host.partition(".")[0])
        if found is None:
            raise UsageError(
                f"--slot ordinal: the host's name {host!r} does not end with - and a number, as "
                "that of a StatefulSet's pod does; write --slot N or --slot any"
            )
        return Slot(role, int(found[1]))
    if _NUMBER.fullmatch(text) is None:
        raise UsageError(f"--slot {text!r} is no slot; write a number, any or ordinal")
    return Slot(role, int(text))


def told_slot(words: Sequence[str], host: str) -> str:
    """What a command line says its process is, for the line of a failure and for fail points.

    Args:
        words: the program and its arguments, checked or not.
        host: name of this machine.

    Example:
        >>> told_slot(["megaphone", "worker", "bids:flow", "--slot=3"], "a")
        'worker-3'
    """
    role = words[1] if len(words) > 1 else "megaphone"
    parts = [part for word in words for part in word.split("=", 1)]
    if role in (Role.WORKER, Role.GATEWAY) and "--slot" in parts[:-1]:
        with suppress(UsageError):
            return str(slot_of(Role(role), parts[parts.index("--slot") + 1], host))
    return role


def state_memory_of(text: str) -> int | None:
    """Bytes that `--state-memory` says; None if it says nothing.

    Raises:
        UsageError: it is no size.
    """
    return bytes_of(text, "--state-memory") if text else None
