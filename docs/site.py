"""What the site needs beyond docs/: the pages beside it, and links that hold both on GitHub and in the site.

A hook of mkdocs (see mkdocs.yml). A link to another file of the repository leads to a copy of that file.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
BESIDE = {  # pages of the repository that are not in docs/
    "README.md": "readme.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "bench/RESULTS.md": "results.md",
    "src/onecycle/data/DIGITS.md": "digits.md",
}
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)(?=(#[^)\s]*)?\))")
ITEM = re.compile(r"([-*]|1\.) ")


def on_files(files, config):
    for path, name in BESIDE.items():
        files.append(File.generated(config, name, content=(ROOT / path).read_text(encoding="utf-8")))
    for page in [*BESIDE, *(f"docs/{file.src_uri}" for file in files.documentation_pages() if not file.generated_by)]:
        for path in linked(page):
            if files.get_file_from_path(f"files/{path}") is None:
                files.append(File.generated(config, f"files/{path}", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown, page, config, files):
    origin = {name: path for path, name in BESIDE.items()}.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return with_blank_lines(LINK.sub(lambda match: moved(match[1], origin, page.file.src_uri), markdown))


def moved(link: str, origin: str, page: str) -> str:
    """The link of a page, written where the repository has it, as the site has it."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))
    if path.startswith("docs/"):
        target = path.removeprefix("docs/")
    elif path in BESIDE:
        target = BESIDE[path]
    elif (ROOT / path).is_file():
        target = f"files/{path}"
    else:
        return link
    return posixpath.relpath(target, posixpath.dirname(page) or ".")


def linked(page: str) -> list[str]:
    """The files of the repository that a page links to, beside pages and what is in docs/."""
    links = LINK.findall((ROOT / page).read_text(encoding="utf-8"))
    paths = {posixpath.normpath(posixpath.join(posixpath.dirname(page), link)) for link, _ in links}
    return sorted(
        path for path in paths if not path.startswith("docs/") and path not in BESIDE and (ROOT / path).is_file()
    )


def with_blank_lines(markdown: str) -> str:
    """With an empty line before each list that follows a text: GitHub needs none, Python-Markdown does."""
    lines: list[str] = []
    fenced = listed = False
    for line in markdown.split("\n"):
        if line.startswith("```"):
            fenced = not fenced
        item = bool(ITEM.match(line)) and not fenced
        if item and not listed and lines and lines[-1]:
            lines.append("")
        listed = item or (listed and bool(line))
        lines.append(line)
    return "\n".join(lines)
