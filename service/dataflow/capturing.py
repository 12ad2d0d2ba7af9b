"""A stream written to files, and read from them: rows, their times, and what the frontier did.

Flow: operator -> [CaptureOperator] -> operator, and a file in each process;
file -> [replay] -> a user's test or notebook, or [ReplayOperator] -> operator.

A file is an Arrow IPC stream, so any Arrow reader shows its rows. A batch's time stands in its own
metadata under `time`; a batch without rows whose metadata has `frontier` says that from here on
nothing comes that no element is at or before; one without elements is the end.

Invariants
  CP1  A time stands in the file before any frontier that has passed it.
  CP2  A file holds whole batches: one that was not closed is read up to the last whole one.
  CP3  Replay gives back each batch at its time, in the order written.
This is the one operator that touches files itself: what is captured must be there although the
process dies in its next step. A write goes to the system's cache; nothing waits for a disk.
Source: timely dataflow, `operators/capture`, for the notion.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from service.dataflow.operator import Capability, OperatorContext
from service.dataflow.progress.timestamp import Timestamp
from service.errors import UsageError

_TIME = b"time"
_FRONTIER = b"frontier"
_SUFFIX = "arrows"


class CapturedRows(NamedTuple):
    """A batch and its time."""

    time: Timestamp
    rows: pa.RecordBatch


class CapturedFrontier(NamedTuple):
    """From here on nothing comes that no element is at or before; none: nothing comes at all."""

    elements: tuple[Timestamp, ...]


Captured = CapturedRows | CapturedFrontier


class CaptureOperator:
    """Writes the batches that pass."""

    def __init__(self, name: str, folder: str, schema: pa.Schema) -> None:
        """Write to a file of this process in `folder`, which is made if it is not there."""
        self._name = name
        self._folder = Path(folder)
        self._schema = schema
        self._nothing = pa.RecordBatch.from_pylist([], schema=schema)
        self._frontier: tuple[Timestamp, ...] | None = None

    def open(self, context: OperatorContext) -> None:
        """Take the ports, and begin the file: named after process and first epoch.

        Raises:
            UsageError: the file cannot be written.
        """
        (self._input,) = context.inputs
        (self._output,) = context.outputs
        self._path = path = (
            self._folder / f"{self._name}.{context.start[0]}.{context.peer}.{_SUFFIX}"
        )
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = pa.OSFile(str(path), "wb")
        except OSError as error:
            raise UsageError(
                f"capture {self._name!r} cannot write {path}: {error}; name a folder that every "
                "process may write to"
            ) from error
        self._writer = pa.ipc.new_stream(self._file, self._schema)

    def step(self) -> None:
        """Write what is queued while there is room below, then where the frontier is (CP1)."""
        while self._output.ready() and (message := self._input.pull()) is not None:
            rows = message.payload
            assert isinstance(rows, pa.RecordBatch), "a data channel carries record batches"
            self._write(rows, {_TIME: _text(message.time)})
            self._output.forward(0, message, rows)
        elements = self._input.frontier().elements()
        if elements != self._frontier and not self._file.closed:
            self._frontier = elements
            self._write(self._nothing, {_FRONTIER: b";".join(map(_text, elements))})
            if not elements:
                self._writer.close()
                self._file.close()

    def _write(self, rows: pa.RecordBatch, metadata: dict[bytes, bytes]) -> None:
        if not rows.schema.equals(self._schema):
            # The same columns, but said to hold nulls, or not to.
            rows = pa.RecordBatch.from_arrays(rows.columns, schema=self._schema)
        try:
            self._writer.write_batch(rows, custom_metadata=metadata)
        except OSError as error:
            raise UsageError(
                f"capture {self._name!r} could not write {self._path}: {error}; make room, "
                "or leave the capture out"
            ) from error


def captures(folder: str | Path, name: str) -> list[Path]:
    """Files of the capture called `name`, one for each process and run, in the order of the runs.

    Raises:
        UsageError: there are none.
    """
    found = [
        (int(start), int(peer), path)
        for path in Path(folder).glob(f"*.{_SUFFIX}")
        for captured, start, peer in [path.stem.rsplit(".", 2)]
        if captured == name
    ]
    if not found:
        raise UsageError(f"{folder} holds no capture {name!r}; run the flow that captures it")
    return [path for _, _, path in sorted(found)]


def replay(path: str | Path) -> Iterator[Captured]:
    """What one file of a capture says, in the order it was written (CP3).

    Raises:
        UsageError: it is no capture, or ends within a batch (all whole ones have been given then).

    Example:
        >>> from service.dataflow.capturing import CapturedRows, captures, replay
        >>> def rows_captured(folder, name):
        ...     files = captures(folder, name)
        ...     found = (each for file in files for each in replay(file))
        ...     return sum(each.rows.num_rows for each in found if isinstance(each, CapturedRows))
    """
    try:
        with Path(path).open("rb") as file, pa.ipc.open_stream(file) as reader:
            while (found := _next(reader, path)) is not None:
                yield found
    except (OSError, pa.ArrowException) as error:
        raise UsageError(
            f"{path} is no whole capture: {error}; what stands before was given"
        ) from error


def _next(reader: pa.RecordBatchStreamReader, path: str | Path) -> Captured | None:
    try:
        rows, metadata = reader.read_next_batch_with_custom_metadata()
    except StopIteration:
        return None
    said = dict(metadata) if metadata is not None else {}
    if _TIME in said:
        return CapturedRows(_time(said[_TIME]), rows)
    if _FRONTIER in said:
        elements = said[_FRONTIER].split(b";") if said[_FRONTIER] else []
        return CapturedFrontier(tuple(map(_time, elements)))
    raise UsageError(f"{path} is an Arrow stream, but no capture: a batch says no time")


class ReplayOperator:
    """Sends what captures hold: an operator without inputs that holds the first time.

    Each of several captures, say of the processes of one run, is sent in its own order, and the
    output's frontier is that of the one that is furthest behind.
    """

    def __init__(self, name: str, captured: Iterable[Iterable[Captured]]) -> None:
        """Send each of `captured`; `name` is for errors."""
        self._name = name
        self._captured = [iter(each) for each in captured]

    def open(self, context: OperatorContext) -> None:
        """Take the output, and a right for each capture."""
        (self._output,) = context.outputs
        self._resume = context.resume
        first = context.initial[0]
        self._start = context.start
        self._left = deque((each, first.delayed(first.time)) for each in self._captured)
        first.drop()

    def step(self) -> None:
        """Send a portion: of each capture up to where its frontier moves, while there is room.

        Raises:
            UsageError: a time lies in a loop, or before the dataflow's first.
        """
        for _ in range(len(self._left)):
            captured, right = self._left.popleft()
            if self._go_on(captured, right):
                self._left.append((captured, right))
        if self._left:
            self._resume()

    def _go_on(self, captured: Iterator[Captured], right: Capability) -> bool:
        """Send of one capture; whether there is more of it."""
        while self._output.ready():
            match next(captured, None):
                case CapturedRows(time=time, rows=rows):
                    at = self._valid(time, right.time)
                    instant = right.delayed(at)
                    self._output.send(instant, rows)
                    instant.drop()
                case CapturedFrontier(elements=((_, *_) as earliest, *_)):
                    if earliest > right.time:
                        right.downgrade(self._valid(earliest, right.time))
                        return True
                case _:
                    right.drop()
                    return False
        return True

    def _valid(self, time: Timestamp, right: Timestamp) -> Timestamp:
        if len(time) != len(right) or time < right:
            raise UsageError(
                f"replay {self._name!r} is at {right}, but the capture says {time}; "
                "replay what was captured outside loops, in a dataflow that begins no later"
            )
        return time


def _text(time: Timestamp) -> bytes:
    return b" ".join(str(each).encode() for each in time)


def _time(text: bytes) -> Timestamp:
    return tuple(map(int, text.split(b" ")))
