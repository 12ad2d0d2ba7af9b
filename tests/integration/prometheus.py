"""A real Prometheus for tests: Debian's binary, the product's rules, the processes of jobs.

Flow: addresses -> [Prometheus], which scrapes them -> answers to PromQL.

Invariants
  PT1  It is fetched where it is missing (.ci/prometheus); without it the tests fail.
  PT2  No process outlives `close`.
"""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy" / "prometheus"
_START_S = 30.0
_HTTP_S = 5.0
_PAUSE_S = 0.1


@cache
def binary(name: str) -> Path:
    """`prometheus` or `promtool` (PT1)."""
    found = subprocess.run(
        [ROOT / ".ci" / "prometheus"], capture_output=True, text=True, timeout=300, check=False
    )
    assert found.returncode == 0, found.stderr
    return Path(found.stdout.strip()) / name


def promtool(*arguments: str | Path, given: str = "") -> subprocess.CompletedProcess[str]:
    """Run promtool beside the rules, with `given` as its input."""
    return subprocess.run(
        [binary("promtool"), *arguments],
        cwd=DEPLOY,
        input=given,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


class Prometheus:
    """One server; use it in a `with` statement (PT2)."""

    def __init__(self, folder: Path, targets: Sequence[str], every: str = "500ms") -> None:
        """Start to scrape `targets` and to evaluate the product's rules."""
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "prometheus.yml"
        config.write_text(
            json.dumps(
                {
                    "global": {"scrape_interval": every, "evaluation_interval": "1s"},
                    "rule_files": [str(DEPLOY / "alerts.yml")],
                    "scrape_configs": [
                        {
                            "job_name": "megaphone",
                            "scrape_timeout": every,
                            "static_configs": [{"targets": list(targets)}],
                        }
                    ],
                }
            ),
            encoding="utf-8",
        )
        self._log = (folder / "log").open("w+", encoding="utf-8")
        self.address = f"127.0.0.1:{_free_port()}"
        self._process = subprocess.Popen(
            [
                binary("prometheus"),
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={self.address}",
                "--log.level=warn",
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        self.await_(self._is_ready, "an answer of Prometheus", _START_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        if error is not None:
            self._log.seek(0)
            error.add_note(f"Prometheus said:\n{self._log.read()[-4_000:]}")
        self._log.close()

    def get(self, path: str, **parameters: object) -> Any:
        """`data` of an answer of its HTTP interface."""
        query = urllib.parse.urlencode(parameters)
        try:
            with self._open(f"{path}?{query}") as stream:
                answer = json.load(stream)
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{query}: {error.read().decode()}") from error
        assert answer["status"] == "success", answer
        return answer["data"]

    def values(self, query: str, since: float) -> list[float]:
        """Every number that a query gave from `since` (Unix time) until now, those that are one."""
        return [value for _, values in self.series(query, since) for value in values]

    def series(self, query: str, since: float) -> list[tuple[dict[str, str], list[float]]]:
        """The same, by series and its labels."""
        data = self.get(
            "/api/v1/query_range", query=query, start=since, end=time.time(), step="0.5"
        )
        found = [
            (each["metric"], [float(value) for _, value in each["values"]])
            for each in data["result"]
        ]
        return [(labels, [value for value in said if value == value]) for labels, said in found]

    def await_(self, holds: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Wait until something holds."""
        deadline = time.monotonic() + timeout_s
        while not holds():
            assert self._process.poll() is None, f"Prometheus ended before {what}"
            assert time.monotonic() < deadline, f"no {what} within {timeout_s:g} s"
            try:
                self._process.wait(_PAUSE_S)
            except subprocess.TimeoutExpired:
                continue

    def _open(self, path: str) -> Any:
        return urllib.request.urlopen(f"http://{self.address}{path}", timeout=_HTTP_S)

    def _is_ready(self) -> bool:
        try:
            with self._open("/-/ready") as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
