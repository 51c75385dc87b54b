"""Draw the packages of onecycle, their files and what each imports, from the code: docs/images/house.svg.

    python docs/house.py

A row is a package, in the order in which imports may point (downwards, as `pyproject.toml` has it); a dot in a column
says that the row imports something of that package.
"""

from __future__ import annotations

import ast
import tomllib
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src" / "onecycle"
PICTURE = ROOT / "docs" / "images" / "house.svg"
LEFT, NAME, ROW, COLUMN, TOP = 20, 118, 46, 30, 118
CHARACTERS = 82  # of file names in a line


def floors() -> list[str]:
    """The packages and the files beside them, from the top floor down."""
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    return [name.strip() for layer in contract["layers"] for name in layer.split("|")]


def files(name: str) -> list[Path]:
    """The modules of a package; the one file of a module at the top."""
    return sorted((SRC / name).glob("*.py")) if (SRC / name).is_dir() else [SRC / f"{name}.py"]


def imported(name: str) -> set[str]:
    """The floors that a floor imports from, also inside functions."""
    found = set()
    for path in files(name):
        package = ["onecycle", *path.relative_to(SRC).parent.parts]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                base = package[: len(package) - node.level + 1] if node.level else []
                module = [*base, *(node.module.split(".") if node.module else [])]
                if module[0] == "onecycle":
                    found |= {module[1]} if len(module) > 1 else {alias.name for alias in node.names}
    return found - {name}


def wrapped(words: list[str]) -> list[str]:
    """The words in lines of `CHARACTERS`."""
    lines = [""]
    for word in words:
        if len(lines[-1]) + len(word) > CHARACTERS:
            lines.append("")
        lines[-1] += f" · {word}" if lines[-1] else word
    return lines


def draw() -> str:
    """The picture as SVG."""
    names = floors()
    lists = [wrapped([path.stem for path in files(name) if path.stem != "__init__"]) for name in names]
    heights = [max(ROW, 20 + 15 * len(lines)) for lines in lists]
    dots = LEFT + NAME + 560
    width, height = dots + COLUMN * len(names) + 40, TOP + sum(heights) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="30" font-size="17" font-weight="bold">The house of onecycle</text>',
        f'<text x="{LEFT}" y="52" fill="#555">A row may import from the rows below it. A dot: it does.</text>',
    ]
    for i, name in enumerate(names):
        x = dots + COLUMN * i + 12
        parts.append(f'<text x="{x}" y="{TOP - 10}" transform="rotate(-55 {x} {TOP - 10})">{escape(name)}</text>')
    y = TOP
    for i, (name, lines, tall) in enumerate(zip(names, lists, heights, strict=True)):
        shade = "#f3f6fa" if i % 2 else "#e6edf5"
        parts.append(f'<rect x="{LEFT}" y="{y}" width="{width - LEFT - 40}" height="{tall - 3}" fill="{shade}"/>')
        parts.append(f'<text x="{LEFT + 10}" y="{y + 20}" font-weight="bold">{escape(name)}</text>')
        for k, line in enumerate(lines):
            parts.append(f'<text x="{LEFT + NAME}" y="{y + 20 + 15 * k}" fill="#333">{escape(line.strip())}</text>')
        below = imported(name)
        for j, other in enumerate(names):
            if other in below:
                parts.append(f'<circle cx="{dots + COLUMN * j + 12}" cy="{y + tall / 2:g}" r="5" fill="#0072B2"/>')
        y += tall
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
    print(f"drawn in {PICTURE}")
