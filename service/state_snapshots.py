"""Snapshot files: bins exported from a checkpoint, looked into, and imported into another.

Flow: SlotCheckpoints -> [export_bins] -> snapshot file -> [list_snapshot, value_in_snapshot];
snapshot + SlotCheckpoint -> [replace_bins] -> a new checkpoint of the slot.

Invariants
  SS1  Whether all of a snapshot fits a checkpoint is known before anything is written.
  SS2  `replace_bins` changes no checkpoint that is there: it writes another one.
  SS3  Bins and vertices that are not named stay as they were.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from service.errors import FormatMismatch, StateCorrupt, UsageError
from service.hashing import bin_bits_of
from service.state_files import (
    BinListing,
    Listing,
    PartListing,
    SlotCheckpoint,
    Value,
    VertexListing,
    number_of,
    require_bins,
)
from service.statestore.checkpoint import SlotFiles, StoredVertex
from service.statestore.columns import require_same_columns
from service.statestore.contents import BinContent, StoredRows, contents, rewrite
from service.statestore.hosted import HostedStore
from service.statestore.snapshot import Contents, Snapshot, SnapshotVertex, SnapshotWriter
from service.statestore.stored_keys import kept_of, wanted_key
from service.statestore.stored_kinds import blank_store


def export_bins(
    parts: Sequence[SlotCheckpoint],
    target: Path,
    vertices: Collection[str] = (),
    bins: Collection[int] | None = None,
) -> Contents:
    """Write bins of a checkpoint to a snapshot file.

    Args:
        parts: the checkpoint; of all workers, if bins of all are wanted.
        target: file to make.
        vertices: which; none: all.
        bins: which; None: all that hold something. A bin named that is empty is exported empty.

    Raises:
        UsageError: no such vertex or bin, or the file exists.
        FormatMismatch: the parts are of different flows.
        StateCorrupt, StateError: as `contents`.
    """
    first = parts[0].files
    for part in parts:
        if _shape(part.files) != _shape(first):
            raise FormatMismatch(
                f"{part.origin} and {parts[0].origin} are of different flows or cuts; name one of "
                "their folders"
            )
    listed = [stored.vertex for stored in first.vertices]
    wanted = sorted(vertices or listed)
    numbers = {name: number_of(name, first.vertices) for name in wanted}
    require_bins(bins or (), first.bins)
    bits = bin_bits_of(first.bins)
    stores = {name: blank_store(first.vertices[numbers[name]], bits) for name in wanted}
    origins = [part.origin for part in parts]
    with SnapshotWriter(target, bins=first.bins, cut=first.cut, origins=origins) as writer:
        for name in wanted:
            stored = first.vertices[numbers[name]]
            writer.vertex(name, stored.columns, stored.windows)
        for content in _merged(parts, bins):
            for name in wanted:
                rows, store = content.of(numbers[name]), stores[name]
                store.load_rows(rows.keys, rows.values)
                store.set_timers(content.bin, rows.timers)
                writer.add(name, content.bin, store.extract(content.bin, cut=first.cut))
                store.clear()
        return writer.finish()


def _merged(parts: Sequence[SlotCheckpoint], bins: Collection[int] | None) -> Iterator[BinContent]:
    """Wanted bins of all slots, ascending; those named that nobody has are empty."""
    named = None if bins is None else sorted(set(bins))
    streams = [contents(part.folder, part.files) for part in parts]
    heads = [next(stream, None) for stream in streams]
    while any(head is not None for head in heads):
        place = min(
            (place for place, head in enumerate(heads) if head is not None),
            key=lambda place: _bin_at(heads, place),
        )
        content = heads[place]
        assert content is not None, "the least of those that are left"
        heads[place] = next(streams[place], None)
        while named and named[0] < content.bin:
            yield BinContent(named.pop(0))
        if named is None:
            yield content
        elif named and named[0] == content.bin:
            named.pop(0)
            yield content
    for bin_id in named or ():
        yield BinContent(bin_id)


def _bin_at(heads: Sequence[BinContent | None], place: int) -> int:
    head = heads[place]
    assert head is not None, "only those that are left are compared"
    return head.bin


def list_snapshot(snapshot: Snapshot) -> Listing:
    """Vertices, bins, rows and bytes of a snapshot, all compared; raises as `Snapshot.bin`."""
    found = snapshot.contents
    part = PartListing(
        None,
        str(snapshot.path),
        found.format,
        found.cut,
        snapshot.path.stat().st_size,
        tuple(_listed(snapshot, vertex) for vertex in found.vertices),
    )
    return Listing(str(snapshot.path), "snapshot", found.bins, (part,))


def _listed(snapshot: Snapshot, vertex: SnapshotVertex) -> VertexListing:
    bins = []
    store = blank_store(_stored(vertex), bin_bits_of(snapshot.contents.bins))
    for each in vertex.bins:
        rows = _rows_of(snapshot, vertex.vertex, store, each.bin)
        bins.append(BinListing(each.bin, each.rows, len(rows.timers), sum(each.chunks)))
    return VertexListing(
        vertex.vertex,
        vertex.columns,
        vertex.rows,
        sum(each.timers for each in bins),
        sum(each.bytes for each in bins),
        tuple(bins),
    )


def value_in_snapshot(snapshot: Snapshot, vertex: str, key: str) -> Value | None:
    """What a snapshot keeps for the key that this text names; None if nothing.

    Raises:
        UsageError: no such vertex, its bin is not in the snapshot, or as `value_in`.
        StateCorrupt: the bin is damaged.
    """
    found = snapshot.contents
    stored = [_stored(each) for each in found.vertices]
    number = number_of(vertex, stored)
    bits = bin_bits_of(found.bins)
    wanted = wanted_key(stored[number], key)
    bin_id = wanted.bin(bits)
    if all(each.bin != bin_id for each in found.vertices[number].bins):
        raise UsageError(f"{snapshot.path} does not have bin {bin_id}, which holds key {key}")
    rows = _rows_of(snapshot, vertex, blank_store(stored[number], bits), bin_id)
    kept = kept_of(stored[number], wanted, rows, bits)
    if kept is None:
        return None
    return Value(vertex, wanted.shown, bin_id, None, found.cut, kept.value, kept.windows)


def replace_bins(part: SlotCheckpoint, snapshot: Snapshot, bins: Collection[int]) -> SlotFiles:
    """Write a new checkpoint of a slot in which bins are those of a snapshot.

    Every vertex of the snapshot is replaced in these bins; other vertices and bins stay.

    Args:
        part: the checkpoint to begin with; it stays as it is.
        snapshot: where the bins come from.
        bins: which; all of them must be in the snapshot.

    Raises:
        FormatMismatch: other vertices, columns or number of bins; nothing was written.
        UsageError: a bin is not in the snapshot; nothing was written.
        StateCorrupt: snapshot or checkpoint is damaged; the slot's checkpoints are as they were.
    """
    found, files = snapshot.contents, part.files
    if found.bins != files.bins:
        raise FormatMismatch(
            f"{snapshot.path} was made with {found.bins} bins, {part.origin} has {files.bins}; the "
            "number of bins is fixed for the life of the state"
        )
    known = {stored.vertex: number for number, stored in enumerate(files.vertices)}
    for vertex in found.vertices:
        number = known.get(vertex.vertex)
        if number is None:
            raise FormatMismatch(
                f"{snapshot.path} holds vertex {vertex.vertex!r}, {part.origin} has "
                f"{sorted(known)}; import it where the flow that wrote it runs"
            )
        what = f"vertex {vertex.vertex!r} of {snapshot.path}"
        require_same_columns(what, files.vertices[number].columns, vertex.columns)
        missing = set(bins) - {each.bin for each in vertex.bins}
        if missing:
            shown = ", ".join(map(str, sorted(missing)))
            raise UsageError(f"{snapshot.path} has no bins {shown} of vertex {vertex.vertex!r}")
    bits = bin_bits_of(files.bins)
    stores = {
        vertex.vertex: blank_store(files.vertices[known[vertex.vertex]], bits)
        for vertex in found.vertices
    }
    replaced = (
        BinContent(
            bin_id,
            {
                known[name]: _rows_of(snapshot, name, store, bin_id)
                for name, store in stores.items()
            },
        )
        for bin_id in sorted(bins)
    )
    return rewrite(part.folder, files, replaced, frozenset(known[name] for name in stores))


def _rows_of(snapshot: Snapshot, vertex: str, store: HostedStore, bin_id: int) -> StoredRows:
    """A bin of the snapshot as a checkpoint keeps it; `store` is empty before and after."""
    assembler = snapshot.bin(vertex, bin_id)
    assert assembler is not None, "the bin is in the contents"
    try:
        store.install(bin_id, assembler)
    except (StateCorrupt, FormatMismatch) as error:
        raise type(error)(f"{snapshot.path}, vertex {vertex!r}: {error}") from error
    keys, values = store.stored_rows(np.array([bin_id], dtype=np.int64))
    rows = StoredRows(keys, values.astype(np.object_).tolist(), list(store.timers(bin_id)))
    store.clear()
    return rows


def _stored(vertex: SnapshotVertex) -> StoredVertex:
    return StoredVertex(vertex.vertex, vertex.columns, vertex.rows, 0, vertex.windows)


def _shape(files: SlotFiles) -> tuple[object, ...]:
    return files.bins, files.cut, [(stored.vertex, stored.columns) for stored in files.vertices]
