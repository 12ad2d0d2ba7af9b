"""`python -m dashboards`: writes the dashboards, and the alerts for Grafana and Kubernetes.

Flow: BOARDS -> dashboard_of -> <uid>.json; deploy/prometheus/alerts.yml -> rules_of -> Grafana's
rules, and rules.yaml of k8s. With `--check` it only compares. It needs the packages of the extra
`dev`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import indent

from dashboards.alerting import rules_of
from dashboards.boards import BOARDS
from dashboards.grafana import dashboard_of

_ROOT = Path(__file__).parents[1]
FOLDER = _ROOT / "deploy" / "grafana" / "dashboards"
ALERTS = _ROOT / "deploy" / "prometheus" / "alerts.yml"
GRAFANAS = _ROOT / "deploy" / "grafana" / "provisioning" / "alerting" / "megaphone.yml"
RULES = _ROOT / "k8s" / "components" / "monitoring" / "rules.yaml"
_HEAD = """\
# deploy/prometheus/alerts.yml as Prometheus' operator reads it; `python -m dashboards` writes it.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: megaphone
  labels:
    app.kubernetes.io/name: megaphone
spec:
"""


def texts() -> dict[Path, str]:
    """What each file is to hold."""
    boards = {FOLDER / f"{board.uid}.json": dashboard_of(board) for board in BOARDS}
    alerts = ALERTS.read_text(encoding="utf-8")
    _, _, groups = alerts.partition("\ngroups:\n")
    operators = _HEAD + indent(f"groups:\n{groups}", "  ")
    return {**boards, GRAFANAS: rules_of(alerts), RULES: operators}


def stale() -> list[Path]:
    """Files that differ from what they are to hold, are missing, or are not to be there."""
    wanted = texts()
    there = [*FOLDER.glob("*.json"), *(path for path in wanted if path.exists())]
    found = {path: path.read_text(encoding="utf-8") for path in there}
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
    for folder in (FOLDER, GRAFANAS.parent):
        folder.mkdir(parents=True, exist_ok=True)
    wanted = texts()
    for path in different:
        if path in wanted:
            path.write_text(wanted[path], encoding="utf-8")
        else:
            path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
