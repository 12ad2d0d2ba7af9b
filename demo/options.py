"""What a run of the demo is asked to do: its options, checked, and the names it derives.

Flow: command line -> [parse] -> Options -> run. Pure but for argparse's own printing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from service.errors import UsageError
from service.hashing import bin_bits_of

#: A plan has at least this many waves, if it has as many bins. Rows of a wave's bins wait for them:
#: of a quarter of all bins each wave then holds 0.4 % back, and 99 of 100 rows notice nothing.
WAVES_MIN = 64
#: Two migrations and a quiet second around each.
_SECONDS_MIN = 9.0
_BINS_MIN = 4
_WORKERS_MAX = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """One run.

    Attributes:
        seconds: length of the stream; the load before it and the proof after it come on top.
        rate: events per second.
        state_keys: auctions loaded before the stream.
        warm_up: seconds at the same rate between the two, proved like the rest but not measured.
        workers: worker processes, at least two.
        gateways: gateway processes.
        bins: bins of state, a power of two.
        report_dir: where the report goes; also the logs and the job's checkpoint.
        seed: of the generator.

    Raises:
        UsageError: a value that cannot work, named.
    """

    seconds: float = 30.0
    rate: int = 50_000
    state_keys: int = 2_000_000
    warm_up: float = 15.0
    workers: int = 2
    gateways: int = 1
    bins: int = 1024
    report_dir: Path = Path("demo-report")
    seed: int = 0

    def __post_init__(self) -> None:
        """Check each value against its range."""
        bin_bits_of(self.bins)
        for name, value, least, most in (
            ("--seconds", self.seconds, _SECONDS_MIN, 86_400),
            ("--rate", self.rate, 100, 10_000_000),
            ("--state-keys", self.state_keys, 1, 1 << 30),
            ("--warm-up", self.warm_up, 0, 86_400),
            ("--workers", self.workers, 2, _WORKERS_MAX),
            ("--gateways", self.gateways, 1, _WORKERS_MAX),
            ("--bins", self.bins, _BINS_MIN, 1 << 20),
            ("--seed", self.seed, 0, (1 << 63) - 1),
        ):
            if not least <= value <= most:
                raise UsageError(f"{name} {value:g}: must be from {least:g} to {most:g}")


@dataclass(frozen=True, slots=True)
class Names:
    """Topics and application of one run; `run_id` makes them nobody else's."""

    run_id: str

    @property
    def app(self) -> str:
        """Name of the job, prefix of its own topics."""
        return f"demo-{self.run_id}"

    @property
    def prefix(self) -> str:
        """What the job is given as `--topic-prefix`."""
        return self.app

    @property
    def events(self) -> str:
        """Input topic."""
        return f"{self.prefix}-events"

    @property
    def results(self) -> str:
        """Output topic."""
        return f"{self.app}-auction-bids"


def parse(arguments: Sequence[str] | None = None) -> Options:
    """Options of a command line; `--help` and mistakes end the process as argparse does (2).

    Raises:
        UsageError: a value that cannot work.
    """
    default = Options()
    parser = argparse.ArgumentParser(
        prog="make demo",
        description="NEXMark on a real Kafka: keyed state moves between live workers, and every "
        "result is proved.",
        epilog='Through make: make demo ARGS="--seconds 60 --rate 100000".',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--seconds", type=float, default=default.seconds, help="length of the stream")
    add("--rate", type=int, default=default.rate, help="events per second")
    add("--state-keys", type=int, default=default.state_keys, help="auctions loaded before it")
    add("--warm-up", type=float, default=default.warm_up, help="seconds of stream before the clock")
    add("--workers", type=int, default=default.workers, help="worker processes")
    add("--gateways", type=int, default=default.gateways, help="gateway processes")
    add("--bins", type=int, default=default.bins, help="bins of state, a power of two")
    add("--report-dir", type=Path, default=default.report_dir, help="where the report goes")
    add("--seed", type=int, default=default.seed, help="of the generator")
    return Options(**vars(parser.parse_args(arguments)))


def bins_to_move(owners: Sequence[int]) -> list[int]:
    """A quarter of all bins, or as many of them as worker 0 owns: spread over what it owns.

    Args:
        owners: worker of each bin.

    Returns:
        Bin numbers, ascending.
    """
    mine = [bin_ for bin_, worker in enumerate(owners) if worker == 0]
    wanted = max(1, len(owners) // 4)
    if len(mine) <= wanted:
        return mine
    return [mine[place * len(mine) // wanted] for place in range(wanted)]


def bins_per_wave(bins: int) -> int:
    """The largest wave of which a plan over `bins` bins has at least WAVES_MIN, if it can."""
    return max(1, bins // WAVES_MIN)
