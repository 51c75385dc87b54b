"""Run every reproduction at one of its sizes, keep the figures, and print their sections of docs/reproduction.md.

    python bench/reproduction.py [--size small] [--out reproductions] [--jobs 2] [NAME...]

What is in the folder already is not run again: it is drawn and said anew. CIFAR-10 has to be known (docs/data.md).
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

from onecycle.reproduction.protocol import NAMES, SIZES, Protocol, read, sizes
from onecycle.reproduction.reproduce import Reproduction, reproduce

IMAGES = Path(__file__).parents[1] / "docs/images/reproduction"


def section(found: Reproduction) -> str:
    """Its part of the page: what was claimed, the figure, what came out."""
    protocol = found.protocol
    _, claimed, verdict, *findings = found.summary
    command = f"onecycle reproduce {protocol.name}" + ("" if protocol.size == "small" else f" --size {protocol.size}")
    return "\n\n".join([
        f"## {protocol.title}",
        f"`{command}`. {claimed} ({protocol.source}.)",
        f"![{protocol.title}: published beside measured here](images/reproduction/{image(protocol)})",
        f"**{verdict}**\n\n" + "\n".join(findings),
    ])  # fmt: skip


def image(protocol: Protocol) -> str:
    """The name of its figure."""
    return f"{protocol.name}.png" if protocol.size == "small" else f"{protocol.name}-{protocol.size}.png"


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("names", nargs="*")
    arguments.add_argument("--size", default="small", choices=SIZES)
    arguments.add_argument("--out", type=Path, default=Path("reproductions"))
    arguments.add_argument("--jobs", type=int, default=2)
    options = arguments.parse_args()
    IMAGES.mkdir(parents=True, exist_ok=True)
    for name in options.names or [name for name in NAMES if options.size in sizes(name)]:
        protocol = read(name, options.size)
        began = time.perf_counter()
        found = reproduce(name, options.size, options.out / Path(image(protocol)).stem, jobs=options.jobs)
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
        shutil.copy(found.draw(), IMAGES / image(protocol))
        print(section(found), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
