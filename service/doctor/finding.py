"""What the doctor says of one thing: a verdict, what was found, and how to mend it.

Flow: machine, judging -> [Finding] -> text or docs/contracts/doctor.schema.json.

Invariants
  FI1  Whatever is a warning or bad says how to mend it.
  FI2  What could not be looked at is `unknown` and says why; it is never taken for good.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec
from rich.text import Text


class Verdict(StrEnum):
    """How a thing is."""

    GOOD = "good"
    #: A job runs, but not as one would want.
    WARNING = "warning"
    #: A job does not start, or ends.
    BAD = "bad"
    UNKNOWN = "unknown"


_STYLES = {
    Verdict.GOOD: "green",
    Verdict.WARNING: "yellow",
    Verdict.BAD: "bold red",
    Verdict.UNKNOWN: "dim",
}


class Finding(msgspec.Struct, frozen=True):
    """One check."""

    #: part.check
    name: str
    verdict: Verdict
    says: str
    mend: str | None = None

    def __post_init__(self) -> None:
        if self.verdict in (Verdict.WARNING, Verdict.BAD) and not self.mend:
            raise ValueError(f"{self.name} is {self.verdict} and does not say how to mend it")


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The document of `megaphone doctor --output json`."""

    checks: list[Finding]
    bad: int
    warnings: int


def report_of(findings: Sequence[Finding]) -> Report:
    """All findings and how many of them are not good."""
    verdicts = [each.verdict for each in findings]
    return Report(
        checks=list(findings),
        bad=verdicts.count(Verdict.BAD),
        warnings=verdicts.count(Verdict.WARNING),
    )


def exit_status_of(findings: Sequence[Finding]) -> int:
    """0: nothing is bad; 2: the broker does not answer; else 1."""
    bad = {each.name for each in findings if each.verdict is Verdict.BAD}
    if "broker.reachable" in bad:
        return 2
    return 1 if bad else 0


def good(name: str, says: str) -> Finding:
    """All is well."""
    return Finding(name, Verdict.GOOD, says)


def warning(name: str, says: str, mend: str) -> Finding:
    """It works, but not as one would want."""
    return Finding(name, Verdict.WARNING, says, mend)


def bad(name: str, says: str, mend: str) -> Finding:
    """It cannot work."""
    return Finding(name, Verdict.BAD, says, mend)


def unknown(name: str, why: str, mend: str | None = None) -> Finding:
    """It could not be looked at."""
    return Finding(name, Verdict.UNKNOWN, why, mend)


def text_of(findings: Sequence[Finding]) -> Text:
    """The findings for a person, a line each, and how to mend below what is not good."""
    width = max((len(each.name) for each in findings), default=0)
    text = Text()
    for each in findings:
        text.append(f"{each.verdict:<8}", _STYLES[each.verdict])
        text.append(f" {each.name:<{width}}  {each.says}\n")
        if each.mend is not None:
            text.append(f"{'':<8} {'':<{width}}  to mend: {each.mend}\n")
    report = report_of(findings)
    text.append(f"{len(findings)} checks, {report.bad} bad, {report.warnings} warnings")
    return text
