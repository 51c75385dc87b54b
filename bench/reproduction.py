"""Run every reproduction at its small size, keep the figures, and print their sections of docs/reproduction.md.

    python bench/reproduction.py [--out reproductions] [--jobs 2] [NAME...]

What is in the folder already is not run again: it is drawn and said anew. CIFAR-10 has to be known (docs/data.md).
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

from onecycle.reproduction.protocol import NAMES, read
from onecycle.reproduction.reproduce import Reproduction, reproduce

IMAGES = Path(__file__).parents[1] / "docs/images/reproduction"


def section(found: Reproduction) -> str:
    """Its part of the page: what was claimed, the figure, what came out."""
    protocol = found.protocol
    _, claimed, verdict, *findings = found.summary
    return "\n\n".join([
        f"## {protocol.title}",
        f"`onecycle reproduce {protocol.name}`. {claimed} ({protocol.source}.)",
        f"![{protocol.title}: published beside measured here](images/reproduction/{protocol.name}.png)",
        f"**{verdict}**\n\n" + "\n".join(findings),
    ])  # fmt: skip


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("names", nargs="*", default=NAMES)
    arguments.add_argument("--out", type=Path, default=Path("reproductions"))
    arguments.add_argument("--jobs", type=int, default=2)
    options = arguments.parse_args()
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name in options.names:
        read(name)
        began = time.perf_counter()
        found = reproduce(name, out=options.out / name, jobs=options.jobs)
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        shutil.copy(found.draw(), IMAGES / f"{name}.png")
        print(section(found), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
