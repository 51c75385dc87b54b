"""Is the net that a time affords better than the one that suits the data, in the same seconds? In pairs.

    python bench/afford.py 40s DATA [DATA ...] [--seeds 2] [-- OPTIONS]

Each pair is `onecycle train DATA --budget 40s --model auto`, and the same with the model that the data would get under
another budget: in processes of their own, in turns, with the options after ``--``. Prints the accuracy on the test
split, or on the validation split where there is no test split, the epochs and the model; and for each data set the mean
difference.
"""

from __future__ import annotations

import argparse
import os
import statistics

from time_to_accuracy import trained, width_of, words_and_options

import onecycle
from onecycle.jobs.run import prepare


def measured(data: str, budget: str, model: str, seed: int, options: list[str]) -> tuple[float, float, str]:
    """Accuracy in percent, epochs, and the model."""
    record = trained(data, budget, seed, ["--model", model, *options])
    result, width = record["result"], width_of(record)
    accuracy = (result["test"] or result["valid"])["accuracy"]
    return 100 * accuracy, result["epochs"], f"{record['config']['model']}{f' {width}' if width else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("budget", help='a time, such as "40s"')
    parser.add_argument("data", nargs="+")
    parser.add_argument("--seeds", type=int, default=2)
    words, options = words_and_options()
    given = parser.parse_args(words)
    for data in given.data:
        plain = prepare(onecycle.Job(data, limit=64)).config["model"]
        gains = []
        for seed in range(given.seeds):
            auto, default = (measured(data, given.budget, model, seed, options) for model in ("auto", plain))
            gains.append(auto[0] - default[0])
            said = [f"{model} {value:.2f} ({epochs:.1f} epochs)" for value, epochs, model in (auto, default)]
            print(data, seed, *said, f"load {os.getloadavg()[0]:.1f}", flush=True)
        print(data, f"difference {statistics.mean(gains):+.2f}", [round(gain, 2) for gain in gains], flush=True)


if __name__ == "__main__":
    main()
