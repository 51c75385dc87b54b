"""What it adds to a run that its predictions are recorded: seconds, in interleaved pairs, and the size of the files.

    python bench/interpret.py [--pairs 7] [--cases digits cifar10 table]

Each pair is one run with recording and one without, with the same seed and data, in an order that alternates; without,
nothing is kept in evaluations and nothing is written. "A pass" is a further evaluation of the validation data, which a
recording afterwards would have needed. Wall time of the whole run without its page, on an idle machine, one thread.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from onecycle.fits.run import Fit
from onecycle.jobs.job import Job
from onecycle.jobs.run import Tests, prepare, run
from onecycle.records.files import RUN
from onecycle.training.outputs import Outputs

CASES = {
    "digits": Job("digits", model="small-cnn", budget="5 epochs", lr_max=0.02),
    "cifar10": Job("cifar10", model="resnet20", budget="1 epochs", lr_max=0.02, limit=5000),
    "table": Job("table.csv", target="price", budget="20 epochs", lr_max=0.01),
}
ON = (Fit._record_predictions, Tests.record, Outputs.take)
OFF = (lambda *_: None, lambda _tests, folder, **fields: RUN.update(folder, **fields), lambda *_: None)


def record(which: tuple) -> None:
    Fit._record_predictions, Tests.record, Outputs.take = which


def timed(job: Job, folder: Path, which: tuple) -> float:
    record(which)
    begun = time.perf_counter()
    run(job, folder, report=False)
    return time.perf_counter() - begun


def table(path: Path, rows: int = 4000) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 12, generator=generator)
    y = x[:, 0] * 3 + x[:, 1] * x[:, 2] + 0.1 * torch.randn(rows, generator=generator)
    lines = [",".join([*(f"c{i}" for i in range(12)), "price"])]
    lines += [",".join(f"{v:.4f}" for v in (*row, price)) for row, price in zip(x.tolist(), y.tolist(), strict=True)]
    path.write_text("\n".join(lines) + "\n")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--pairs", type=int, default=7)
    options.add_argument("--cases", nargs="*", default=list(CASES))
    asked = options.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        table(Path(place) / "table.csv")
        for case in asked.cases:
            job = CASES[case]
            job = Job(**{**vars(job), "data": f"{place}/table.csv"}) if case == "table" else job
            pairs, size = [], 0
            for i in range(asked.pairs + 1):  # the first pays for what is made once
                both = {}
                for name in ("on", "off") if i % 2 else ("off", "on"):
                    folder = Path(place) / f"{case}-{i}-{name}"
                    both[name] = timed(job, folder, ON if name == "on" else OFF)
                size = sum(path.stat().st_size for path in (Path(place) / f"{case}-{i}-on" / "predictions").iterdir())
                pairs += [both] * (i > 0)
            more = sorted(pair["on"] - pair["off"] for pair in pairs)
            without = statistics.median(pair["off"] for pair in pairs)
            learner = prepare(job).learner
            learner.evaluate()
            begun = time.perf_counter()
            learner.evaluate()
            a_pass = time.perf_counter() - begun
            middle = statistics.median(more)
            print(
                f"{case}: {without:.2f} s without; recording adds {middle:+.3f} s "
                f"({more[0]:+.3f} to {more[-1]:+.3f}, n = {len(more)}), {100 * middle / without:.1f} %; "
                f"a pass over the validation data takes {a_pass:.3f} s; {size / 1000:.0f} kB",
                flush=True,
            )


if __name__ == "__main__":
    main()
