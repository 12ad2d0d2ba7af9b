"""Many small batches that wait at S, as one: a batch costs its worker a millisecond, however small.

Flow: S pulled a batch, more wait behind it -> [gather] -> one batch at the latest of their times.

Invariants
  GA1  No cut lies between the times of batches that go as one, so that all rows of a bin have one
       owner and wait for one arrival; in a loop, where a counter says how often a row has been
       round, their times are equal.
  GA2  Nothing is gathered that S may not apply: all times lie below the horizon.
  GA3  Rows keep their order, and what comes of them is sent at or after the time of each.
"""

from __future__ import annotations

import pyarrow as pa

from service.dataflow.operator import InputPort, Message
from service.migration.control_source import ControlSource


def gather(
    port: InputPort, first: Message, control: ControlSource, rows_max: int
) -> tuple[Message, pa.RecordBatch]:
    """The rows of `first` and of batches that wait behind it.

    Args:
        port: where `first` was pulled in this step, and where more wait.
        first: a batch below the local horizon.
        control: says where cuts and horizon lie.
        rows_max: no further batch is taken from once there are this many rows.

    Returns:
        The message with the latest time, which gives the right to send, and all rows.
    """
    table, horizon = control.table, control.follower.horizon
    start = table.interval_start(first.time[0])
    latest = first
    batches = [_rows(first)]
    count = batches[0].num_rows
    while port.queue and count < rows_max:
        time = port.queue[0].time
        if time != first.time and (
            len(time) > 1 or time[0] >= horizon or table.interval_start(time[0]) != start
        ):
            break
        message = port.pull()
        assert message is not None, "the queue was not empty"
        batches.append(_rows(message))
        count += batches[-1].num_rows
        if message.time > latest.time:
            latest = message
    return latest, batches[0] if len(batches) == 1 else pa.concat_batches(batches)


def _rows(message: Message) -> pa.RecordBatch:
    assert isinstance(message.payload, pa.RecordBatch), "a data channel carries record batches"
    return message.payload
