"""Lengths of time as people write them.

Flow: text of an option or of a flow -> [microseconds_of] -> a number.
"""

from __future__ import annotations

import re
from datetime import timedelta

from service.errors import UsageError

_UNITS = {
    "us": 1,
    "ms": 10**3,
    "s": 10**6,
    "m": 60 * 10**6,
    "h": 3_600 * 10**6,
    "d": 86_400 * 10**6,
}
_FORM = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)")
_MICROSECOND = timedelta(microseconds=1)

#: A length of time in a user's flow: "10s", "500ms", "1.5 h" or a timedelta.
Duration = str | timedelta


def microseconds_of(duration: Duration, of: str) -> int:
    """The microseconds that `duration` says, such as 10s, 1.5h or a timedelta; never negative.

    Args:
        duration: a number and one of us, ms, s, m, h and d, or a timedelta.
        of: what to call it in an error.

    Raises:
        UsageError: it is no such length of time.

    >>> microseconds_of("1.5s", "--tick")
    1500000
    """
    if isinstance(duration, timedelta):
        if duration < timedelta(0):
            raise UsageError(f"{of} is {duration}; it must not be negative")
        return duration // _MICROSECOND
    found = _FORM.fullmatch(duration.strip())
    unit = _UNITS.get(found[2]) if found else None
    if found is None or unit is None:
        raise UsageError(f"{of} {duration!r} is no length of time; write 10s, 500ms or 1.5h")
    return round(float(found[1]) * unit)
