"""How a benchmark's document is printed."""

from __future__ import annotations

from enum import StrEnum

from service.bench.document import BenchDocument


class Output(StrEnum):
    """How a document is printed."""

    TEXT = "text"
    JSON = "json"


def printed(document: BenchDocument, output: Output) -> str:
    """The document as standard output has it."""
    return document.json() if output is Output.JSON else document.text()
