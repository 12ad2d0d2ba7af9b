"""Where experiments are kept: setups, results and charts, by the commit that was measured.

Flow: WordOptions -> [Store] -> setups/COMMIT/NAME/options.json, results/COMMIT/NAME/{stdout.0,
document.json, done}, charts/COMMIT/.

Invariants
  ES1  A run's name is what it was asked for: every parameter that is not the default, sorted.
  ES2  `done` is written last: a run that was broken off is made again.
  ES3  A checkout with changed files is a commit of its own name (`-dirty`), which is never mixed
       with the commit.
Source: the original keeps its experiments under the same three folders.
"""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path

import msgspec

from service.bench.words.options import WordOptions

OPTIONS, LINES, DOCUMENT, DONE = "options.json", "stdout.0", "document.json", "done"


def name_of(options: WordOptions) -> str:
    """The run's name (ES1)."""
    default = {each.name: each.default for each in fields(WordOptions)}
    named = {
        name: value
        for name, value in asdict(options).items()
        if value != default[name] or name in ("backend", "rate", "domain", "bins", "migration")
    }
    return "+".join(f"{name}={_text(value)}" for name, value in sorted(named.items()))


class Store:
    """The three folders of one commit."""

    def __init__(self, folder: Path, commit: str) -> None:
        """Keep everything under `folder`."""
        self._setups = folder / "setups" / commit
        self._results = folder / "results" / commit
        self.charts = folder / "charts" / commit

    def is_done(self, options: WordOptions) -> bool:
        """Whether the run was made before (ES2)."""
        return (self._results / name_of(options) / DONE).exists()

    def lines(self, options: WordOptions) -> Path:
        """Where the lines of a run are, or will be."""
        return self._results / name_of(options) / LINES

    def document(self, options: WordOptions) -> Path:
        """Where the contract's document of a run is, or will be."""
        return self._results / name_of(options) / DOCUMENT

    def prepare(self, options: WordOptions) -> None:
        """Write down what is to be run."""
        folder = self._setups / name_of(options)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / OPTIONS).write_bytes(msgspec.json.format(msgspec.json.encode(asdict(options))))

    def keep(self, options: WordOptions, lines: list[str], document: str) -> None:
        """Keep what a run printed (ES2)."""
        folder = self._results / name_of(options)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LINES).write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.document(options).write_text(document + "\n", encoding="utf-8")
        (folder / DONE).touch()


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
