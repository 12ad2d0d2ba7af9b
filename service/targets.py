"""What TARGET and --registry on the command line name: a flow, and where its schemas are.

Flow: text -> [load_flow] -> Flow of a user's module in the current folder, or a built-in query;
text -> [registry_of] -> SchemaRegistry.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path

from service.clock import SystemClock
from service.dataflow.flow import Flow
from service.errors import UsageError
from service.ingest.registry import SchemaRegistry, open_registry
from service.nexmark.queries import built_in
from service.nexmark.query_topics import QueryTopics

_BUILT_IN_PREFIX = "nexmark:"


def load_flow(target: str, topics: QueryTopics) -> Flow:
    """The flow that `target` names.

    Raises:
        UsageError: no such module or attribute, or it is no flow.
    """
    if target.startswith(_BUILT_IN_PREFIX):
        return built_in(target.removeprefix(_BUILT_IN_PREFIX), topics)
    module_name, colon, attribute = target.partition(":")
    if not colon or not module_name or not attribute:
        raise UsageError(f"{target!r} is no target; write module:flow or nexmark:auction_bids")
    sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UsageError(f"module {error.name!r} of {target!r} was not found") from error
    if not hasattr(module, attribute):
        raise UsageError(f"module {module_name!r} has no {attribute!r}; write module:flow")
    found = getattr(module, attribute)
    if inspect.isfunction(found):
        if inspect.signature(found).parameters:
            raise UsageError(f"{target!r} takes arguments; name a function without any, or a flow")
        found = found()
    if not isinstance(found, Flow):
        raise UsageError(f"{target!r} is {type(found).__name__}, not a megaphone.Flow")
    return found


def registry_of(text: str) -> SchemaRegistry:
    """The registry that `text` names: a folder or a URL; without it, the built-ins' schemas.

    Raises:
        UsageError: it can be neither.
    """
    default = Path(__file__).parent / "nexmark" / "schemas"
    return open_registry(text or str(default), SystemClock())
