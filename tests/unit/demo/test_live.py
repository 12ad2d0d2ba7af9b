"""What a person sees, as text."""

from __future__ import annotations

import io

from rich.console import Console

from demo.live import (
    Latency,
    LineView,
    Picture,
    PlanView,
    Second,
    Stage,
    TerminalView,
    drawn,
    line_of,
    open_view,
    sparkline,
)

BUSY = Picture(
    stage=Stage.STREAM,
    detail="12.4 of 30 s",
    done=0.41,
    published=(1_234_567, 50_012.0),
    processed=(1_230_000, 49_998.0),
    lag=312,
    latency=Latency(6.1, 14.2, 21.0),
    seconds=[Second(5.0, moving=False), Second(None, moving=False), Second(900.0, moving=True)],
    bins=[384, 640],
    plan=PlanView("out", "running", 7, 16, 112, 256),
)


class HandClock:
    """A clock that stands still until it is told."""

    now_ns = 0

    def wall_us(self):
        return self.now_ns // 1000

    def monotonic_ns(self):
        return self.now_ns


def text_of(picture):
    console = Console(file=io.StringIO(), width=120, force_terminal=False)
    console.print(drawn(picture))
    return console.file.getvalue()


def test_the_picture_shows_the_numbers_that_matter():
    text = text_of(BUSY)
    for part in (
        "50,012 events/s",
        "1,234,567 events",
        "lag 312",
        "p50 6.1 ms",
        "p99 14.2 ms",
        "max 21.0 ms",
        "384 bins",
        "640 bins",
        "out running",
        "7 of 16 waves, 112 of 256 bins",
        "12.4 of 30 s",
        "✓ state",
        "● stream",
        "· proof",
    ):
        assert part in text, part


def test_every_stage_can_be_drawn_with_nothing_known():
    for stage in Stage:
        assert f"● {stage}" in text_of(Picture(stage=stage))
        assert line_of(Picture(stage=stage)).startswith(stage)


def test_longer_latencies_have_taller_bars():
    bars = sparkline([Second(p99, moving=False) for p99 in (0.5, 2, 20, 200, 5_000)]).plain
    assert list(bars[:5]) == sorted(bars[:5])
    assert bars[0] == "▁"
    assert bars[4] == "█"


def test_the_line_has_the_numbers_too():
    line = line_of(BUSY)
    for part in ("41%", "1,234,567", "lag 312", "p99 14.2", "384/640", "out running 7/16"):
        assert part in line, part


def test_lines_come_once_a_second_or_with_a_new_stage():
    clock, stream = HandClock(), io.StringIO()
    view = LineView(stream, clock)
    for tenth in range(31):
        clock.now_ns = tenth * 100_000_000
        view.show(Picture(stage=Stage.STREAM, detail=f"{tenth}"))
    assert len(stream.getvalue().splitlines()) == 4
    view.show(Picture(stage=Stage.DRAIN))
    view.show(Picture(stage=Stage.DRAIN), now=True)
    assert stream.getvalue().splitlines()[4:] == [line_of(Picture(stage=Stage.DRAIN))]


def test_a_terminal_is_drawn_three_times_a_second():
    clock = HandClock()
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    view = TerminalView(console, clock)
    for hundredth in range(100):
        clock.now_ns = hundredth * 10_000_000
        view.show(BUSY)
    view.close()
    assert 3 <= console.file.getvalue().count("● stream") <= 5


def test_what_is_no_terminal_gets_lines():
    assert isinstance(open_view(HandClock(), io.StringIO()), LineView)
