"""The recorded session of the tutorial on photos: what its terminal shows as SVG, and the page of its run as PNG.

    python docs/session.py PHOTOS

PHOTOS has the folders train and val of hymenoptera; Chromium draws the page. It takes about four minutes. The photos
are those of others, and so are blurred in the picture of the page.
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
        page, picture = folder / "run" / "report.html", IMAGES / "session-page.png"
        page.write_text(page.read_text(encoding="utf-8") + "<style>img { filter: blur(8px) }</style>", encoding="utf-8")
        chromium = shutil.which("chromium") or "chromium"
        # as far as the charts over time, which are drawn when a reader comes to them
        asked = ["--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1280,2320"]
        subprocess.run(
            [chromium, *asked, f"--screenshot={picture}", page.as_uri()],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


if __name__ == "__main__":
    main()
