"""Every example in README.md and docs/*.md runs, in the order of the page.

The blocks of one page share a temporary directory, and its Python blocks one namespace. In a `console` or `sh`
block the lines that start with `$ onecycle` run (a trailing backslash continues them) and must exit with 0. The
comment ``<!-- skip: reason -->`` before a block leaves it out; the reason shows in the test report. The comment
``<!-- needs: lightning -->`` does so where no module of that name (or of one of several, with commas) is installed.
``<!-- tried with: --limit 200 -->`` adds these arguments to the commands of a block whose printed result takes long.
Data that a reader has are made for a page that says ``<!-- given: photos -->``: they stand for the reader's own.
"""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onecycle.commands.app import main

ROOT = Path(__file__).parents[1]
PAGES = [page for page in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))] if page.exists()]
FENCE = re.compile(
    r"(?:^<!-- (?:skip: (?P<skip>.+?)|needs: (?P<needs>.+?)|tried with: (?P<more>.+?)) -->\n+)?"
    r"^```(?P<language>python|console|sh)\n(?P<text>.*?)^```$",
    re.M | re.S,
)
GIVEN = re.compile(r"^<!-- given: (.+?) -->$", re.M)
COMMAND = re.compile(r"^\$ onecycle (.*)$", re.M)


def photos() -> None:
    """12 images of each of two classes, one darker than the other."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(("ants", "bees")):
        folder = Path("photos") / name
        folder.mkdir(parents=True)
        for index in range(12):
            pixels = rng.integers(0, 100, (32, 32, 3)) + 150 * number
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")


def penguins() -> None:
    """120 rows with the columns of the penguins, gaps too."""
    rng = np.random.default_rng(0)
    lines = ["species,island,bill_length_mm,bill_depth_mm,flipper_length_mm,body_mass_g,sex"]
    for index in range(120):
        number = index % 3
        measures = [f"{middle + number * step + rng.normal():.1f}" for middle, step in ((38, 5), (18, -1), (190, 9))]
        mass = "" if index == 7 else str(3500 + 500 * number)
        lines.append(",".join([("Adelie", "Chinstrap", "Gentoo")[number], "Biscoe", *measures, mass, "FEMALE"]))
    Path("penguins.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


STAND_INS = {"photos": photos, "penguins.csv": penguins}


@dataclass(frozen=True)
class Block:
    """One fenced block: its page, the line its text starts on, why it is left out, if it is, the hosts it needs, and
    further arguments of its commands."""

    page: Path
    line: int
    language: str
    text: str
    skip: str | None
    needs: tuple[str, ...] = ()
    more: tuple[str, ...] = ()

    def run(self, namespace: dict) -> None:
        if self.language == "python":  # the empty lines make a traceback point into the page
            exec(compile("\n" * (self.line - 1) + self.text, self.page, "exec"), namespace)
        else:
            for arguments in commands(self.text):
                self.run_command([*arguments, *self.more])

    def run_command(self, arguments: list[str]) -> None:
        """In this process, which has imported everything already: a process of its own takes seconds for that."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["onecycle", *arguments])
            try:
                main(arguments)
            except SystemExit as stop:
                assert not stop.code, f"{self.page.name}:{self.line}: onecycle {shlex.join(arguments)}: {stop.code}"


def blocks(text: str, page: Path) -> list[Block]:
    def block(match: re.Match) -> Block:
        line = text.count("\n", 0, match.start("text")) + 1
        needs = tuple((match["needs"] or "").replace(",", " ").split())
        absent = [name for name in needs if find_spec(name) is None]
        skip = f"{', '.join(absent)} not installed here: make hosts" if absent else match["skip"]
        return Block(page, line, match["language"], match["text"], skip, needs, tuple(shlex.split(match["more"] or "")))

    return [block(match) for match in FENCE.finditer(text)]


def commands(text: str) -> list[list[str]]:
    return [shlex.split(command, comments=True) for command in COMMAND.findall(text.replace("\\\n", " "))]


FOUND = {page: blocks(page.read_text(encoding="utf-8"), page) for page in PAGES}
LEFT_OUT = [  # each gets a line of its own in the report
    pytest.param(page, id=f"{page.name}:{block.line}", marks=pytest.mark.skip(reason=block.skip))
    for page, found in FOUND.items()
    for block in found
    if block.skip
]
HOSTS = [pytest.mark.hosts, pytest.mark.filterwarnings("default", "error:::onecycle")]  # a host's warnings are its own


def whole(page: Path):
    return pytest.param(page, id=page.name, marks=HOSTS if any(block.needs for block in FOUND[page]) else ())


@pytest.mark.parametrize("page", [*map(whole, PAGES), *LEFT_OUT])
def test_examples_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in GIVEN.findall(page.read_text(encoding="utf-8")):
        STAND_INS[name]()
    namespace = {"__name__": "__main__"}
    for block in FOUND[page]:
        if not block.skip:
            block.run(namespace)


PAGE = """\
```python
x = 1
```

<!-- skip: needs a GPU -->
```python
raise AssertionError
```

<!-- needs: torch, no_such_host -->
```python
raise AssertionError
```

<!-- tried with: --epochs 1 -->
```console
$ onecycle policy one_cycle \\
    --lr-max 0.1  # comment
some output
$ ls
```
"""


def test_blocks_are_found():
    python, skipped, hosted, console = blocks(PAGE, Path("page.md"))
    assert (python.line, python.text, python.skip) == (2, "x = 1\n", None)
    assert skipped.skip == "needs a GPU" and hosted.skip == "no_such_host not installed here: make hosts"
    assert hosted.needs == ("torch", "no_such_host") and console.more == ("--epochs", "1")
    assert commands(console.text) == [["policy", "one_cycle", "--lr-max", "0.1"]]


def test_a_failing_block_names_its_line():
    block = Block(Path("page.md"), 7, "python", "y = 1\nraise KeyError(y)\n", None)
    with pytest.raises(KeyError) as raised:
        block.run({})
    assert raised.traceback[-1].lineno == 7  # counted from 0: the page's eighth line
