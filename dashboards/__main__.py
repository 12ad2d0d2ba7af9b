"""`python -m dashboards`: writes deploy/grafana/dashboards; `--check` only compares.

Flow: BOARDS -> dashboard_of -> <uid>.json. Needs the packages of the extra `dev`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dashboards.boards import BOARDS
from dashboards.grafana import dashboard_of

FOLDER = Path(__file__).parents[1] / "deploy" / "grafana" / "dashboards"


def texts() -> dict[Path, str]:
    """What each file is to hold."""
    return {FOLDER / f"{board.uid}.json": dashboard_of(board) for board in BOARDS}


def stale() -> list[Path]:
    """Files that differ from what they are to hold, are missing, or are not to be there."""
    wanted = texts()
    found = {path: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}
    return sorted(
        path for path in wanted.keys() | found.keys() if wanted.get(path) != found.get(path)
    )


def main() -> int:
    """Write or check; the exit status."""
    different = stale()
    if "--check" in sys.argv[1:]:
        for path in different:
            sys.stderr.write(f"{path} is not what `python -m dashboards` writes\n")
        return int(bool(different))
    FOLDER.mkdir(parents=True, exist_ok=True)
    wanted = texts()
    for path in different:
        if path in wanted:
            path.write_text(wanted[path], encoding="utf-8")
        else:
            path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
