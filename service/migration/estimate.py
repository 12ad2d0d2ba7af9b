"""What a plan would take: the answer to a dry run.

Flow: Plan, sizes of bins, measured rate of transfer -> [estimate] -> status of the request. Pure.

A wave takes what an empty one takes plus its busiest worker's bytes at the measured rate; cuts
follow one another as the pacer would let them at best. Rows of a moved bin wait at most from the
cut to the wave's completion. It knows nothing of how busy the workers are with rows meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.migration.pacing import Pacing, TransferRate
from service.migration.plan import Plan


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a plan is thought to take."""

    bytes: int
    #: From the first cut to the last completion.
    duration_us: int
    #: From a cut to the completion of its wave, at most.
    longest_wait_us: int


def estimate(plan: Plan, sizes: NDArray[np.int64], rate: TransferRate, pacing: Pacing) -> Estimate:
    """Estimate a plan that was made with sizes. Cost: O(moves)."""
    if not plan.waves:
        return Estimate(0, 0, 0)
    cut = ends = longest = 0
    for place in range(len(plan.waves)):
        size = plan.sizes[place] if plan.sizes else 0
        if plan.after_us:
            cut = max(cut, plan.after_us[place])
        wave_us = rate.wave_us(size)
        longest = max(longest, wave_us)
        ends = max(ends, cut + wave_us)
        cut += min(max(rate.work_us(size), pacing.spacing_us_min), pacing.spacing_us_max)
    moved = sum(int(sizes[bin_]) for bin_, _ in plan.moved)
    return Estimate(moved, ends, longest)
