"""Where queries read and write, and what they are called.

Claims: NQ1, NQ2.
"""

from __future__ import annotations

import pytest

from service.dataflow.vertices import SinkVertex, SourceVertex
from service.errors import UsageError
from service.nexmark.forms import Format, Topics
from service.nexmark.queries import BUILT_IN, built_in
from service.nexmark.query_topics import QueryTopics
from service.nexmark.rules import RULES


@pytest.mark.parametrize("name", sorted(set(BUILT_IN) & set(RULES)))
def test_a_query_reads_the_topics_of_its_types_and_writes_its_columns(name):
    flow = built_in(name, QueryTopics("p"))
    sources = [each for each in flow.vertices if isinstance(each, SourceVertex)]
    read = {topic for each in sources for topic in each.connector.topics}
    assert read == {f"p-{kind}" for kind in RULES[name].inputs}
    (sink,) = (each for each in flow.vertices if isinstance(each, SinkVertex))
    assert flow._columns[sink.upstream] == RULES[name].columns
    assert sink.connector.topic == f"p-{name}"
    assert sink.connector.key == (RULES[name].upsert or sink.connector.key)


def test_topic_of_all_events_and_output_can_be_told():
    flow = built_in("q1", QueryTopics("p", "results", Topics.COMBINED))
    assert flow.vertices[0].connector.topics == ["p-events"]
    assert flow.vertices[-1].connector.topic == "results"
    assert built_in("auction_bids", QueryTopics("p")).vertices[0].connector.topics == ["p-events"]


def test_an_unknown_query_is_told_which_there_are():
    with pytest.raises(UsageError, match="no NEXMark query 'q99'; there are: auction_bids, q0"):
        built_in("q99", QueryTopics())


def test_form_and_layout_of_events_are_those_of_the_sources_and_the_sink():
    flow = built_in("q1", QueryTopics("p", None, Topics.TAGGED, Format.JSON))
    source = flow.vertices[0].connector
    assert (source.topics, source.record, source.inside) == (["p-events"], "event", "bid")
    assert (source.format, source.times) == ("json", ["date_time"])
    assert flow.vertices[-1].connector.format == "json"
    with pytest.raises(UsageError, match="JSON records in one topic"):
        QueryTopics("p", None, Topics.COMBINED, Format.JSON)
