"""When a gateway reads and closes an epoch: soon after a record came, and less often under load.

Flow: the clock, "a record came", "the last ticks are not taken yet" -> [Pace] -> process: read,
tick, wait until. Pure: the clock is given.

What an epoch costs every process hardly depends on its rows: it is a batch to decode, to route, to
apply and to write, and a broadcast of progress. Processes that have no time left get fewer epochs
with more rows each, and find time by that; those that have get one as soon as it makes sense.

Invariants
  PA1  A first record is read `tick` after it came, with those that came meanwhile.
  PA2  While ticks before the last are not taken by all who are to take them (*crowded*), the next
       reading waits, until `busy_tick` after the last one.
  PA3  Whatever is crowded, an epoch that something waits for is closed `busy_tick` after the one
       before, and where nothing comes `idle_tick` after it.
"""

from __future__ import annotations

from collections.abc import Callable

from service.config import GatewayConfig

#: Between two looks whether what was crowded still is.
_LOOK_AGAIN_NS = 1_000_000


class Pace:
    """The times at which one gateway reads and ticks; all of them in ns of one monotonic clock."""

    def __init__(self, config: GatewayConfig, *, woken: bool) -> None:
        """Nothing was read.

        Args:
            config: how long to wait for what.
            woken: whether `record_came` is told; if not, readings look for records themselves.
        """
        self._tick = int(config.tick_ms * 1e6)
        self._idle = int(config.idle_tick_ms * 1e6)
        self._busy = int(config.busy_tick_ms * 1e6)
        self._woken = woken
        self._last_read = self._next_tick = 0
        #: When the next reading is due, unless a record comes before (PA1).
        self.next_read = 0
        #: Whether a record has come since the last reading.
        self.record_came = False

    def begin(self, now: int) -> None:
        """Read and tick at once."""
        self.next_read = self._next_tick = now
        self._last_read = now - self._busy

    def reads(self, now: int, crowded: Callable[[], bool]) -> bool:
        """Whether to read now; `crowded` is asked only where it decides (PA2)."""
        if now < self.next_read:
            return False
        latest = self._last_read + self._busy
        if now < latest and crowded():
            self.next_read = min(now + _LOOK_AGAIN_NS, latest)
            return False
        return True

    def has_read(self, now: int, *, full: bool, busy: bool) -> bool:
        """Note a reading; whether it closes an epoch (PA3).

        Args:
            now: when it began.
            full: whether there was as much as a reading takes, so that more may be there.
            busy: whether rows, or others, wait for this gateway's epochs.
        """
        ticks = busy or now >= self._next_tick
        if ticks:
            self._next_tick = now + self._idle
        # Until a record comes there is nothing to read, but the ticks of a cut go on.
        wait = self._tick if busy or not self._woken else self._idle
        self.next_read = now if full else now + wait
        self._last_read = now
        self.record_came = False
        return ticks

    def came(self, now: int) -> None:
        """A record came (PA1)."""
        self.record_came = True
        self.next_read = min(self.next_read, now + self._tick)
