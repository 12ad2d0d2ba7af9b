"""The documents as a site, built strictly: a link or an anchor that leads nowhere fails it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def build(folder: Path, *, config: Path = ROOT / "mkdocs.yml") -> subprocess.CompletedProcess[str]:
    """Build the site into a folder."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    return subprocess.run(
        [*command, "--config-file", str(config)], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_document_becomes_a_page(site: Path) -> None:
    documents = {path.relative_to(ROOT / "docs") for path in ROOT.glob("docs/**/*.md")}
    pages = {path.relative_to(site).with_suffix("") for path in site.rglob("*.html")}
    names = {
        each.with_name("index") if each.name == "README.md" else each.with_suffix("")
        for each in documents
    }
    assert names - pages == set()
    assert {Path("project/overview"), Path("project/changelog")} <= pages


def test_code_is_shown_as_code_and_links_out_of_the_site_are_words(site: Path) -> None:
    assert "import pyarrow" in (site / "FLOWS.html").read_text(encoding="utf-8")
    for path in site.rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        assert "```" not in page, path
        assert 'href="../service' not in page, path


def test_a_link_to_nowhere_fails_the_build(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text("# Title\n\n[there](index.md#nowhere)\n")
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    strict = config[config.index("validation:") : config.index("nav:\n  - Overview")]
    (tmp_path / "mkdocs.yml").write_text(f"site_name: small\n{strict}")
    done = build(tmp_path / "site", config=tmp_path / "mkdocs.yml")
    assert done.returncode == 1
    assert "nowhere" in done.stderr
