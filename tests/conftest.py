"""What every test may ask for: a real Kafka, names nobody else uses, and one set of rules.

Invariants
  T1  A missing broker is a failure, never a skip; in CI no test at all may skip.
  T2  In CI Hypothesis draws the same examples every time.
  T3  Workers of pytest-xdist share the one Kafka: the process that starts them has started it.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from service.broker.kinds import Broker
from service.broker.lookup import NamedBroker, open_broker

IN_CI = os.environ.get("CI", "").lower() in {"1", "true"}

# No deadlines: two cores are shared with a broker, and a stall is not a wrong answer.
_COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("dev", _COMMON, max_examples=50)
settings.register_profile("ci", _COMMON, max_examples=100, derandomize=True, print_blob=True)
settings.register_profile("nightly", _COMMON, max_examples=5_000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if IN_CI else "dev"))


#: Where workers find the address of the Kafka that they share (T3).
SHARED = "MEGAPHONE_TESTS_BROKER"
_INTEGRATION = Path(__file__).parent / "integration"


def pytest_configure(config: pytest.Config) -> None:
    """Start the Kafka of all workers, if there are workers and tests that ask for it (T3)."""
    is_worker = hasattr(config, "workerinput")
    if is_worker or not config.getoption("numprocesses", 0) or not _asks_for_broker(config.args):
        return
    stack = ExitStack()
    config.add_cleanup(stack.close)
    os.environ[SHARED] = stack.enter_context(open_broker()).bootstrap_servers


def _asks_for_broker(arguments: list[str]) -> bool:
    """Whether tests with real processes are among what the command line names."""
    paths = [Path(each.partition("::")[0]).absolute() for each in arguments]
    return any(_INTEGRATION.is_relative_to(path) or _INTEGRATION in path.parents for path in paths)


@pytest.fixture(scope="session")
def broker() -> Iterator[Broker]:
    """The one Kafka of the whole run, found as `service/broker/lookup.py` says (T1)."""
    shared = os.environ.get(SHARED)
    if shared is not None:
        yield NamedBroker(shared)
        return
    with open_broker() as found:
        yield found


@pytest.fixture
def bootstrap_servers(broker: Broker) -> str:
    """The address of that Kafka."""
    return broker.bootstrap_servers


@pytest.fixture
def unique_name(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Gives topic and application names of this test only; equal prefixes give different names.

    The name is the prefix, the test's name and a random part: a broker may outlive a run and be
    shared with another.
    """
    test = "".join(letter if letter.isalnum() else "-" for letter in request.node.name)[:60]

    def name(prefix: str) -> str:
        return f"{prefix}-{test}-{uuid.uuid4().hex[:8]}"

    return name


@pytest.fixture
def topic_name(unique_name: Callable[[str], str]) -> str:
    """One such name; no topic of that name exists yet."""
    return unique_name("topic")


@pytest.fixture
def app_name(unique_name: Callable[[str], str]) -> str:
    """One such name, for an application and the topics it derives from it."""
    return unique_name("app")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure in CI (T1)."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where nothing may skip: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a whole module that skips while it is imported."""
    report = yield
    if IN_CI and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where nothing may skip: {report.longrepr}"
    return report
