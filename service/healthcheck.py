"""Whether the process of this container is alive, or ready: for a container engine's health check.

Flow: engine -> `python -m service.healthcheck [/readyz]` -> /healthz of the process -> exit status.

Asked every few seconds, so it imports no more than the standard library: 0.1 s of processor time,
where the `megaphone` command takes two. It knows the port as the process does, by http.port in the
environment; Kafka is not asked, by either side.
"""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Mapping, Sequence

_EVERYWHERE = ("", "0.0.0.0", "::", "[::]")  # noqa: S104 - recognised, not bound
_TIMEOUT_S = 3.0


def ask(path: str, environment: Mapping[str, str]) -> tuple[bool, str]:
    """What the process says at `path`: whether it is well, and its sentence."""
    host = environment.get("MEGAPHONE_HTTP__HOST", "")
    port = environment.get("MEGAPHONE_HTTP__PORT", "")
    if not port.isdecimal() or not int(port):
        return False, "MEGAPHONE_HTTP__PORT names no port to ask at"
    address = "127.0.0.1" if host in _EVERYWHERE else host
    connection = http.client.HTTPConnection(address, int(port), timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status == http.client.OK, answer.read().decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        return False, f"no answer at {address}:{port}: {error}"
    finally:
        connection.close()


def main(arguments: Sequence[str]) -> int:
    """Print what the process says; 0 if it is well, 1 if not."""
    well, said = ask(arguments[0] if arguments else "/healthz", os.environ)
    sys.stdout.write(f"{said}\n")
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
