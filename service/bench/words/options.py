"""What one word-count run is: the original's parameters, and a few of ours.

Flow: command line -> [WordOptions] -> every process of the run. Pure values.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from service.errors import UsageError
from service.hashing import bin_bits_of

#: Rate that means: as fast as it goes.
MAX = 0
_NS = 1_000_000_000
#: Keys are drawn from 32 random bits.
DOMAIN_MAX = 1 << 31


class Backend(StrEnum):
    """Where counts are kept, and whether in bins."""

    HASH = "hash"
    VEC = "vec"
    HASH_NATIVE = "hash-native"
    VEC_NATIVE = "vec-native"

    @property
    def native(self) -> bool:
        """Whether there are neither bins nor F: one table a worker."""
        return self in (Backend.HASH_NATIVE, Backend.VEC_NATIVE)

    @property
    def dense(self) -> bool:
        """Whether keys are places in an array."""
        return self in (Backend.VEC, Backend.VEC_NATIVE)

    @property
    def twin(self) -> Backend:
        """The same kernels without bins."""
        return Backend.VEC_NATIVE if self.dense else Backend.HASH_NATIVE

    @property
    def original(self) -> str:
        """What the original's output calls it."""
        return {
            Backend.HASH: "HashMap",
            Backend.VEC: "Vector",
            Backend.HASH_NATIVE: "HashMapNative",
            Backend.VEC_NATIVE: "VectorNative",
        }[self]


@dataclass(frozen=True, slots=True)
class WordOptions:
    """One run."""

    backend: Backend = Backend.HASH
    #: Records a second of each worker; `MAX`: as many as go.
    rate: int = 1_000_000
    duration_s: float = 60.0
    #: none, a strategy, or the path of a plan.
    migration: str = "none"
    domain: int = 1_000_000
    bins: int = 1024
    workers: int = 2
    #: Rows in a batch at most; while loading and at full speed, all have as many.
    batch: int = 1 << 17
    #: Least time between two ticks of an open loop.
    tick_us: int = 1_000
    #: Bins of a wave where the strategy is `batched`; 0: the service's own choice.
    wave_bins: int = 0
    #: Copy bins before they move, so that only what changed since goes at the cut.
    precopy: bool = False
    #: Compare the count of every key with the stream drawn again; for small domains.
    validate: bool = False
    #: Seconds for which the fold is measured alone before the run; 0: not at all.
    bare_s: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what no run can do.

        Raises:
            UsageError: a parameter is out of range, or contradicts another.
        """
        if not 1 <= self.domain <= DOMAIN_MAX:
            raise UsageError(f"--domain {self.domain}: must be from 1 to {DOMAIN_MAX:,}")
        if self.workers < 1:
            raise UsageError(f"--workers {self.workers}: must be 1 or more")
        if self.duration_s < 1:
            raise UsageError(f"--duration {self.duration_s:g}: must be a second or more")
        if self.rate < 0 or self.rate > _NS:
            raise UsageError(f"--rate {self.rate}: must be 'max', or from 1 to 1,000,000,000")
        if self.backend.native and self.migration != "none":
            raise UsageError(
                f"--backend {self.backend} has no bins that could move; leave --migration out"
            )
        bin_bits_of(self.bins)

    @property
    def bin_bits(self) -> int:
        """Top bits of a key's hash that name its bin."""
        return bin_bits_of(self.bins)

    @property
    def open_loop(self) -> bool:
        """Whether records are due at given times, whatever the system does."""
        return self.rate != MAX

    @property
    def duration_ns(self) -> int:
        """How long records are due."""
        return int(self.duration_s * _NS)

    @property
    def skip_ns(self) -> int:
        """What does not count at the beginning and at the end: 2 s, less in a short run."""
        return min(2 * _NS, self.duration_ns // 5)


def rate_of(text: str) -> int:
    """The rate a command line names.

    Raises:
        UsageError: neither `max` nor a positive number.
    """
    if text == "max":
        return MAX
    try:
        rate = int(text.replace("_", "").replace(",", ""))
    except ValueError:
        rate = 0
    if rate < 1:
        raise UsageError(f"--rate {text}: must be 'max' or records per second and worker")
    return rate
