"""Names of the forms in which NEXMark events travel, for whoever chooses one.

Flow: options -> [Format, Times, Topics] -> `wire`, which writes and reads them. Imports no kernel:
every command line loads it.
"""

from __future__ import annotations

from enum import StrEnum

from service.errors import UsageError


class Format(StrEnum):
    """How a record is written."""

    AVRO = "avro"
    JSON = "json"


class Times(StrEnum):
    """How `date_time` and `expires` are written."""

    MS = "ms"
    ISO = "iso"


class Topics(StrEnum):
    """Which records share a topic."""

    COMBINED = "combined"
    SEPARATE = "separate"
    TAGGED = "tagged"


def check_told_apart(written: Format, topics: Topics) -> None:
    """Refuse events that nobody could tell apart.

    Raises:
        UsageError: combined JSON.
    """
    if written is Format.JSON and topics is Topics.COMBINED:
        raise UsageError(
            "JSON records in one topic do not say what they are; use topics tagged or separate"
        )
