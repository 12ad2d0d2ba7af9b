"""Writes the reference in docs/reference from the code: knobs, metrics, control records, commands.

Flow: default.toml, JSON Schemas, the command's own parameters -> [pages] -> docs/reference/*.md.
`make docs` runs it; a test holds what is committed against what it would write.

Invariants
  RD1  What a page says of a knob, a field or an option is what the code says of it, word for word.
  RD2  Equal code gives equal pages: no time, no machine, no order of a dict that is not the code's.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from enum import EnumType
from pathlib import Path
from typing import Any

import msgspec
import typer.main

from service import config
from service.catalogue import CATALOGUE
from service.cli import app
from service.config import Config
from service.config_layers import variable_of
from service.migration import records
from service.migration.records import LogRecord

_MADE = "<!-- Made by `make docs` from the code. Change that, not this page. -->"
_DEFAULTS = Path(config.__file__).with_name("default.toml")
_CONTRACTS = ("control-record", "status-record", "plan", "status")
#: What keeps a number within bounds, as pydantic and JSON Schema name it, and how people write it.
_BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
_SCHEMA_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "maxItems": "at most"}
_OPTION_BOUNDS = {"min": "≥", "max": "≤"}
_KINDS = {str: "text", int: "integer", float: "number", Path: "path"}
#: Groups of verbs that stand on pages of their own.
_GROUPS = ("migrate", "control", "state", "dlq", "keys")
_BENCH = ("bench",)


def pages(docs: Path) -> dict[str, str]:
    """Name of each page in docs/reference -> its text.

    Args:
        docs: the folder of documents, whose contracts are read.
    """
    return {
        "configuration.md": _page(_configuration()),
        "metrics.md": _page(_metrics()),
        "control-records.md": _page(_control(docs / "contracts")),
        "cli.md": _page(_commands()),
        "cli-groups.md": _page(_group("Groups of commands", _GROUPS)),
        "cli-bench.md": _page(_group("Benchmarks on the command line", _BENCH)),
    }


def _page(lines: Iterator[str]) -> str:
    title, *rest = lines
    text = "\n".join([title, "", _MADE, "", *rest])
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


# Configuration ----------------------------------------------------------------------------------


def _configuration() -> Iterator[str]:
    yield "# Configuration"
    yield "Every knob, from [service/default.toml](../../service/default.toml)."
    yield ""
    yield (
        "Later ones win: the defaults; a TOML file named by `--config` or `MEGAPHONE_CONFIG`; the "
        "environment; `--set section.knob=value` and options of their own."
    )
    yield (
        "An unknown, malformed or contradictory knob ends the command with status 2, its name and "
        "where it was said."
    )
    yield "`megaphone check-config` prints what is in force and who said it."
    said = _comments()
    for section, field in Config.model_fields.items():
        yield ""
        yield f"## `[{section}]`"
        yield ""
        yield f"{(field.annotation.__doc__ or '').splitlines()[0]}" if field.annotation else ""
        yield ""
        yield "| Knob | Default | Variable | What it does |"
        yield "|---|---|---|---|"
        for name, knob in getattr(field.annotation, "model_fields", {}).items():
            full = f"{section}.{name}"
            value, comment = said[full]
            bounds = _knob_bounds(knob.metadata)
            what = comment + (f" {bounds}." if bounds else "")
            yield _row(f"`{full}`", f"`{value}`", f"`{variable_of(full)}`", what)


def _comments() -> dict[str, tuple[str, str]]:
    """section.knob -> its default as the file writes it, and the comment above it."""
    text = _DEFAULTS.read_text(encoding="utf-8")
    values = tomllib.loads(text)
    found: dict[str, tuple[str, str]] = {}
    section, fresh = "", True
    comment: list[str] = []
    for line in text.splitlines():
        if line.startswith("#"):
            comment = [*comment, line.lstrip("# ")] if fresh else [line.lstrip("# ")]
            fresh = True
        elif line.startswith("["):
            section, comment, fresh = line.strip("[]"), [], True
        elif " = " in line:
            name, _, value = line.partition(" = ")
            assert name in values[section], f"{name} is no knob of [{section}]"
            # Knobs that stand together share the comment above the first.
            found[f"{section}.{name}"] = (value, " ".join(comment))
            fresh = False
    return found


def _knob_bounds(metadata: Sequence[object]) -> str:
    return ", ".join(
        f"{sign} {bound:,}" if isinstance(bound, int) else f"{sign} {bound}"
        for each in metadata
        for name, sign in _BOUNDS.items()
        if (bound := getattr(each, name, None)) is not None
    )


# Metrics ----------------------------------------------------------------------------------------


def _metrics() -> Iterator[str]:
    yield "# Metrics"
    yield "Every metric of `/metrics`, from [service/catalogue.py](../../service/catalogue.py)."
    yield "[RUNBOOK.md](../RUNBOOK.md) says how to collect them, and what to do at each alert."
    yield ""
    yield (
        "Labels are `app` and `slot`, and those of the table; `operator` is the name of a vertex "
        "of the flow."
    )
    yield (
        "A process shows only what it has; a counter with labels is absent until its first count."
    )
    section = ""
    for spec in CATALOGUE:
        here = spec.name.split("_")[1]
        if here != section:
            section = here
            yield ""
            yield f"## {section}"
            yield ""
            yield "| Metric | Kind | Unit | Labels | Says | Told by |"
            yield "|---|---|---|---|---|---|"
        labels = ", ".join(f"`{label}`" for label in spec.labels)
        yield _row(f"`{spec.name}`", spec.kind, spec.unit, labels, spec.help, spec.on)


# Control records --------------------------------------------------------------------------------


def _control(contracts: Path) -> Iterator[str]:
    yield "# Control records"
    yield "What stands on a job's topics, and what commands print as JSON."
    yield "[CONTROL.md](../CONTROL.md) says how to use them, with examples."
    for name in _CONTRACTS:
        file = f"{name}.schema.json"
        schema = json.loads((contracts / file).read_text(encoding="utf-8"))
        yield ""
        yield f"## {schema['title']}"
        yield ""
        yield schema["description"]
        yield ""
        yield f"Schema: [{file}](../contracts/{file})."
        yield ""
        yield from _fields(schema)
    yield ""
    yield "## The accepted log"
    yield ""
    yield "Records of `<app>.accepted`, which only the controller writes; `type` says which it is."
    yield "`megaphone control log` prints them."
    for kind in LogRecord.__args__:
        yield ""
        yield f"### `{kind.__struct_config__.tag}`"
        yield ""
        yield (kind.__doc__ or "").splitlines()[0]
        yield ""
        yield "| Field | Type | |"
        yield "|---|---|---|"
        shapes = msgspec.json.schema(kind)["$defs"][kind.__name__]
        for field, shape in shapes["properties"].items():
            if field != "type":
                needed = "" if field in shapes.get("required", ()) else "may be absent"
                yield _row(f"`{field}`", _type(shape), needed)
    yield ""
    yield f"Times are microseconds since 1970, at most {records.MAX_EPOCH:,}."


def _fields(schema: Mapping[str, Any]) -> Iterator[str]:
    yield "| Field | Type | | What it says |"
    yield "|---|---|---|---|"
    required = schema.get("required", ())
    for name, shape in schema.get("properties", {}).items():
        needed = "required" if name in required else ""
        yield _row(f"`{name}`", _type(shape), needed, shape.get("description", ""))


def _type(shape: Mapping[str, Any]) -> str:
    """A JSON Schema's type in a few words."""
    if "$ref" in shape:
        return str(shape["$ref"]).rpartition("/")[2]
    if "const" in shape:
        return f"`{json.dumps(shape['const'])}`"
    if "enum" in shape:
        return ", ".join(f"`{json.dumps(each)}`" for each in shape["enum"])
    for several in ("anyOf", "oneOf"):
        if several in shape:
            return " or ".join(_type(each) for each in shape[several])
    if "prefixItems" in shape:
        return f"[{', '.join(_type(each) for each in shape['prefixItems'])}]"
    kinds = shape.get("type", "any")
    kinds = [kinds] if isinstance(kinds, str) else [*kinds]
    if "array" in kinds and isinstance(shape.get("items"), dict):
        kinds[kinds.index("array")] = f"array of {_type(shape['items'])}"
    bounds = [
        f"{sign} {shape[name]:,}"
        for name, sign in _SCHEMA_BOUNDS.items()
        if name in shape and shape[name] != records.MAX_EPOCH
    ]
    return " or ".join(kinds) + (f", {', '.join(bounds)}" if bounds else "")


