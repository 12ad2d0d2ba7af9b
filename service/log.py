"""Structured log lines: one JSON object a line, on standard error.

Flow: shells (processes, launcher, controller) -> [Log] -> stderr. Pure machines return facts; the
shell decides what is worth a line. Never one line per record or batch.

Invariants
  LG1  `event` is `noun.past_verb`; fields carry units in their names; no secret is ever a field.
"""

from __future__ import annotations

import sys
from typing import TextIO

import msgspec

from service.clock import Clock, SystemClock
from service.ids import Slot

Field = str | int | float | bool | None


class Log:
    """Writes lines for one process."""

    def __init__(self, slot: str, stream: TextIO | None = None, clock: Clock | None = None) -> None:
        """Name the process by its `slot`."""
        self._slot = slot
        self._stream = stream or sys.stderr
        self._clock = clock or SystemClock()

    def plays(self, slot: Slot) -> None:
        """Name the process by another slot from now on."""
        self._slot = str(slot)

    def info(self, event: str, **fields: Field) -> None:
        """A fact worth a line."""
        self._write("info", event, fields)

    def error(self, event: str, **fields: Field) -> None:
        """A failure, with its cause and next step in `message`."""
        self._write("error", event, fields)

    def _write(self, level: str, event: str, fields: dict[str, Field]) -> None:
        line: dict[str, Field] = {
            "t_us": self._clock.wall_us(),
            "level": level,
            "slot": self._slot,
            "event": event,
            **fields,
        }
        self._stream.write(msgspec.json.encode(line).decode() + "\n")
        self._stream.flush()
