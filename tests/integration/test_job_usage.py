"""A job that cannot start ends with status 2 and one sentence that says what to do.

Cannot catch: what goes wrong once it runs (test_job_failures).
"""

from __future__ import annotations

import pytest

from loadgen.broker import ensure_topic
from tests.integration.bids import topics
from tests.integration.job import Job


@pytest.mark.parametrize("missing", ["events", "auction-bids"])
def test_a_topic_that_is_missing_is_named(
    bootstrap_servers, app_name, unique_name, tmp_path, missing
):
    prefix = unique_name("t")
    for name in {"events", "auction-bids"} - {missing}:
        ensure_topic(bootstrap_servers, f"{prefix}-{name}", 1)
    arguments = ["--topic-prefix", prefix]
    with Job(bootstrap_servers, app_name, tmp_path, gateways=2, arguments=arguments) as job:
        job.finish(2)
        sentences = {str(line["message"]) for line in job.lines("process.failed")}
    assert any(f"'{prefix}-{missing}'" in each and "create it" in each for each in sentences)


def test_a_schema_folder_that_is_missing_is_named(
    bootstrap_servers, app_name, unique_name, tmp_path
):
    names = topics(bootstrap_servers, unique_name("t"))
    folder = str(tmp_path / "no-such-folder")
    arguments = ["--topic-prefix", names[0].removesuffix("-events"), "--registry", folder]
    with Job(bootstrap_servers, app_name, tmp_path, arguments=arguments) as job:
        job.finish(2)
        sentences = {str(line["message"]) for line in job.lines("process.failed")}
    assert any(folder in each for each in sentences)


@pytest.mark.parametrize(
    ("target", "arguments", "told"),
    [
        ("tests.integration.no_such:flow", [], "tests.integration.no_such"),
        ("tests.integration.flows:no_such", [], "'no_such'"),
        ("nexmark:no_such", [], "auction_bids"),
        ("flow", [], "write module:flow"),
        ("nexmark:auction_bids", ["--bins", "48"], "power of two"),
    ],
)
def test_what_the_command_line_asks_for_in_vain_is_told_at_once(
    bootstrap_servers, app_name, tmp_path, target, arguments, told
):
    with Job(bootstrap_servers, app_name, tmp_path, target, arguments=arguments) as job:
        job.finish(2)
        (line,) = job.lines(level="error")
    assert told in str(line["message"])
