"""Costs of the transport between two processes: round trips, frames, bytes, rows.

Run it by hand: `python -m tests.bench.bench_transport`. Each line is one measurement; the peer is a
second process on the same machine, over TCP on loopback. Not collected by pytest.
"""

from __future__ import annotations

import subprocess
import sys
import time
import timeit

import numpy as np
import pyarrow as pa

from service.dataflow.transport.base import Received
from service.dataflow.transport.frame import FrameKind, decode_header, pack_header
from service.dataflow.transport.link import PeerAddress
from service.dataflow.transport.rows import SchemaCache
from service.dataflow.transport.zeromq import ZmqTransport
from service.ids import Slot

SLOTS = (Slot.parse("worker-0"), Slot.parse("worker-1"))
ROUND_TRIPS = 3000
ECHO, COUNT = 1, 2


def report(name, value, unit):
    sys.stdout.write(f"{name:<58}{value:>12,.2f} {unit}\n")


def micros(function, number=2000):
    return min(timeit.repeat(function, number=number, repeat=5)) / number * 1e6


def frames_of(transport, spin):
    """Frames as they come; `spin` polls without blocking."""
    while True:
        frames = transport.receive(512)
        if frames:
            yield from frames
        elif not spin:
            transport.wait(1.0)
        transport.tick(time.monotonic_ns())


def serve(endpoint, spin):
    """The other process: echoes channel ECHO, answers the last frame of a COUNT series."""
    transport = ZmqTransport(SLOTS[1], 2)
    sys.stdout.write(transport.bind() + "\n")
    sys.stdout.flush()
    transport.start(1, 1, 2, {0: PeerAddress(SLOTS[0], 1, endpoint)})
    cache = SchemaCache()
    for frame in frames_of(transport, spin):
        if frame.kind is FrameKind.BYE:
            break
        if frame.kind is FrameKind.DATA:
            cache.decode(frame)
        if frame.channel == ECHO or frame.time == (0,):
            transport.send(0, FrameKind.PROGRESS, 0, (), [])
    transport.leave()
    transport.close()


def round_trip(transport, incoming, size):
    body = bytes(size)
    times = []
    for _ in range(ROUND_TRIPS):
        began = time.perf_counter()
        transport.send(1, FrameKind.PROGRESS, ECHO, (5,), [body])
        next(incoming)
        times.append(time.perf_counter() - began)
    return np.percentile(np.array(times) * 1e6, (50, 99))


def stream(transport, incoming, count, send):
    """Seconds until the peer has read `count` frames."""
    began = time.perf_counter()
    for left in range(count - 1, -1, -1):
        send((left,))
    next(incoming)
    return time.perf_counter() - began


def between_processes(spin):
    transport = ZmqTransport(SLOTS[0], 1)
    endpoint = transport.bind()
    command = [sys.executable, "-m", "tests.bench.bench_transport", "serve", endpoint, str(spin)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as peer:
        assert peer.stdout is not None
        transport.start(1, 0, 2, {1: PeerAddress(SLOTS[1], 2, peer.stdout.readline().strip())})
        incoming = frames_of(transport, spin)
        how = "spinning" if spin else "blocking"
        for size in (64, 24_000):
            median, p99 = round_trip(transport, incoming, size)
            report(f"round trip, {how}, {size} B: median", median, "us")
            report(f"round trip, {how}, {size} B: p99", p99, "us")
        if not spin:
            throughput(transport, incoming)
        transport.leave()
        transport.close()


def throughput(transport, incoming):
    for size, count in ((64, 50_000), (24_000, 20_000), (262_144, 4_000), (1 << 20, 1_000)):
        body = bytes(size)
        seconds = stream(
            transport,
            incoming,
            count,
            lambda left, body=body: transport.send(1, FrameKind.STATE, COUNT, left, [body]),
        )
        report(f"stream of {size} B frames", count / seconds, "frames/s")
        report(f"stream of {size} B frames", count * size / seconds / 1e6, "MB/s")
    cache = SchemaCache()
    rows = sample_rows(1000)

    def send_rows(left):
        flags, parts = cache.encode(1, COUNT, rows)
        transport.send(1, FrameKind.DATA, COUNT, left, parts, flags)

    count = 20_000
    seconds = stream(transport, incoming, count, send_rows)
    report("stream of rows, 1,000 x 3 int64 a frame", count * 1000 / seconds / 1e6, "M rows/s")


def sample_rows(size):
    random = np.random.default_rng(1)
    return pa.record_batch({name: random.integers(0, 1 << 60, size) for name in "abc"})


def in_one_process():
    header = pack_header(FrameKind.DATA, 1, 77, 3, 4, (1, 2), 0, 100, 1)
    report(
        "pack a header",
        micros(lambda: pack_header(FrameKind.DATA, 1, 77, 3, 4, (1, 2), 0, 100, 1)),
        "us",
    )
    report("decode a header", micros(lambda: decode_header(header)), "us")
    for size in (10, 1000, 10_000):
        measure_rows(size)


def measure_rows(size):
    rows = sample_rows(size)
    sender, receiver = SchemaCache(), SchemaCache()
    flags, parts = sender.encode(1, 0, rows)
    receiver.decode(Received(0, FrameKind.DATA, 0, (), tuple(parts), flags))
    flags, parts = sender.encode(1, 0, rows)
    frame = Received(0, FrameKind.DATA, 0, (), (bytes(parts[0]),), flags)
    report(f"encode {size} rows x 3 int64", micros(lambda: sender.encode(1, 0, rows)), "us")
    report(f"decode {size} rows x 3 int64", micros(lambda: receiver.decode(frame)), "us")


def main():
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2], sys.argv[3] == "True")
        return
    in_one_process()
    for spin in (False, True):
        between_processes(spin)


if __name__ == "__main__":
    main()
