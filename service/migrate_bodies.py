"""What `megaphone migrate` asks for: targets and plan files as bodies of control records.

Flow: `--target` or a plan file -> [body_of_target, body_of_file] -> Conversation.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from service.errors import UsageError
from service.migration.plan_file import PlanFile
from service.migration.target import TARGETS_KNOWN, named_target


def body_of_file(plan: PlanFile) -> dict[str, object]:
    """The request that carries a plan file out."""
    body: dict[str, object] = {"kind": "move", "waves": [wave.moves for wave in plan.waves]}
    if any(wave.after_us for wave in plan.waves):
        body["after_us"] = [wave.after_us for wave in plan.waves]
    return body


def body_of_target(text: str, owners: NDArray[np.int32], workers: int) -> dict[str, object]:
    """The request that brings bins to a target.

    Raises:
        UsageError: the target names nothing, or no worker or bin of the job.
    """
    if text.startswith("spread:"):
        target_named(text, owners, workers)
        # The controller spreads over the routing as it is then.
        return {"kind": "rescale", "workers": int(text.removeprefix("spread:"))}
    target = target_named(text, owners, workers)
    moves = [[bin_, worker] for bin_, worker in target.items() if owners[bin_] != worker]
    return {"kind": "move", "moves": moves}


def target_named(text: str, owners: NDArray[np.int32], workers: int) -> dict[int, int]:
    """The target of a name or a file: bin -> worker.

    Raises:
        UsageError: it is neither, or does not fit the job.
    """
    named = named_target(text, owners, workers)
    return _from_file(text, owners, workers) if named is None else named


def _from_file(name: str, owners: NDArray[np.int32], workers: int) -> dict[int, int]:
    try:
        data = Path(name).read_bytes()
    except OSError as error:
        raise UsageError(
            f"--target {name}: no such target, and no such file ({error.strerror}); known are "
            f"{TARGETS_KNOWN}"
        ) from error
    try:
        body: object = msgspec.json.decode(data)
        if isinstance(body, dict):
            pairs = list(msgspec.convert(body, dict[int, int], strict=False).items())
        elif isinstance(body, list) and body and not isinstance(body[0], list):
            pairs = list(enumerate(msgspec.convert(body, list[int])))
            if len(pairs) != owners.size:
                raise UsageError(
                    f"--target {name} names workers of {len(pairs)} bins; the job has {owners.size}"
                )
        else:
            pairs = msgspec.convert(body, list[tuple[int, int]])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(
            f"--target {name}: {error}; write a list of the worker of each bin, a list of "
            "[bin, worker] pairs, or an object of them"
        ) from error
    return _checked(pairs, name, owners.size, workers)


def _checked(pairs: list[tuple[int, int]], name: str, bins: int, workers: int) -> dict[int, int]:
    target: dict[int, int] = {}
    for bin_, worker in pairs:
        if not 0 <= bin_ < bins:
            raise UsageError(f"--target {name}: no bin {bin_}; the job has bins 0 to {bins - 1}")
        if not 0 <= worker < workers:
            raise UsageError(
                f"--target {name}: no worker {worker}; the job has workers 0 to {workers - 1}"
            )
        if bin_ in target:
            raise UsageError(f"--target {name}: bin {bin_} is named twice")
        target[bin_] = worker
    return target
