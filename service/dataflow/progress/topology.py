"""The graph that progress is tracked on: ports as locations, edges and declared connectivity.

Flow: the engine's graph -> Topology -> freeze -> FrozenTopology -> Tracker, ProgressSender.
Pure: no I/O; every process that makes the same calls in the same order gets the same numbers.

A location is an operator's input port (a *target*: its count is messages in flight) or output port
(a *source*: its count is capabilities held), taken over all processes. Timestamps move from source
to target along edges unchanged and from target to source by the summary the operator declares for
the pair; a pair without a summary says that nothing consumed there can ever be sent here.

Invariants
  TO1  Locations are dense integers: per operator, in order of addition, first inputs, then outputs.
  TO2  An edge joins ports of one depth; every input has at least one edge; an output may have none.
  TO3  A summary fits its ports: it keeps at most the input's depth and yields the output's.
  TO4  An operator with inputs and outputs says which pairs are connected; an empty mapping is an
       answer, silence is not: a forgotten pair deadlocks, an invented one holds frontiers back.
  TO5  Every cycle strictly advances, else two pointstamps would precede each other.

Source: Murray et al., "Naiad", SOSP 2013, section 2.3; timely-dataflow, `progress/reachability.rs`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

from service.dataflow.progress.cycles import components, find_stuck_cycle
from service.dataflow.progress.errors import ProgressError
from service.dataflow.progress.summary import PathSummary, identity

#: {(input, output): summary}
Connectivity = Mapping[tuple[int, int], PathSummary]
#: One depth for every port, or (depths of the inputs, depths of the outputs).
PortDepths = int | tuple[Sequence[int], Sequence[int]]


@dataclass(frozen=True, slots=True)
class OperatorShape:
    """An operator as progress tracking sees it.

    Attributes:
        name: for messages only; need not be unique.
        targets: location of each input port.
        sources: location of each output port.
    """

    name: str
    targets: tuple[int, ...]
    sources: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FrozenTopology:
    """A checked graph. Made by `Topology.freeze` only.

    Attributes:
        operators: in order of addition; an operator's number is its index.
        depths: per location, the length of its timestamps.
        is_source: per location, whether it is an output port.
        steps: per location, (next location, summary) for every edge or connected output.
        components: strongly connected parts of the locations, in topological order.
        component_of: per location, the index of its component.
        is_cyclic: per component, whether it contains a cycle.
    """

    operators: tuple[OperatorShape, ...]
    depths: tuple[int, ...]
    is_source: tuple[bool, ...]
    steps: tuple[tuple[tuple[int, PathSummary], ...], ...]
    components: tuple[tuple[int, ...], ...]
    component_of: tuple[int, ...]
    is_cyclic: tuple[bool, ...]

    @property
    def location_count(self) -> int:
        """How many locations there are; they are numbered from 0 (TO1)."""
        return len(self.depths)

    def target(self, operator: int, port: int) -> int:
        """Location of an input port."""
        return self.operators[operator].targets[port]

    def source(self, operator: int, port: int) -> int:
        """Location of an output port."""
        return self.operators[operator].sources[port]

    def describe(self, location: int) -> str:
        """Name a location for a human: "input 0 of 'count'"."""
        return _describe(self.operators, location)

    def digest(self) -> str:
        """Hex digest that is equal in two processes iff they track the same graph."""
        shape = ([(o.name, o.targets, o.sources) for o in self.operators], self.depths, self.steps)
        return blake2b(repr(shape).encode(), digest_size=16).hexdigest()


class Topology:
    """Builds a graph: add operators, connect ports, freeze."""

    __slots__ = ("_connected", "_depths", "_is_source", "_operators", "_steps")

    def __init__(self) -> None:
        """Start without operators."""
        self._operators: list[OperatorShape] = []
        #: Per location: length of its timestamps.
        self._depths: list[int] = []
        #: Per location: whether it is an output port.
        self._is_source: list[bool] = []
        #: Per location: where timestamps go next, and what happens to them on the way.
        self._steps: list[list[tuple[int, PathSummary]]] = []
        #: Targets that have an edge (TO2).
        self._connected: set[int] = set()

    def add_operator(
        self,
        name: str,
        inputs: int,
        outputs: int,
        depth: PortDepths = 1,
        connectivity: Connectivity | None = None,
    ) -> int:
        """Add an operator.

        Args:
            name: for messages.
            inputs: number of input ports.
            outputs: number of output ports.
            depth: length of timestamps at all ports, or per port (inputs, outputs).
            connectivity: summary of each (input, output) pair that is connected; may be left out
                only if there are no such pairs (TO4).

        Returns:
            The operator's number.

        Raises:
            ProgressError: a port count or depth is wrong, a summary does not fit (TO3, TO4).
        """
        in_depths, out_depths = _port_depths(name, inputs, outputs, depth)
        if connectivity is None and inputs and outputs:
            raise ProgressError(
                f"operator '{name}' has {inputs} inputs and {outputs} outputs but declares no "
                "connectivity; declare a summary per connected pair, {} if there is none"
            )
        connectivity = connectivity or {}
        for (taker, giver), summary in connectivity.items():
            if not (0 <= taker < inputs and 0 <= giver < outputs):
                raise ProgressError(f"operator '{name}' has no ports ({taker}, {giver})")
            if not _fits(summary, in_depths[taker], out_depths[giver]):
                raise ProgressError(
                    f"operator '{name}': {summary} does not lead from input {taker} (timestamps of "
                    f"length {in_depths[taker]}) to output {giver} (length {out_depths[giver]})"
                )
        first = len(self._depths)
        targets = tuple(range(first, first + inputs))
        sources = tuple(range(first + inputs, first + inputs + outputs))
        self._operators.append(OperatorShape(name, targets, sources))
        self._depths += [*in_depths, *out_depths]
        self._is_source += [False] * inputs + [True] * outputs
        self._steps += [[] for _ in range(inputs + outputs)]
        for (taker, giver), summary in sorted(connectivity.items()):
            self._steps[targets[taker]].append((sources[giver], summary))
        return len(self._operators) - 1

    def connect(self, source: tuple[int, int], target: tuple[int, int]) -> None:
        """Add an edge from (operator, output) to (operator, input).

        Raises:
            ProgressError: no such port, ports of different depth, or the edge exists (TO2).
        """
        start = self.source(*source)
        end = self.target(*target)
        if self._depths[start] != self._depths[end]:
            raise ProgressError(
                f"{self._name(start)} has timestamps of length {self._depths[start]} but "
                f"{self._name(end)} of length {self._depths[end]}: enter or leave a loop in between"
            )
        if any(to == end for to, _ in self._steps[start]):
            raise ProgressError(f"{self._name(start)} and {self._name(end)} are connected already")
        self._steps[start].append((end, identity(self._depths[start])))
        self._connected.add(end)

    def target(self, operator: int, port: int) -> int:
        """Location of an input port.

        Raises:
            ProgressError: there is no such port.
        """
        shape = self._shape(operator)
        if not 0 <= port < len(shape.targets):
            raise ProgressError(f"operator '{shape.name}' has no input {port}")
        return shape.targets[port]

    def source(self, operator: int, port: int) -> int:
        """Location of an output port.

        Raises:
            ProgressError: there is no such port.
        """
        shape = self._shape(operator)
        if not 0 <= port < len(shape.sources):
            raise ProgressError(f"operator '{shape.name}' has no output {port}")
        return shape.sources[port]

    def freeze(self) -> FrozenTopology:
        """Check the whole graph.

        Raises:
            ProgressError: an input without an edge (TO2), or a cycle that does not strictly
                advance (TO5); the message names the operators on it.
        """
        for operator in self._operators:
            for location in operator.targets:
                if location not in self._connected:
                    raise ProgressError(f"{self._name(location)} is not connected")
        stuck = find_stuck_cycle(self._steps, self._depths)
        if stuck is not None:
            raise ProgressError(
                f"a cycle does not advance its timestamps: {self._cycle_names(stuck)}; every cycle "
                "needs a feedback in the loop it stays in"
            )
        following = [[to for to, _ in out] for out in self._steps]
        parts = components(following)
        component_of = [0] * len(self._depths)
        for number, members in enumerate(parts):
            for member in members:
                component_of[member] = number
        return FrozenTopology(
            operators=tuple(self._operators),
            depths=tuple(self._depths),
            is_source=tuple(self._is_source),
            steps=tuple(tuple(out) for out in self._steps),
            components=tuple(tuple(members) for members in parts),
            component_of=tuple(component_of),
            # A location never leads to itself directly: steps alternate between input and output.
            is_cyclic=tuple(len(members) > 1 for members in parts),
        )

    def _shape(self, operator: int) -> OperatorShape:
        if not 0 <= operator < len(self._operators):
            raise ProgressError(f"there is no operator {operator}")
        return self._operators[operator]

    def _name(self, location: int) -> str:
        return _describe(self._operators, location)

    def _cycle_names(self, cycle: Sequence[int]) -> str:
        names: list[str] = []
        for location in cycle:
            name = _operator_at(self._operators, location).name
            if not names or names[-1] != name:
                names.append(name)
        if len(names) > 1 and names[0] == names[-1]:
            names.pop()
        return " -> ".join([*names, names[0]])


def _port_depths(
    name: str, inputs: int, outputs: int, depth: PortDepths
) -> tuple[Sequence[int], Sequence[int]]:
    if isinstance(depth, int):
        depth = ([depth] * inputs, [depth] * outputs)
    in_depths, out_depths = depth
    if inputs < 0 or outputs < 0 or inputs + outputs == 0:
        raise ProgressError(f"operator '{name}' needs at least one port")
    if (len(in_depths), len(out_depths)) != (inputs, outputs):
        raise ProgressError(
            f"operator '{name}' has {inputs} inputs and {outputs} outputs but depths for "
            f"{len(in_depths)} and {len(out_depths)}"
        )
    if min((*in_depths, *out_depths)) < 1:
        raise ProgressError(f"operator '{name}': a timestamp has at least its epoch, so depth >= 1")
    return in_depths, out_depths


def _fits(summary: PathSummary, in_depth: int, out_depth: int) -> bool:
    """TO3, and PS1 as named tuples do not check themselves."""
    return (
        1 <= summary.keep <= in_depth
        and summary.keep + len(summary.tail) == out_depth
        and summary.increment >= 0
        and min(summary.tail, default=0) >= 0
    )


def _operator_at(operators: Sequence[OperatorShape], location: int) -> OperatorShape:
    for operator in operators:
        if location in operator.targets or location in operator.sources:
            return operator
    raise ProgressError(f"there is no location {location}")


def _describe(operators: Sequence[OperatorShape], location: int) -> str:
    operator = _operator_at(operators, location)
    if location in operator.targets:
        return f"input {operator.targets.index(location)} of '{operator.name}'"
    return f"output {operator.sources.index(location)} of '{operator.name}'"
