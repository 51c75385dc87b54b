"""The pages of docs/ as a site: each with what GitHub shows, its links whole, and nothing asked of other hosts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("mkdocs")
pytest.importorskip("material")
markdown_it = pytest.importorskip("markdown_it")

ROOT = Path(__file__).parents[1]
BESIDE = {
    "README.md": "readme",
    "CHANGELOG.md": "changelog",
    "CONTRIBUTING.md": "contributing",
    "bench/RESULTS.md": "results",
    "src/onecycle/data/DIGITS.md": "digits",
}
PAGES = {ROOT / path: name for path, name in BESIDE.items()}
PAGES |= {page: page.stem for page in (ROOT / "docs").glob("*.md")}
PARTS = ("h1", "h2", "h3", "ul", "ol", "li", "table", "tr", "pre", "img")
OTHER_HOST = re.compile(r"(https?:)?//")


class Tags(HTMLParser):
    """How often each tag begins, and what a browser would ask other hosts for to show the page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self.elsewhere: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] += 1
        asked = [value for key, value in attrs if key in ("src", "href") and value]
        self.elsewhere += [value for value in asked if tag != "a" and OTHER_HOST.match(value)]


def build(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder), *options]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(folder)  # a link or an anchor that leads nowhere, or a page that no menu has, is an error
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_pages_have_what_github_shows(site):
    github = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table")
    for page, name in PAGES.items():
        html = (site / f"{name}.html").read_text(encoding="utf-8")
        article = html[html.index("<article") : html.index("</article>")]
        there, here = Tags(github.render(page.read_text(encoding="utf-8"))).count, Tags(article).count
        assert {tag: here[tag] for tag in PARTS} == {tag: there[tag] for tag in PARTS}, page


def test_nothing_is_asked_of_other_hosts(site):
    for page in site.rglob("*.html"):
        assert Tags(page.read_text(encoding="utf-8")).elsewhere == [], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(https?:)?//", sheet.read_text(encoding="utf-8")), sheet


def test_links_into_the_repository_lead_to_its_files(site):
    links = re.findall(r'href="(files/[^"#]+)', (site / "architecture.html").read_text(encoding="utf-8"))
    assert "files/pyproject.toml" in links
    assert [(site / link).read_bytes() for link in links] == [(ROOT / link[6:]).read_bytes() for link in links]


def test_an_anchor_that_is_not_there_is_an_error(tmp_path):
    pages = tmp_path / "docs"
    pages.mkdir()
    for page in (ROOT / "docs").glob("*.md"):
        (pages / page.name).write_text("# Page\n", encoding="utf-8")
    (pages / "index.md").write_text("# Page\n[here](shell.md#no-such-part)\n", encoding="utf-8")
    settings = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    settings = settings.replace("docs_dir: docs", f"docs_dir: {pages}").replace(
        "docs/site.py", str(ROOT / "docs/site.py")
    )
    (tmp_path / "mkdocs.yml").write_text(settings, encoding="utf-8")
    done = build(tmp_path / "site", "-f", str(tmp_path / "mkdocs.yml"))
    assert done.returncode != 0 and "no-such-part" in done.stdout + done.stderr
