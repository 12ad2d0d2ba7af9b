"""Processes of a benchmark that talk over the real transport, on loopback.

Flow: [together] starts one process for each further peer -> endpoints go round -> every peer runs
the same `Side` with a connected transport -> what the sides return comes back in order of peers.

Invariants
  PA1  Peer 0 is the calling process; the others are fresh interpreters (spawned, not forked), so
       that no peer inherits threads, caches or heap of another.
  PA2  No side runs before every link has said hello; none goes on before all sides have returned.
  PA3  Each round is a generation of its own: what one round leaves unread never meets the next.
"""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import TypeAlias, TypeVar, cast

from service.clock import Clock, SystemClock
from service.dataflow.transport.link import PeerAddress
from service.dataflow.transport.zeromq import ZmqTransport
from service.dataflow.worker import Worker
from service.errors import MegaphoneError
from service.ids import Role, Slot

_WAIT_S = 0.05
_TICK_NS = 100_000_000
_ANSWER_SECONDS_MAX = 120.0

_Pipe: TypeAlias = "Connection[object, object]"
Options = TypeVar("Options")
Result = TypeVar("Result")
#: What one peer does, from a connected transport to a result that can be pickled.
Side: TypeAlias = Callable[[ZmqTransport, int, Options], Result]


def together(
    side: Side[Options, Result], peers: int, rounds: Sequence[Options]
) -> list[list[Result]]:
    """Run `side` in `peers` processes, once for each element of `rounds`.

    Args:
        side: a function of a module, as the others import it.
        peers: how many processes there are, this one included (PA1).
        rounds: options of each round, the same for all peers; pickled.

    Returns:
        Per round, the results in order of peers.

    Raises:
        MegaphoneError: a peer did not start or did not answer.

    Cost: two or three seconds to start the interpreters.
    """
    spawn = multiprocessing.get_context("spawn")
    pipes: list[_Pipe] = []
    results: list[list[Result]] = []
    with ExitStack() as stack:
        transport = ZmqTransport(_slot(0), 1)
        stack.callback(transport.close)
        for peer in range(1, peers):
            ours, theirs = spawn.Pipe()
            stack.callback(ours.close)
            child = spawn.Process(target=_run, args=(theirs, peer, peers, side, list(rounds)))
            child.start()
            stack.callback(_end, child)
            theirs.close()
            pipes.append(ours)
        endpoints = [transport.bind(), *(str(_answer(pipe)) for pipe in pipes)]
        _tell(pipes, endpoints)
        for generation, options in enumerate(rounds, 1):
            _greet(transport, generation, 0, endpoints)
            for pipe in pipes:
                _answer(pipe)
            _tell(pipes, None)
            mine = _take_part(transport, peers, side, options)
            results.append([mine, *(cast(Result, _answer(pipe)) for pipe in pipes)])
            _tell(pipes, None)
        transport.leave()
    return results


def drive(worker: Worker, transport: ZmqTransport, clock: Clock) -> None:
    """Step `worker` until the whole dataflow is complete, and block whenever it has nothing to do.

    Raises:
        PeerLost: another process is gone.
    """
    tick_at = clock.monotonic_ns() + _TICK_NS
    while not worker.complete:
        worker.step()
        if worker.has_work:
            continue
        transport.wait(_WAIT_S)
        now = clock.monotonic_ns()
        if now > tick_at:
            transport.tick(now)
            tick_at = now + _TICK_NS


def _run(
    pipe: _Pipe,
    peer: int,
    peers: int,
    side: Side[Options, object],
    rounds: Sequence[Options],
) -> None:
    """The life of a spawned peer."""
    transport = ZmqTransport(_slot(peer), peer + 1)
    pipe.send(transport.bind())
    endpoints = pipe.recv()
    assert isinstance(endpoints, list), "the first peer sends everybody's endpoint"
    for generation, options in enumerate(rounds, 1):
        _greet(transport, generation, peer, endpoints)
        pipe.send(None)
        pipe.recv()
        pipe.send(_take_part(transport, peers, side, options))
        pipe.recv()
    transport.leave()
    transport.close()


def _greet(transport: ZmqTransport, generation: int, peer: int, endpoints: list[str]) -> None:
    """Begin a round as a generation of its own, and wait for everybody's hello (PA2, PA3)."""
    clock = SystemClock()
    others = {
        index: PeerAddress(_slot(index), index + 1, endpoint)
        for index, endpoint in enumerate(endpoints)
        if index != peer
    }
    transport.start(generation, peer, len(endpoints), others)
    while not transport.connected:
        transport.wait(_WAIT_S)
        transport.tick(clock.monotonic_ns())
        early = transport.receive(1)
        assert not early, "nobody speaks before all have greeted"


def _take_part(
    transport: ZmqTransport,
    peers: int,
    side: Side[Options, Result],
    options: Options,
) -> Result:
    """Run the side as a member runs: what start-up made is never walked over again."""
    gc.collect()
    gc.freeze()
    try:
        return side(transport, peers, options)
    finally:
        gc.unfreeze()


def _slot(peer: int) -> Slot:
    return Slot(Role.WORKER, peer)


def _tell(pipes: Sequence[_Pipe], what: object) -> None:
    for pipe in pipes:
        pipe.send(what)


def _answer(pipe: _Pipe) -> object:
    """What a peer sends next.

    Raises:
        MegaphoneError: it ended, or said nothing for too long.
    """
    try:
        if pipe.poll(_ANSWER_SECONDS_MAX):
            return pipe.recv()
    except (EOFError, OSError) as error:
        raise MegaphoneError(
            "a process of the benchmark ended before its result; its error is printed above"
        ) from error
    raise MegaphoneError(
        f"a process of the benchmark gave no result in {_ANSWER_SECONDS_MAX:g} s; "
        "is the machine busy? run it again"
    )


def _end(child: multiprocessing.process.BaseProcess) -> None:
    """Wait for a peer that is done, end one that is not."""
    child.join(1.0)
    if child.is_alive():
        child.kill()
        child.join()