# Commands ---------------------------------------------------------------------------------------


def _commands() -> Iterator[str]:
    yield "# Command line"
    yield "The verbs of `megaphone`; `--help` behind any of them says the same."
    yield (
        "Groups of verbs stand [on a page of their own](cli-groups.md), benchmarks "
        "[on another](cli-bench.md)."
    )
    yield ""
    yield (
        "`megaphone completion bash` (or zsh, fish) prints a script that lets the shell complete "
        "verbs, options and built-in targets; `megaphone --install-completion` puts it in place."
    )
    for verbs, command in _leaves((), typer.main.get_command(app)):
        if len(verbs) == 1:
            yield from _command(verbs, command)


def _group(title: str, names: Sequence[str]) -> Iterator[str]:
    yield f"# {title}"
    groups = getattr(typer.main.get_command(app), "commands", {})
    for name in names:
        yield ""
        yield f"`megaphone {name}`: {_plain(groups[name].help or '')}"
        for verbs, command in _leaves((name,), groups[name]):
            yield from _command(verbs, command)


def _leaves(verbs: tuple[str, ...], command: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    below = getattr(command, "commands", None)
    if below is None:
        yield verbs, command
        return
    for name, each in below.items():
        yield from _leaves((*verbs, name), each)


def _command(verbs: tuple[str, ...], command: Any) -> Iterator[str]:
    shown = [each for each in command.params if not each.hidden and each.name != "help"]
    arguments = [each for each in shown if each.param_type_name == "argument"]
    words = [_name(each) if each.required else f"[{_name(each)}]" for each in arguments]
    yield ""
    yield f"## megaphone {' '.join(verbs)}"
    yield ""
    yield _plain(command.help or "")
    yield ""
    yield f"Usage: `megaphone {' '.join((*verbs, *words, '[OPTIONS]'))}`"
    yield ""
    yield f"{_plain(command.epilog or '').replace('Example: ', 'Example: `')}`"
    if not shown:
        return
    yield ""
    yield "| Option | Takes | Default | What it does |"
    yield "|---|---|---|---|"
    for each in shown:
        is_argument = each.param_type_name == "argument"
        takes = "" if getattr(each, "is_flag", False) or is_argument else _takes(each)
        yield _row(f"`{_name(each)}`", takes, _default(each), _plain(each.help or ""))


def _name(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper())
    return ", ".join([*parameter.opts, *parameter.secondary_opts])


def _takes(parameter: Any) -> str:
    """What an option takes: its own word, the choices there are, or the kind of value."""
    if parameter.metavar:
        return f"`{parameter.metavar}`"
    kind = parameter.type_descriptor.annotation
    (kind,) = getattr(kind, "__args__", None) or (kind,)
    if isinstance(kind, EnumType):
        members: dict[str, Any] = dict(kind.__members__)
        return ", ".join(f"`{each.value}`" for each in members.values())
    bounds = [(sign, getattr(parameter, name)) for name, sign in _OPTION_BOUNDS.items()]
    told = ", ".join(f"{sign} {bound:,}" for sign, bound in bounds if bound is not None)
    return f"{_KINDS[kind]}{', ' * bool(told)}{told}"


def _default(parameter: Any) -> str:
    if parameter.envvar:
        names = [parameter.envvar] if isinstance(parameter.envvar, str) else parameter.envvar
        return ", ".join(f"`${name}`" for name in names)
    if parameter.required:
        return "required"
    value = parameter.default
    if value is None or value == "" or value is False or callable(value):
        return ""
    if value is True:
        return "yes"
    return f"`{getattr(value, 'value', value)}`"


def _plain(text: str) -> str:
    """Help as Markdown has it: paragraphs stay, lines within them are joined."""
    paragraphs = re.split(r"\n\s*\n", text.strip())
    return "\n\n".join(" ".join(each.split()) for each in paragraphs)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def main(arguments: Sequence[str]) -> None:
    """Write every page; the one argument is the folder of documents."""
    (docs,) = map(Path, arguments)
    (docs / "reference").mkdir(exist_ok=True)
    for name, text in pages(docs).items():
        (docs / "reference" / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
