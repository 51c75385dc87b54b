"""Is the net that a time affords better than the one that suits the data, in the same seconds? In pairs.

    python bench/afford.py 40s DATA [DATA ...] [--seeds 2] [-- OPTIONS]

Each pair is `onecycle train DATA --budget 40s --model auto`, and the same with the model that the data would get under
another budget: in processes of their own, in turns, with the options after ``--``. Prints the accuracy on the test
split, or on the validation split where there is no test split, the epochs and the model; and for each data set the mean
difference.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import onecycle
from onecycle.jobs.run import prepare


def trained(data: str, budget: str, model: str, seed: int, options: list[str]) -> tuple[float, float, str]:
    """Accuracy in percent, epochs, and the model."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "onecycle", "train", data, "--budget", budget, "--model", model]
        more = ["--seed", str(seed), *options, "--out", f"{folder}/run"]
        subprocess.run([*command, *more], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        record = json.loads(Path(folder, "run", "run.json").read_text())
    result, config = record["result"], record["config"]
    measured = result["test"] or result["valid"]
    width = (config["model_options"] or {}).get("width")
    return 100 * measured["accuracy"], result["epochs"], f"{config['model']}{f' {width}' if width else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("budget", help='a time, such as "40s"')
    parser.add_argument("data", nargs="+")
    parser.add_argument("--seeds", type=int, default=2)
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    given, options = parser.parse_args(words[:end]), words[end + 1 :]
    for data in given.data:
        plain = prepare(onecycle.Job(data, limit=64)).config["model"]
        gains = []
        for seed in range(given.seeds):
            auto, default = (trained(data, given.budget, model, seed, options) for model in ("auto", plain))
            gains.append(auto[0] - default[0])
            said = [f"{model} {value:.2f} ({epochs:.1f} epochs)" for value, epochs, model in (auto, default)]
            print(data, seed, *said, f"load {os.getloadavg()[0]:.1f}", flush=True)
        print(data, f"difference {statistics.mean(gains):+.2f}", [round(gain, 2) for gain in gains], flush=True)


if __name__ == "__main__":
    main()
