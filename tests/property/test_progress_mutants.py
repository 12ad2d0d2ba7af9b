"""The simulator must be able to fail: protocols with one rule broken, each caught by some seeds.

Beside each stands a protocol without the fault that passes the very seeds at which it was caught,
so that what is caught is the fault and nothing the mutant brings along. docs/CORRECTNESS.md lists
them. What this cannot show: that every wrong protocol is caught.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from service.dataflow.progress.broadcast import ProgressSender
from service.dataflow.progress.errors import ProgressError
from tests.property import progress_mutants as broken
from tests.property.progress_elastic import Elastic

#: Seeds of which some must catch a mutant.
SEEDS = 120


class Mutant(NamedTuple):
    """A broken protocol, what must be said of it, and a sound one to compare it with."""

    cluster: type[Elastic] = Elastic
    sender: type[ProgressSender] = ProgressSender
    #: In the message of whatever ends the run.
    said: str = ""
    control: type[Elastic] = Elastic
    control_sender: type[ProgressSender] = ProgressSender
    #: Seeds that must catch it.
    enough: int = 3


UNSAFE = "past"

MUTANTS = {
    "a decrease is lost": Mutant(sender=broken.ForgettingSender),
    "an increase is lost": Mutant(sender=broken.ForgettingIncreases),
    "an action is split": Mutant(
        sender=broken.SplittingSender, said=UNSAFE, control_sender=broken.EagerSender
    ),
    "batches overtake one another": Mutant(
        broken.Overtaking,
        broken.EagerSender,
        said=UNSAFE,
        control=broken.Unnumbered,
        control_sender=broken.EagerSender,
    ),
    "batches overtake one another and numbers are looked at": Mutant(
        broken.OvertakingAndNoticed, said="progress was lost or repeated"
    ),
    "the rule as printed decides when to speak": Mutant(sender=broken.PrintedRuleSender),
    "counters are compared component by component": Mutant(
        broken.ComponentWiseCluster, said=UNSAFE, control=broken.TwoLoops
    ),
    "one summary per pair is kept and counters compared component by component": Mutant(
        broken.ComponentWisePairs, said=UNSAFE, control=broken.Pairs, enough=1
    ),
    "a newcomer is given per-peer sums": Mutant(broken.GivenSums, control=broken.GivenSumsOfAll),
    "a newcomer takes any view": Mutant(broken.HastyNewcomers),
    "a newcomer forgets who left before it could ask": Mutant(
        broken.NewcomersThatForgetWhoLeft, control=broken.Replacing
    ),
    "a newcomer's right was not counted before": Mutant(broken.Ungranted, said=UNSAFE),
    "a newcomer's right is no later than its granter's": Mutant(
        broken.GrantedTooEarly, said=UNSAFE
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_protocol_in_which_something_is_wrong_is_caught(name: str) -> None:
    mutant = MUTANTS[name]
    caught = []
    for seed in range(SEEDS):
        try:
            mutant.cluster(seed, mutant.sender).run()
        except (AssertionError, ProgressError) as error:
            if mutant.said in str(error):
                caught.append(seed)
        if len(caught) == mutant.enough:
            break
    assert len(caught) == mutant.enough, f"{name}: only seeds {caught} of {SEEDS} noticed"
    for seed in caught:
        mutant.control(seed, mutant.control_sender).run()


def test_the_rule_as_printed_never_speaks() -> None:
    """Processes give up their source: each sees the others' capabilities, so all are silent."""
    for seed in range(20):
        cluster = Elastic(seed, broken.PrintedRuleSender)
        cluster.joins_left = 0
        cluster.drain()
        assert cluster.batches_sent == len(cluster.gone)
        cluster.truth.propagate()
        assert cluster.truth.is_empty
        assert not any(process.tracker.is_empty for process in cluster.present())
