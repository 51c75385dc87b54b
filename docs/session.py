"""The recorded session of the tutorial on photos: what its terminal shows as SVG, and the page of its run as PNG.

    python docs/session.py PHOTOS

PHOTOS has the folders train and val of hymenoptera; Chromium draws the page. It takes about four minutes. The
photos are those of others, and so are blurred in the picture of the page.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.text import Text

IMAGES = Path(__file__).parent / "images"
WIDTH = 100  # columns of the terminal
LINES = 24  # of the output of a command, of which the middle is left out where it is longer
COMMANDS = (
    "onecycle train photos --pretrained --budget 3m --out run --model onecycle.models.packages:efficientnet_lite0",
    "onecycle predict run photos/val/ants --top-k 2 --out -",
)


def shown(command: str, folder: Path) -> list[str]:
    """The command and what it prints, as lines."""
    environment = {**os.environ, "COLUMNS": str(WIDTH), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, "-m", *command.split()],
        cwd=folder,
        env=environment,
        text=True,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    lines = done.stdout.splitlines()
    if len(lines) > LINES:
        left = len(lines) - LINES + 1
        lines = [*lines[: LINES // 2], f"... {left} lines ...", *lines[-(LINES - LINES // 2 - 1) :]]
    return [f"$ {command}", *lines, ""]


def draw_page(page: Path, picture: Path) -> None:
    """Draw the page down to its curves, which are drawn when a reader comes to them."""
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1280, "height": 1000}, device_scale_factor=0.75)
        opened.goto(page.as_uri())
        opened.add_style_tag(content=".samples img { filter: blur(8px) }")
        for figure in opened.locator(".plot").all():
            figure.scroll_into_view_if_needed()
            figure.locator(".main-svg").first.wait_for()
        curves = opened.locator("section[aria-labelledby=runs] figure").last.bounding_box() or {}
        below = opened.evaluate("scrollY") + curves["y"] + curves["height"]
        opened.evaluate("scrollTo(0, 0)")
        opened.screenshot(path=picture, full_page=True, clip={"x": 0, "y": 0, "width": 1280, "height": below + 20})
        browser.close()


def main() -> None:
    photos = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "photos").symlink_to(photos)
        console = Console(record=True, width=WIDTH, file=io.StringIO())
        for command in COMMANDS:
            for line in shown(command, folder):
                console.print(Text(line, style="bold" if line.startswith("$ ") else ""), soft_wrap=False)
        drawn = console.export_svg(title="from a folder of photos to predictions")
        fonts = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # which would be asked of another host
        (IMAGES / "session.svg").write_text(fonts.sub("", drawn), encoding="utf-8")
        draw_page(folder / "run" / "report.html", IMAGES / "session-page.png")


if __name__ == "__main__":
    main()
