"""A socket to one broker: requests out, whole answers in, nothing waited for unless asked to.

Flow: `direct` -> [Connection] -> broker. A shell: it owns a socket and a buffer.

Invariants
  CN1  Answers are given whole, in the order of the requests.
  CN2  What `ask` was given is free again when it returns; an answer is valid until the next one.
"""

from __future__ import annotations

import select
import socket
import struct

from loadgen import protocol
from loadgen.broker import ANSWER_SECONDS_MAX, DELIVERY_SECONDS_MAX, LoadError

#: What the error of a lost broker says to do.
FALLBACK = "; --client librdkafka waits and tries again"
_SOCKET_BYTES = 4 << 20
_READ_BYTES = 1 << 20
_PIECES_MAX = 512  # Systems take a bounded number at once, all at least as many.


class Connection:
    """One broker: requests out, answers in the order of the requests."""

    def __init__(self, host: str, port: int) -> None:
        """Connect.

        Raises:
            LoadError: nobody answers.
        """
        self._name = f"{host}:{port}"
        try:
            self._socket = socket.create_connection((host, port), ANSWER_SECONDS_MAX)
        except OSError as error:
            raise LoadError(f"broker {self._name}: {error}") from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BYTES)
        self._socket.setblocking(False)
        self._correlation = 0
        self._answered = 0
        self._buffer = bytearray(_READ_BYTES)
        self._filled = 0
        self._start = 0

    @property
    def unanswered(self) -> int:
        """Requests without an answer."""
        return self._correlation - self._answered

    def fileno(self) -> int:
        """For `select`."""
        return self._socket.fileno()

    def ask(self, kind: tuple[int, int], pieces: list[memoryview]) -> None:
        """Send a request; its pieces are free again when this returns.

        Raises:
            LoadError: the broker takes nothing for a long time, or is gone.
        """
        size = sum(map(len, pieces))
        head = protocol.framed(kind, self._correlation, size)
        self._correlation += 1
        left = [memoryview(head), *pieces]
        try:
            while left:
                try:
                    sent = self._socket.sendmsg(left[:_PIECES_MAX])
                except BlockingIOError:
                    self._wait_to_write()
                    continue
                while left and sent >= len(left[0]):
                    sent -= len(left.pop(0))
                if left and sent:
                    left[0] = left[0][sent:]
        except OSError as error:
            raise LoadError(f"broker {self._name}: {error}{FALLBACK}") from error

    def answer(self) -> memoryview | None:
        """The next answer that has arrived whole; valid until the next call.

        Raises:
            LoadError: the broker has closed the connection.
        """
        found = self._next()
        if found is not None or not self.unanswered:
            return found
        self._make_room()
        try:
            got = self._socket.recv_into(memoryview(self._buffer)[self._filled :])
        except BlockingIOError:
            return None
        except OSError as error:
            raise LoadError(f"broker {self._name}: {error}{FALLBACK}") from error
        if got == 0:
            raise LoadError(f"broker {self._name} has closed the connection{FALLBACK}")
        self._filled += got
        return self._next()

    def wait(self, seconds: float) -> bool:
        """Wait for something to read."""
        return bool(select.select([self._socket], [], [], seconds)[0])

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _next(self) -> memoryview | None:
        held = self._filled - self._start
        if held < 4:
            return None
        (size,) = struct.unpack_from(">i", self._buffer, self._start)
        if held < 4 + size:
            return None
        body = self._start + 4
        (correlation,) = struct.unpack_from(">i", self._buffer, body)
        assert correlation == self._answered, "a broker answers in order"
        self._answered += 1
        self._start = body + size
        return memoryview(self._buffer)[body + 4 : body + size]

    def _make_room(self) -> None:
        """Room behind what has arrived of the next answer, for all of it."""
        held = self._filled - self._start
        wanted = _READ_BYTES
        if held >= 4:
            (size,) = struct.unpack_from(">i", self._buffer, self._start)
            wanted = max(wanted, 4 + size)
        if self._start and (held == 0 or len(self._buffer) - self._start < wanted):
            # A new buffer where the old one is too small, or still looked at by an answer.
            fresh = bytearray(max(wanted, len(self._buffer))) if held else self._buffer
            if held:
                fresh[:held] = memoryview(self._buffer)[self._start : self._filled]
            self._buffer, self._start, self._filled = fresh, 0, held
        elif len(self._buffer) - self._start < wanted:
            self._buffer = self._buffer + bytearray(wanted - len(self._buffer))

    def _wait_to_write(self) -> None:
        if not select.select([], [self._socket], [], DELIVERY_SECONDS_MAX)[1]:
            raise LoadError(f"broker {self._name} took nothing for {DELIVERY_SECONDS_MAX} s")


def whole_answer(connection: Connection) -> memoryview:
    """The next answer, waited for.

    Raises:
        LoadError: the broker does not answer.
    """
    while True:
        answer = connection.answer()
        if answer is not None:
            return answer
        if not connection.wait(ANSWER_SECONDS_MAX):
            raise LoadError(f"a broker has not answered for {ANSWER_SECONDS_MAX:g} s")
