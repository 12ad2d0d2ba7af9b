"""Pieces of several bins in one frame, so that many small bins do not cost a frame each.

Flow: `Copies` at the old owner -> [FrameWriter] -> Aside -> [sections_of] at the new one.

A frame, little endian: sections, each `number u64 | bin u32 | length u32 | piece`, and at its end
the xxh3-64 of all before.

Invariants
  CF1  Pieces for one target leave in the order they were added.
  CF2  Nothing of a frame is used before its digest was found right.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import xxhash

from service.dataflow.aside import Aside
from service.dataflow.transport.base import BodyPart
from service.errors import StateCorrupt

_SECTION = struct.Struct("<QII")
_DIGEST_BYTES = 8


class FrameWriter:
    """Collects pieces by target for one step; `flush` ends it."""

    def __init__(self, aside: Aside, frame_bytes: int) -> None:
        """Send frames of about `frame_bytes` through `aside`."""
        self._aside = aside
        self._frame_bytes = frame_bytes
        self._parts: dict[int, list[bytes]] = {}
        self._sizes: dict[int, int] = {}
        #: Bytes handed over.
        self.nbytes = 0

    def room(self, target: int) -> bool:
        """Whether one more piece for `target` may be added."""
        return target in self._parts or self._aside.room(target)

    def add(self, target: int, number: int, bin_id: int, piece: bytes) -> None:
        """Add a piece; there must be `room`."""
        parts = self._parts.setdefault(target, [])
        parts.append(_SECTION.pack(number, bin_id, len(piece)))
        parts.append(piece)
        size = self._sizes.get(target, 0) + _SECTION.size + len(piece)
        self._sizes[target] = size
        if size >= self._frame_bytes:
            self._send(target)

    def flush(self) -> None:
        """Send what was added and not sent."""
        for target in list(self._parts):
            self._send(target)

    def _send(self, target: int) -> None:
        content = b"".join(self._parts.pop(target))
        del self._sizes[target]
        frame = content + xxhash.xxh3_64_digest(content)
        self.nbytes += len(frame)
        self._aside.send(target, frame)


def sections_of(frame: BodyPart) -> Iterator[tuple[int, int, memoryview]]:
    """(number, bin, piece) of each section of a frame (CF2).

    Raises:
        StateCorrupt: the frame is damaged.
    """
    whole = memoryview(frame)
    content = whole[:-_DIGEST_BYTES]
    if len(whole) < _DIGEST_BYTES or xxhash.xxh3_64_digest(content) != whole[-_DIGEST_BYTES:]:
        raise StateCorrupt(
            f"a frame of copied state of {len(whole)} bytes does not match its digest; "
            "nothing of it was kept"
        )
    at = 0
    while at < len(content):
        number, bin_id, length = _SECTION.unpack_from(content, at)
        at += _SECTION.size
        yield number, bin_id, content[at : at + length]
        at += length
