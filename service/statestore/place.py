"""How far somebody who goes through a bin has come.

Flow: `scanning.next_rows` moves it; whoever goes through the bin keeps it between two calls.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Place:
    """Which region of the arena it is, packed as there, and the next slot in it."""

    region: int = -1
    #: `KeyedTable.turns` at the last look.
    turn: int = 0
    slot: int = 0
