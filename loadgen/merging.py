"""What several processes of one load, or several meters, said, as if one had said it.

Flow: JSON lines of `run` or `measure` -> [merged] -> summaries by phase, one final document. Pure.

Invariants
  ME1  Counts, lateness and histograms are sums or extremes of the parts', so that merging the
       shares of a load gives what one process would have said; rates follow from the sums.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

from loadgen.histogram import Histogram
from loadgen.measure import FinalDocument, WindowDocument, window_document

Document = Mapping[str, object]
Number = int | float


class Mismatch(ValueError):
    """Documents that do not belong together."""


def merged(documents: Iterable[Document]) -> list[dict[str, object]]:
    """The summaries, one per phase, and the final document, of all that was said.

    Raises:
        Mismatch: measurements with windows of different lengths.
    """
    phases: dict[str, list[Mapping[str, Number]]] = {}
    finals: list[FinalDocument] = []
    for document in documents:
        if document.get("kind") == "summary":
            numbers = cast("Mapping[str, Number]", document)
            phases.setdefault(str(document["phase"]), []).append(numbers)
        elif document.get("kind") == "final":
            finals.append(cast("FinalDocument", document))
    out = [_summary(phase, parts) for phase, parts in phases.items()]
    return [*out, *([_final(finals)] if finals else [])]


def _summary(phase: str, parts: list[Mapping[str, Number]]) -> dict[str, object]:
    events = sum(part["events"] for part in parts)
    late = sum(part["late"] for part in parts)
    start, end = min(part["start_us"] for part in parts), max(part["end_us"] for part in parts)
    cpu_us = sum(part["cpu_us_per_event"] * part["events"] for part in parts)
    return {
        "kind": "summary",
        "phase": phase,
        "processes": len(parts),
        "start_us": start,
        "end_us": end,
        "events": events,
        "events_per_second": round(events * 1e6 / max(1, end - start)),
        "cpu_us_per_event": round(cpu_us / max(1, events), 3),
        "late": late,
        "late_fraction": late / max(1, events),
        "lateness_ms_max": max(part["lateness_ms_max"] for part in parts),
        "queue_full_waits": sum(part["queue_full_waits"] for part in parts),
    }


def _final(finals: list[FinalDocument]) -> dict[str, object]:
    lengths = sorted({final["window_us"] for final in finals})
    if len(lengths) > 1:
        raise Mismatch(f"windows of {lengths[0]} and of {lengths[1]} µs cannot be merged")
    return {
        "kind": "final",
        "window_us": lengths[0],
        "count": sum(final["count"] for final in finals),
        "unreadable": sum(final["unreadable"] for final in finals),
        "closed_by_end": sum(final["closed_by_end"] for final in finals),
        "cpu_us": sum(final["cpu_us"] for final in finals),
        "consumed": _windows(window for final in finals for window in final["consumed"]),
        "intended": _windows(window for final in finals for window in final["intended"]),
    }


def _windows(documents: Iterable[WindowDocument]) -> list[WindowDocument]:
    by_start: dict[int, Histogram] = {}
    for document in documents:
        histogram = by_start.setdefault(document["t_us"], Histogram())
        histogram.add(Histogram.of_document(document["histogram"]))
    return [window_document(start, by_start[start]) for start in sorted(by_start)]
