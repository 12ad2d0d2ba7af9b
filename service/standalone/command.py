"""`megaphone run --local` of a flow without topics: signals in, one line of what was done out.

Flow: command line -> [run_without_kafka] -> run_local. Ctrl-C and SIGTERM stop it plainly.
"""

from __future__ import annotations

from service.dataflow.flow import Flow
from service.log import Log
from service.standalone.run import run_local
from service.stop_signals import StopSignals


def run_without_kafka(flow: Flow, *, workers: int, gateways: int, bins: int) -> None:
    """Run the flow to the end of its sources, or to a signal, and say so.

    Raises:
        MegaphoneError: see `run_local`.
    """
    with StopSignals() as signals:
        done = run_local(
            flow,
            workers=workers,
            gateways=gateways,
            bins=bins,
            stop_asked=lambda: signals.asked,
        )
    Log("local").info(
        "run.finished",
        flow=flow.name,
        rows_read=done.rows_read,
        rows_written=done.rows_written,
        complete=done.complete,
    )
