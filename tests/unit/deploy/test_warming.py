"""What the image compiles at its build: that queries run and codecs are found.

Cannot catch: what is left to compile at a start; the process that tests has compiled it itself.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from service import warming
from service.ingest.registry import FolderRegistry
from service.nexmark import queries
from service.nexmark.queries import built_in
from service.nexmark.query_topics import QueryTopics

SCHEMAS = FolderRegistry(Path(queries.__file__).parent / "schemas")


@pytest.mark.parametrize("query", ["auction_bids", "q1", "q4", "q8"])
def test_a_query_gives_rows_while_its_state_moves_and_is_kept(query):
    assert warming.run(built_in(query, QueryTopics(out_of_orderness="1s"))) > 0


@pytest.mark.parametrize(("form", "topics"), warming.FORMS)
@pytest.mark.parametrize(("query", "ends"), [("auction_bids", 2), ("q3", 3)])
def test_codecs_of_every_form_are_made_for_every_end_of_a_flow(form, topics, query, ends):
    flow = built_in(query, QueryTopics(format=form, event_topics=topics))
    assert warming.warm_codecs(flow, SCHEMAS) == ends
