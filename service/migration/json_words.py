"""JSON values in words, for the sentences that say what is wrong with a request.

Flow: requests -> [kind_of, shown] -> reason. Pure.
"""

from __future__ import annotations

import msgspec

#: Values are shown in a reason up to this length.
_SHOWN_CHARS = 60


def kind_of(value: object) -> str:
    """What a JSON value is, in JSON's own words."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case str():
            return "a string"
        case list():
            return "an array"
        case dict():
            return "an object"
        case float():
            return f"the number {value:g}, which has a fraction or an exponent"
        case _:
            return "a number"


def shown(value: object) -> str:
    """A value for a person, cut short."""
    # msgspec writes integers up to 64 bits only.
    is_number = isinstance(value, int) and not isinstance(value, bool)
    text = str(value) if is_number else msgspec.json.encode(value).decode()
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"
