"""What the site needs and the documents do not: the project's own pages, links that stay in it.

Flow: mkdocs -> [on_files, on_page_markdown] -> pages. A document links to files of the repository;
on the site, a link to a file that is no page becomes its text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
#: Page of the site -> the file at the project's root that it is made of.
PAGES = {
    "project/overview.md": "README.md",
    "project/contributing.md": "CONTRIBUTING.md",
    "project/changelog.md": "CHANGELOG.md",
}
_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")
#: The word behind a fence's language is for tests; Markdown would take the block for a sentence.
_LABEL = re.compile(r"^```(\w+) \S+$", re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Add the documents that stand at the project's root."""
    for page, name in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Lead links to pages of the site, and take away those that lead out of it."""
    here = page.file.src_uri
    source = PAGES.get(here, f"docs/{here}")
    made = {name: each for each, name in PAGES.items()}

    def led(found: re.Match[str]) -> str:
        text, link = found.groups()
        target, hash_, anchor = link.partition("#")
        if "://" in link or not target:
            return found.group()
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        uri = made.get(path) or path.removeprefix("docs/")
        outside = path not in made and not path.startswith("docs/")
        if outside or files.get_file_from_path(uri) is None:
            return text
        return f"[{text}]({posixpath.relpath(uri, posixpath.dirname(here))}{hash_}{anchor})"

    return _LINK.sub(led, _LABEL.sub(r"```\1", markdown))
