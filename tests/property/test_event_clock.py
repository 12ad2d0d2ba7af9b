"""W(e) is the greatest, over the epochs up to e, of the least of the newest words: EC1 to EC3.

Cannot catch: words that come after their epoch was gone through; S sees to that (TH1).
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from service.migration.event_clock import EventClock, Word, lowered
from service.statestore.timed import ALL, NEVER

PEERS, SOURCES = 3, (4, 9)

words = st.builds(
    Word,
    st.sampled_from(SOURCES),
    st.integers(0, PEERS - 1),
    st.one_of(st.none(), st.integers(-50, 50), st.just(ALL)),
)
said = st.lists(st.tuples(st.integers(1, 30), words), max_size=40)


def expected(told: list[tuple[int, Word]], epoch: int, begin: int) -> int:
    """W(e) as the design says it, from scratch."""
    best = begin
    for at in range(1, epoch + 1):
        newest = {(source, peer): NEVER for source in SOURCES for peer in range(PEERS)}
        known: dict[tuple[int, int], int | None] = dict(newest)
        for when, word in sorted(told, key=lambda each: each[0]):
            if when <= at:
                known[word.source, word.peer] = word.watermark
        live = [value for value in known.values() if value is not None]
        best = max(best, min(live, default=best))
    return best


@given(said, st.sets(st.integers(1, 30), min_size=1), st.sampled_from([NEVER, 7]))
def test_w_is_what_the_design_says(
    told: list[tuple[int, Word]], visited: set[int], begin: int
) -> None:
    # Every epoch with a word is gone through, and some without.
    clock = EventClock(PEERS, SOURCES, begin)
    for when, word in sorted(told, key=lambda each: each[0], reverse=True):
        clock.hear(when, word)
    # Words of one epoch from one process about one source: the last counts, as they come in order.
    told = [(when, word) for when, word in sorted(told, key=lambda each: each[0], reverse=True)]
    before = begin
    for epoch in sorted(visited | {when for when, _ in told}):
        was, now = clock.advance(epoch)
        assert was == before
        assert now == expected(told, epoch, begin) >= was
        before = now


@given(words)
def test_a_word_travels_as_it_is(word: Word) -> None:
    assert Word.decoded(word.encoded()) == word


def test_a_cut_keeps_the_watermark_of_the_epoch_before_it_and_no_end() -> None:
    clock = EventClock(1, [0])
    clock.mark(10)
    clock.mark(20)
    for epoch, watermark in ((9, 5), (10, 6), (19, ALL)):
        clock.hear(epoch, Word(0, 0, watermark))
        clock.advance(epoch)
    assert (clock.at(10), clock.at(20)) == (5, 6)
    assert clock.watermark == ALL
    clock.forget(10)
    assert clock.at(20) == 6


def test_a_delay_lowers_a_watermark_and_leaves_the_ends() -> None:
    assert [lowered(each, 10) for each in (NEVER, NEVER + 3, 7, ALL)] == [NEVER, NEVER, -3, ALL]
