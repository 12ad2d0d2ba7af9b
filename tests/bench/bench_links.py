"""What links with keys cost: the same frames over links that encrypt and over links that do not.

Run it by hand: `python -m tests.bench.bench_links`. Two transports of one process, over TCP on
loopback; processor time of all threads, so that others on the machine hardly disturb it. Each size
is measured five times, the two kinds of links in turn; a line has the medians and their ratio. Not
collected by pytest.
"""

from __future__ import annotations

import statistics
import sys
import time

from service.dataflow.transport.curve import CurveLinks
from service.dataflow.transport.frame import FrameKind
from service.dataflow.transport.keys import Allowed, new_pair
from service.dataflow.transport.link import PeerAddress
from service.dataflow.transport.security import LoopbackOnly
from service.dataflow.transport.zeromq import ZmqTransport
from service.ids import Slot

SLOTS = (Slot.parse("worker-0"), Slot.parse("worker-1"))
RUNS = 5
IN_FLIGHT = 16


def connected(security_of):
    """Two transports that have greeted each other."""
    pair = [ZmqTransport(slot, 1, security=security_of()) for slot in SLOTS]
    peers = {
        index: PeerAddress(slot, 1, transport.bind())
        for index, (slot, transport) in enumerate(zip(SLOTS, pair, strict=True))
    }
    for index, transport in enumerate(pair):
        transport.start(1, index, 2, peers)
    while not all(transport.connected for transport in pair):
        for transport in pair:
            transport.receive(10)
            transport.wait(0.001)
    return pair


def cost(pair, size, count):
    """Processor seconds and seconds for `count` frames of `size` bytes from one to the other."""
    sender, receiver = pair
    body = bytes(size)
    sent = taken = 0
    began, busy = time.perf_counter(), time.process_time()
    while taken < count:
        while sent < count and sent - taken < IN_FLIGHT:
            sender.send(1, FrameKind.STATE, 0, (), [body])
            sent += 1
        receiver.wait(1.0)
        taken += len(receiver.receive(512))
    return time.process_time() - busy, time.perf_counter() - began


def main():
    key = new_pair()
    allowed = Allowed("all", {key.public: frozenset({"*"})})
    kinds = {"plain": connected(LoopbackOnly), "keys": connected(lambda: CurveLinks(key, allowed))}
    for size, count in ((64, 20_000), (24_000, 10_000), (262_144, 1_000)):
        found = {kind: [] for kind in kinds}
        for _ in range(RUNS):
            for kind, pair in kinds.items():
                found[kind].append(cost(pair, size, count))
        busy = {kind: statistics.median(run[0] for run in runs) for kind, runs in found.items()}
        took = {kind: statistics.median(run[1] for run in runs) for kind, runs in found.items()}
        for kind in kinds:
            each, rate = busy[kind] / count * 1e6, count * size / took[kind] / 1e6
            sys.stdout.write(f"{size:>8} B {kind:>6}: {each:8.1f} us a frame, {rate:6.0f} MB/s\n")
        sys.stdout.write(f"{size:>8} B  ratio: {busy['keys'] / busy['plain']:.2f}\n")
    for pair in kinds.values():
        for transport in pair:
            transport.leave()
        for transport in pair:
            transport.close()


if __name__ == "__main__":
    main()
