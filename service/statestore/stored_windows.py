"""What a checkpoint says of a vertex's windows, so that they are read without the flow.

Flow: a store of windows -> [windows_of] -> `StoredVertex.windows` in the list of a checkpoint's
files, or a snapshot's contents -> `open_windows`.

Invariants
  SW1  It changes nothing of what is stored or restored: a checkpoint that lacks it is read as
       before, and only its windows cannot be told.
"""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

import msgspec

#: "panes": entries of `window_table`; "rows": typed rows of `window_rows`, those of sessions in two
#: groups; "objects": a dict by start and end, of `window_fold`.
Kind = Literal["panes", "rows", "objects"]
#: How a state column of two parts of a window becomes one.
Fold = Literal["sum", "greatest", "least"]


class StoredWindows(msgspec.Struct, frozen=True, omit_defaults=True):
    """The windows of one vertex; lengths in the unit of its event times."""

    kind: Kind
    #: Of panes: as in `Panes`; 0 where rows bring their windows along.
    size: int = 0
    every: int = 1
    lateness: int = 0
    #: Of panes: one for each state column behind the identity, in order.
    folds: tuple[Fold, ...] = ()
    #: The output that counts different values; empty if none does.
    counted: str = ""
    #: Of rows: (name, type) of the aggregates; none where whole rows are kept.
    columns: tuple[tuple[str, str], ...] = ()


@runtime_checkable
class Windowed(Protocol):
    """A store that may be of windows."""

    @property
    def windows(self) -> StoredWindows | None:
        """How they are kept; None where there are none."""
        ...


def windows_of(store: object) -> StoredWindows | None:
    """How a store keeps windows, if it does."""
    return store.windows if isinstance(store, Windowed) else None
