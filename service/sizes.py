"""Numbers of bytes as people write them.

Flow: text of an option -> [bytes_of] -> a number.
"""

from __future__ import annotations

import re

from service.errors import UsageError

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}
_FORM = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")


def bytes_of(text: str, option: str) -> int:
    """The number of bytes that `text` says, such as 4GiB, 1.5 GB or 1048576.

    Args:
        text: a number, and perhaps KB, MB, GB, TB, KiB, MiB, GiB or TiB.
        option: what to call it in an error.

    Raises:
        UsageError: it is no such number.

    >>> bytes_of("1.5 GiB", "--state-memory")
    1610612736
    """
    found = _FORM.fullmatch(text.strip())
    unit = _UNITS.get(found[2].upper()) if found else None
    if found is None or unit is None:
        raise UsageError(f"{option} {text!r} is no number of bytes; write 4GiB, 500MB or 1048576")
    return int(float(found[1]) * unit)
