"""The page: its size, the time to write it and the time to open it in Chromium, for 1, 20 and 200 runs.

    python bench/page.py [--loads 9] [--updates 500] [--runs 1 20 200]

One small run is trained for real and its records are copied under other seeds, with a little noise in the losses, so
that nothing in the page is shared by chance: `one group` are runs that differ in their seed alone, `groups of 5` differ
in their weight decay too, five seeds each. `comparison` is a folder of `onecycle compare` with that many runs below it.

Each load is the page in a new context of a browser that runs, 1280 by 800 pixels: "open" from the start of the
navigation until the first figure, scrolled to where a table is above it, and all others in view are drawn and painted
(those further down are drawn when they come near); "draw all" until each has been scrolled to and is drawn.
"Computing" is the time in which the page's thread had a processor, which other work on the machine changes little.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from onecycle.jobs.job import Job
from onecycle.jobs.run import run
from onecycle.records.read import read
from onecycle.report.page import html, page

# When the first figure and those in view, or all of them, are drawn and painted: milliseconds since the navigation.
DRAWN = """all => new Promise(done => {
    const plots = [...document.querySelectorAll('.plot')];
    const isNear = (plot, i) => all || i === 0 || plot.getBoundingClientRect().top < innerHeight;
    const look = () => {
        const next = plots.filter(isNear).find(plot => !plot.querySelector('.trace'));
        if (!next) return requestAnimationFrame(() => done(performance.now()));
        if (next.getBoundingClientRect().top > innerHeight) next.scrollIntoView();
        requestAnimationFrame(look);
    };
    look();
})"""


def replicate(source: Path, folder: Path, seed: int, decay: float) -> Path:
    """A copy of a run as one of another seed would have recorded it."""
    folder.mkdir(parents=True)
    record = json.loads((source / "run.json").read_text())
    record["config"] |= {"seed": seed, "weight_decay": decay}
    (folder / "run.json").write_text(json.dumps(record))
    rng = random.Random(f"{seed} {decay}")
    for name in ("steps.jsonl", "epochs.jsonl"):
        rows = [json.loads(line) for line in (source / name).read_text().splitlines()]
        for row in rows:
            row |= {key: value * rng.uniform(0.9, 1.1) for key, value in row.items() if "loss" in key or "acc" in key}
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def groups(source: Path, home: Path, n: int, seeds: int) -> list[Path]:
    return [replicate(source, home / f"run-{i}", i % seeds, i // seeds / 1000) for i in range(n)]


def comparison(source: Path, home: Path, n: int) -> list[Path]:
    """``compare.json`` of 4 policies, 5 seeds and as many budgets as it takes."""
    rows = []
    for i in range(n):
        policy, budget = ("one_cycle", "step", "cosine", "constant")[i % 4], 2 ** (1 + i // 20)
        replicate(source, home / "runs" / str(i), i, 0.0)
        rows.append({
            "policy": policy, "epochs": budget, "seed": i // 4 % 5, "lr_max": 0.1, "seconds": 2.5 * budget,
            "test_accuracy": 1 - 0.3 / budget - random.Random(i).uniform(0, 0.02), "updates": 500,
            "status": "finished", "error": None, "run": f"runs/{i}",
        })  # fmt: skip
    record = {"schema": 1, "status": "finished", "config": {"axes": {}}, "table": rows, "summary": [], "speed_up": []}
    (home / "compare.json").write_text(json.dumps(record))
    return [home]


def opened(browser: Browser, file: Path, every: bool) -> tuple[float, float]:
    """Seconds from the navigation to the figures, and how many of them the page's own thread had a processor."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    tab = context.new_page()
    session = context.new_cdp_session(tab)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    tab.goto(file.as_uri())
    seconds = tab.evaluate(DRAWN, every) / 1000
    metrics = {each["name"]: each["value"] for each in session.send("Performance.getMetrics")["metrics"]}
    context.close()
    return seconds, metrics["ThreadTime"]


def measure(browser: Browser, what: str, folders: list[Path], loads: int) -> list[str]:
    with tempfile.TemporaryDirectory() as home:
        start = time.perf_counter()
        file = page(folders, Path(home) / "page.html")
        wrote = time.perf_counter() - start
        own = len(html(read(folders), plotly="").encode()) / 1e6
        first, cpu = zip(*(opened(browser, file, False) for _ in range(loads)), strict=True)
        every, _ = zip(*(opened(browser, file, True) for _ in range(loads)), strict=True)
        size = file.stat().st_size / 1e6
    return [what, f"{own:.2f}", f"{size:.2f}", f"{wrote:.2f}", spread(first), spread(cpu), spread(every)]


def spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} ... {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loads", type=int, default=9)
    parser.add_argument("--updates", type=int, default=500)
    parser.add_argument("--runs", type=int, nargs="+", default=[1, 20, 200])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as home, sync_playwright() as started:
        source = Path(home) / "source"
        run(Job("digits", model="mlp", budget=f"{options.updates} updates", lr_max="default"), source, report=False)
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        print(
            f"Chromium {browser.version}, {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f};"
        )
        print(f"{options.updates} updates a run; seconds: median (lowest ... highest) of {options.loads} loads\n")
        names = (
            "runs",
            "MB without plotly.js",
            "MB",
            "seconds to write",
            "seconds to open",
            "of these computing",
            "seconds to draw all",
        )
        print("| " + " | ".join(names) + " |\n" + "| --- " * len(names) + "|")
        for n in options.runs:
            at = Path(home) / str(n)
            cases = [(f"{n}, one group", groups(source, at / "seeds", n, n))]
            if n >= 20:
                cases.append((f"{n}, groups of 5", groups(source, at / "groups", n, 5)))
                cases.append((f"{n}, a comparison", comparison(source, at / "compared", n)))
            for what, folders in cases:
                print("| " + " | ".join(measure(browser, what, folders, options.loads)) + " |", flush=True)
        browser.close()


if __name__ == "__main__":
    main()
