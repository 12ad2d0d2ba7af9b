"""The main job as a command: set the stage, run, prove, report, and leave nothing behind.

Flow: command line -> broker -> Run -> summary -> report -> exit status.

Invariants
  M1  Exit status: 0 exact, 1 failed or inexact, 2 usage or environment, 130 interrupted.
  M2  Whatever ends the run, processes and temporary files are gone when the command returns.
"""

from __future__ import annotations

import secrets
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console

from demo import report
from demo.children import Children
from demo.live import Picture, Stage, open_view
from demo.lookout import Lookout
from demo.options import Names, Options, parse
from demo.run import Run
from demo.summary import summarised
from service.broker.kinds import Broker
from service.broker.lookup import NamedBroker, open_broker
from service.broker.properties import KAFKA_VERSION
from service.clock import SystemClock
from service.errors import MegaphoneError, UsageError

_INTERRUPTED = 130


class _Interrupted(BaseException):
    """Ctrl-C or SIGTERM; no `except Exception` on the way may take it for a failure."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit status (M1)."""
    errors = Console(stderr=True, highlight=False, markup=False)
    try:
        options = parse(arguments)
        with _interruptible():
            return _demonstrated(options)
    except _Interrupted:
        errors.print("interrupted; everything was stopped")
        return _INTERRUPTED
    except UsageError as error:
        errors.print(f"demo: {error}", soft_wrap=True)
        return error.exit_status
    except MegaphoneError as error:
        errors.print(f"demo failed: {error}", style="red", soft_wrap=True)
        return error.exit_status


def _demonstrated(options: Options) -> int:
    report.clear(options.report_dir)
    logs = options.report_dir / "logs"
    logs.mkdir(exist_ok=True)
    clock = SystemClock()
    with ExitStack() as stack:
        view = open_view(clock, sys.stdout)
        stack.callback(view.close)
        view.show(Picture(stage=Stage.BROKER, detail="looking for a Kafka"), now=True)
        broker = stack.enter_context(open_broker())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="megaphone-demo-")))
        children = Children(logs)
        stack.callback(children.close)
        lookout = Lookout(broker, children, view, clock, options.seconds)
        names = Names(secrets.token_hex(4))
        outcome = Run(options, names, broker.bootstrap_servers, children, lookout, folder).run()
        lookout.enter(Stage.REPORT)
        summary = summarised(options, names, outcome, _version_of(broker))
        report.write(options.report_dir, summary, outcome.measured.windows())
        lookout.tell(1.0, str(options.report_dir / report.PAGE))
    report.print_closing(Console(highlight=False), summary, options.report_dir)
    return 0 if summary["results_exact"] else 1


def _version_of(broker: Broker) -> str:
    return "as found" if isinstance(broker, NamedBroker) else KAFKA_VERSION


@contextmanager
def _interruptible() -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into `_Interrupted`, and let the cleaning up end."""
    numbers = (signal.SIGINT, signal.SIGTERM)

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise _Interrupted

    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before):
            signal.signal(number, handler)
