"""The operators at a loop's border; all they do to time is in their declared path summaries.

Flow: outer stream -> enter -> head <- [FeedbackOperator] <- body -> leave -> outer stream. Entering
appends a counter at zero, going round adds one to it, leaving drops it: entering and leaving are
`ConcatOperator`s of one input, as an output port already sends at the time its path leads to.

Invariants
  LP1  A batch goes round at most as often as the loop allows; one that would go on is dropped with
       its pointstamp, so a loop with a bound always drains.
  LP2  Feedback never waits for room (G4 of the graph); it sends before it takes more.
Source: Murray et al., "Naiad", SOSP 2013, section 2.1; its released feedback has the same bound.
"""

from __future__ import annotations

from service.dataflow.operator import OperatorContext


class FeedbackOperator:
    """Sends the batches of a loop's body round again."""

    def __init__(self, rounds_max: int | None) -> None:
        """Let a batch through the body `rounds_max` times in all; None: as often as it likes."""
        self._rounds_max = rounds_max

    def open(self, context: OperatorContext) -> None:
        """Take the ports."""
        (self._input,) = context.inputs
        (self._output,) = context.outputs

    def step(self) -> None:
        """Send on what is queued while the head has room (LP2)."""
        while self._output.ready() and (message := self._input.pull()) is not None:
            # The counter is how often the body has had the batch before this time.
            if self._rounds_max is None or message.time[-1] + 1 < self._rounds_max:
                self._output.forward(0, message, message.payload)
