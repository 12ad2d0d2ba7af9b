"""Keys of links: which process this is, and which processes may take part in the job.

Flow: `megaphone keys new` -> a file with a secret key, a line for the allow-list -> [read_secret],
[read_allowed] -> CurveLinks.

A key is a number of 256 bits on Curve25519, written as 64 hexadecimal digits. A file holds one
secret key. The allow-list holds a public key a line and, behind it, the slots that may prove to
have it: names such as worker-0, `worker-*` or `gateway-*` for a role, `*` for everybody. Two lines
for one slot are two keys that are valid at once. What follows a `#` is passed by.

Invariants
  KY1  A secret key is in no text that this file makes: not in an error, not in a repr.
  KY2  What cannot be read, or says nothing, is an error that names file and line, never a list that
       lets nobody or anybody in.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import zmq
from zmq.utils import z85

from service.errors import UsageError

_KEY = re.compile(r"[0-9a-f]{64}")
_SLOTS = re.compile(r"\*|controller|(?:worker|gateway)-(?:\*|\d{1,5})")
#: More than any job has; a file that is longer is another file.
FILE_BYTES_MAX: Final = 1 << 20
_NEXT_STEP = "make one with: megaphone keys new FILE"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """What a process proves itself with."""

    #: 64 hexadecimal digits; what others list.
    public: str
    secret: bytes = field(repr=False)  # KY1


@dataclass(frozen=True, slots=True)
class Allowed:
    """Public keys, and the slots that may prove to have each."""

    #: How messages name the list.
    where: str
    slots: dict[str, frozenset[str]]

    def has(self, key: str) -> bool:
        """Whether some slot may have `key`."""
        return key in self.slots

    def allows(self, key: str, slot: str) -> bool:
        """Whether `slot`, such as worker-0, may have `key`."""
        patterns = self.slots.get(key, frozenset())
        return not patterns.isdisjoint((slot, f"{slot.partition('-')[0]}-*", "*"))


def new_pair() -> KeyPair:
    """A pair that nobody else has."""
    return pair_of(z85.decode(zmq.curve_keypair()[1]))


def pair_of(secret: bytes) -> KeyPair:
    """The pair of a secret key of 32 bytes."""
    public = z85.decode(zmq.curve_public(z85.encode(secret)))
    return KeyPair(public.hex(), secret)


def check_slots(text: str, where: str) -> frozenset[str]:
    """The slots of a line, such as `worker-*,gateway-0`.

    Raises:
        UsageError: one of them is none.
    """
    slots = frozenset(each for each in re.split(r"[,\s]+", text) if each)
    for each in sorted(slots):
        if not _SLOTS.fullmatch(each):
            raise UsageError(
                f"{where}: {each!r} names no slots; write worker-0, worker-*, gateway-*, "
                "controller or *"
            )
    if not slots:
        raise UsageError(f"{where}: no slots; write which may have the key, or * for all")
    return slots


def write_secret(path: Path, pair: KeyPair) -> None:
    """Write a secret key to a new file that only its owner may read.

    Raises:
        UsageError: the file is there already, or cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise UsageError(f"{path} is there already; name a file that is not") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(f"# Secret key of links; its public key is {pair.public}\n{pair.secret.hex()}\n")


def read_secret(path: Path) -> KeyPair:
    """The pair whose secret key a file holds.

    Raises:
        UsageError: it cannot be read, or holds anything but one key (KY1, KY2).
    """
    lines = list(_lines(path, "links.key_file"))
    if len(lines) != 1 or not _KEY.fullmatch(lines[0][1]):
        raise UsageError(f"links.key_file: {path} does not hold one secret key; {_NEXT_STEP}")
    return pair_of(bytes.fromhex(lines[0][1]))


def read_allowed(path: Path) -> Allowed:
    """The allow-list in a file.

    Raises:
        UsageError: it cannot be read, is empty, or a line is none (KY2).
    """
    slots: dict[str, frozenset[str]] = {}
    for number, line in _lines(path, "links.allowed_file"):
        where = f"links.allowed_file: {path}, line {number}"
        key, _, behind = line.partition(" ")
        if not _KEY.fullmatch(key):
            raise UsageError(f"{where} begins with no public key; `megaphone keys show` writes it")
        slots[key] = slots.get(key, frozenset()) | check_slots(behind, where)
    if not slots:
        raise UsageError(
            f"links.allowed_file: {path} lists no key, so nobody could take part; {_NEXT_STEP} and "
            "put the line that it prints into the list"
        )
    return Allowed(str(path), slots)


def _lines(path: Path, knob: str) -> Iterator[tuple[int, str]]:
    """Numbered lines of a file that say something."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise UsageError(f"{knob}: {path} cannot be read: {error.strerror}") from error
    if len(data) > FILE_BYTES_MAX:
        raise UsageError(
            f"{knob}: {path} has more than {FILE_BYTES_MAX} bytes; is it another file?"
        )
    for number, line in enumerate(data.decode("ascii", errors="replace").splitlines(), start=1):
        said = line.partition("#")[0].strip()
        if said:
            yield number, said
