"""Trainings drawn at random, held against plain torch: equal to rounding, or refused before the first update.

    python bench/fuzz.py [--cases 10000] [--seed 0] [--stop] [--refusals] [--mutants]
    python bench/fuzz.py --readers tables | arrays | image-lists

Each case is a script of a dozen lines (tests/fuzz_cases.py); of a fault the simplest script that shows it is printed.
With --mutants, faults are planted into the library one by one (tests/fuzz_mutants.py): how many of the cases show each?
With --readers, data with known contents are written and read (tests/table_cases.py, array_cases.py and
image_list_cases.py): what is read is exactly those, or it is a fault.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))

import array_cases
import image_list_cases
import table_cases
import torch
from fuzz_cases import draw
from fuzz_mutants import MUTANTS, cases_that_show
from fuzzing import run, simplest

SHOWN = 3
READERS = {"tables": table_cases.run, "arrays": array_cases.run, "image-lists": image_list_cases.run}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first case; the others follow")
    parser.add_argument("--stop", action="store_true", help="stop at the first fault")
    parser.add_argument("--refusals", action="store_true", help="say what is refused though torch trains it")
    parser.add_argument("--mutants", action="store_true", help="plant faults, and count the cases that show them")
    parser.add_argument("--readers", choices=READERS, help="read data with known contents instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.mutants:
        return mutants(options.seed, options.cases)
    if options.readers:
        return read(options.readers, range(options.seed, options.seed + options.cases), options.stop)
    counts: Counter[str] = Counter()
    refusals: dict[str, list[int]] = {}
    for number, seed in enumerate(range(options.seed, options.seed + options.cases), 1):
        case = draw(seed)
        outcome = run(case)
        counts[outcome.kind] += 1
        if outcome.kind == "refused on purpose":
            refusals.setdefault(outcome.message[:60], []).append(seed)
        if outcome.is_fault and counts[outcome.kind] <= SHOWN:
            case = simplest(case, outcome.kind)
            print(f"\n--- {outcome.kind}, seed {seed}: {run(case).message[:300]}\n{case.script()}\n", flush=True)
            if options.stop:
                return 1
        if number % 100 == 0:
            print(f"{number} cases, {time.process_time():.0f} s of CPU: {counts.most_common(4)}", flush=True)
    print(*(f"{count:6} {kind}" for kind, count in counts.most_common()), sep="\n")
    if options.refusals:
        for message, seeds in sorted(refusals.items(), key=lambda item: -len(item[1])):
            print(len(seeds), seeds[:4], message)
    return int(any(kind.startswith("fault") for kind in counts))


def mutants(seed: int, cases: int) -> int:
    equal = [case for case in map(draw, range(seed, seed + cases)) if run(case).kind.startswith("equal")]
    unseen = 0
    print(f"of {len(equal)} cases that are equal, tried until {SHOWN} show it, each fault is shown by")
    for name, plant in MUTANTS.items():
        shown = cases_that_show(plant, equal, enough=SHOWN)
        unseen += not shown
        tried = len(equal) if len(shown) < SHOWN else equal.index(shown[-1]) + 1
        print(f"{len(shown):4} of {tried:4}: {name}", f"(seed {shown[0].seed})" if shown else "", flush=True)
    print(f"{len(MUTANTS) - unseen} of {len(MUTANTS)} faults are shown")
    return int(unseen > 0)


def read(readers: str, seeds: range, stop: bool) -> int:
    """Read the cases of `seeds`; whether what was read ever differs from what is there."""
    counts: Counter[str] = Counter()
    for number, seed in enumerate(seeds, 1):
        with tempfile.TemporaryDirectory() as place:
            outcome = READERS[readers](seed, Path(place))
        kind = outcome.partition(":")[0]
        counts[kind] += 1
        if kind != "read" and counts[kind] <= SHOWN:
            print(f"seed {seed}, {outcome[:300]}", flush=True)
        if kind == "fault" and stop:
            return 1
        if number % 1000 == 0:
            print(f"{number} cases, {time.process_time():.0f} s of CPU: {dict(counts)}", flush=True)
    print(*(f"{count:6} {kind}" for kind, count in counts.most_common()), sep="\n")
    return int(counts["fault"] > 0)


if __name__ == "__main__":
    sys.exit(main())
