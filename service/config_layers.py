"""Where knobs are said: the defaults, a file, the environment, the command line; and who wins.

Flow: TOML, variables, arguments -> [of_file, of_environment, of_settings] -> one [Said] a knob ->
service.config, which judges the values.

Invariants
  CL1  Each layer gives each knob it says at most once; a later layer wins, knob by knob.
  CL2  A name that no knob has is an error that names where it stands and, if there is one, the
       knob it is nearest to. Nothing that looks like a knob of ours is passed over.
  CL3  No value appears in an error: it may be a secret.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path

from service.errors import UsageError

PREFIX = "MEGAPHONE_"
_NEST = "__"
_SEE = "(see service/default.toml)"


class Origin(StrEnum):
    """Layers, the weakest first."""

    DEFAULT = "default"
    FILE = "file"
    ENVIRONMENT = "environment"
    COMMAND_LINE = "command line"


@dataclass(frozen=True, slots=True)
class Said:
    """What one layer says of one knob, and where: a file, a variable or an option."""

    value: object
    origin: Origin
    place: str


#: section.knob -> what is said of it.
Layer = dict[str, Said]


def of_file(path: Path, known: Sequence[str], origin: Origin = Origin.FILE) -> Layer:
    """Knobs of a TOML file whose tables are sections.

    Raises:
        UsageError: it cannot be read, is no TOML, or says what no knob is (CL2).
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}; --config and MEGAPHONE_CONFIG name a TOML "
            "file of knobs"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error
    found: Layer = {}
    for section, knobs in document.items():
        if section not in _sections(known):
            what = f"[{section}] is no section of knobs" if isinstance(knobs, dict) else section
            raise _unknown(str(path), what, section, [*_sections(known), *known])
        if not isinstance(knobs, dict):
            raise UsageError(f"{path}: {section} is a section; write [{section}] above its knobs")
        for name, value in knobs.items():
            found[_known(f"{section}.{name}", known, str(path))] = Said(value, origin, str(path))
    return found


def of_environment(environment: Mapping[str, str], known: Sequence[str]) -> Layer:
    """Knobs that variables MEGAPHONE_<SECTION>__<KNOB> say.

    Other variables are none of our business, except those that only lack an underscore. Kubernetes
    makes such variables of the names of services; their values are addresses.

    Raises:
        UsageError: a variable names no section or no knob (CL2).
    """
    single = {name.upper().replace(".", "_"): name for name in known}
    found: Layer = {}
    for variable, text in environment.items():
        if not variable.startswith(PREFIX):
            continue
        section, nested, rest = variable.removeprefix(PREFIX).partition(_NEST)
        if not nested:
            meant = single.get(section)
            if meant is not None and "://" not in text:
                raise UsageError(
                    f"{variable} sets nothing: it is {variable_of(meant)}, with two underscores "
                    f"behind the section {_SEE}"
                )
            continue
        if section.lower() not in _sections(known):
            near = get_close_matches(section.lower(), _sections(known), 1)
            guess = f"did you mean {near[0].upper()}? There are" if near else "there are"
            names = ", ".join(name.upper() for name in _sections(known))
            raise UsageError(f"{variable} names no section of knobs; {guess} {names} {_SEE}")
        name = _known(f"{section}.{rest}".lower(), known, variable)
        found[name] = Said(_value(text, variable), Origin.ENVIRONMENT, variable)
    return found


def of_settings(settings: Iterable[str], known: Sequence[str]) -> Layer:
    """Knobs that `--set section.knob=value` says; of several for one knob the last one counts.

    Raises:
        UsageError: one has no `=` or names no knob (CL2).
    """
    found: Layer = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip()
        if not equals:
            raise UsageError(f"--set {name} says no value; write --set gateway.tick_ms=5")
        place = f"--set {name}"
        found[_known(name, known, place)] = Said(_value(text, place), Origin.COMMAND_LINE, place)
    return found


def variable_of(knob: str) -> str:
    """The variable that sets a knob.

    >>> variable_of("gateway.tick_ms")
    'MEGAPHONE_GATEWAY__TICK_MS'
    """
    return PREFIX + knob.replace(".", _NEST, 1).upper()


def _value(text: str, place: str) -> object:
    """A text as it is; lists and tables as JSON or TOML writes them."""
    if not text.lstrip().startswith(("[", "{")):
        return text
    with suppress(ValueError):
        found: object = json.loads(text)
        return found
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError as error:
        # Not the error's own words: they may hold a part of the value (CL3).
        raise UsageError(f"{place} is no list or table as JSON or TOML writes it") from error


def _known(name: str, known: Sequence[str], place: str) -> str:
    if name not in known:
        raise _unknown(place, name, name, known)
    return name


def _unknown(place: str, what: str, name: str, known: Iterable[str]) -> UsageError:
    """Say which known name is nearest: the same word in another section, else a like one."""
    known = list(known)
    word = name.rpartition(".")[2]
    same = [each for each in known if each.rpartition(".")[2] == word]
    words = {each.rpartition(".")[2]: each for each in known}
    like = get_close_matches(name, known, 1) or [
        words[each] for each in get_close_matches(word, words, 1)
    ]
    near = f"; did you mean {(same or like)[0]}?" if same or like else ""
    what = f"{what} is no knob" if what == name else what
    return UsageError(f"{place}: {what}{near} {_SEE}")


def _sections(known: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(name.partition(".")[0] for name in known))
