"""Whether the counts of a run are exact.

Flow: results of the workers -> [validate] -> problems, none if all is well. Pure.

Every run compares how many records were counted, how many keys there are, and the weight of what
was sent with the weight of what is held (WK3). `--validate` draws the whole stream again and
compares the count of every key; it is for domains that fit a list.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from service.bench.words.keys import KeySpace
from service.bench.words.messages import Result
from service.bench.words.options import WordOptions

_WORD = (1 << 64) - 1
#: Records drawn at once.
_BLOCK = 1 << 20


def validate(options: WordOptions, results: Sequence[Result]) -> Iterator[str]:
    """What is wrong with the counts; nothing if they are exact."""
    sent = options.domain + sum(result.records for result in results)
    counted = sum(result.counted for result in results)
    if counted != sent:
        yield f"{sent:,} records were sent, {counted:,} counted"
    rows = sum(result.rows for result in results)
    if rows != options.domain:
        yield f"{rows:,} keys are held of {options.domain:,}"
    weights = [sum(getattr(result, name) for result in results) & _WORD for name in _WEIGHTS]
    if weights[0] != weights[1]:
        yield "some records were counted under other keys than they were sent for"
    if options.validate:
        yield from _compare(options, results)


_WEIGHTS = ("weight_sent", "weight_held")


def _compare(options: WordOptions, results: Sequence[Result]) -> Iterator[str]:
    """The count of every key beside the stream, drawn again."""
    expected = np.ones(options.domain, dtype=np.int64)
    keys = KeySpace(options.domain, None)
    for worker, result in enumerate(results):
        for first in range(0, result.records, _BLOCK):
            drawn = keys.draw(worker, first, min(_BLOCK, result.records - first))
            expected += np.bincount(drawn, minlength=options.domain)
    found = np.zeros(options.domain, dtype=np.int64)
    for result in results:
        assert result.table is not None, "tables were asked for"
        np.add.at(found, *result.table)
    wrong = np.flatnonzero(found != expected)
    if len(wrong):
        key = int(wrong[0])
        yield (
            f"{len(wrong):,} keys have another count than their records; "
            f"key {key}: {found[key]:,} counted of {expected[key]:,}"
        )
