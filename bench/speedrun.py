"""CIFAR-10 to a test accuracy of 94 % in the mean: seconds and accuracy over many runs, by the public interface alone.

    python bench/speedrun.py --model fast-cnn --model-options width=64 --precision bf16 --batch-size 1000 \\
        --compile reduce-overhead --runs 20                                                         # on a GPU
    python bench/speedrun.py --beside ../cifar10-airbench/airbench94_muon.py ...                    # in turns with it
    python bench/speedrun.py --device cpu --model small-cnn --limit 500 --epochs 1 --runs 2         # does it run?

Each run trains on all 50,000 training images, from other weights and in another order, after one run that does not
count: it compiles, and has cuDNN choose its kernels. The seconds are those of `Learner.fit`, and beside them those of
predicting the test images and their mirrors; making the model and the learner, which moves the data to the device, is
apart. A prediction with flips is the mean of the logits for an image and its mirror. Nothing is chosen by the test
images.

`--beside` is the script of a clone of github.com/KellerJordan/cifar10-airbench, which needs CUDA and torchvision and
finds its data in the folder of the script. It runs in a process of its own, in turns with the runs here, warmed up as
it does that itself. Its seconds are as it prints them: training and the test with six views of each image.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import math
import multiprocessing
import os
import statistics
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from scipy import stats
from torch import Tensor

import onecycle

NAMES = {
    "making": "s of making",
    "training": "s of training", "testing": "s of testing", "both": "s of training and testing",
    "plain": "% without flips", "flips": "% with flips",
}  # fmt: skip


class Speedrun:
    """Runs with one setting: the same model with fresh weights in each, so that it is compiled once."""

    def __init__(self, given: argparse.Namespace):
        self._given = given
        self._data = data = onecycle.load("cifar10", limit=given.limit)
        self._train = tuple(torch.cat(parts) for parts in zip(_pair(data.train), _pair(data.valid), strict=True))
        self._test = tuple(part[: given.limit] for part in _pair(data.test))
        if given.limit:
            self._train = tuple(part[: given.limit] for part in self._train)
        mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (data.mean, data.std))
        self._some = (self._train[0][:500] / 255 - mean) / std  # which a fast-cnn begins from
        self._model = self._fresh(0)

    def _fresh(self, seed: int) -> torch.nn.Module:
        return onecycle.build_model(
            self._given.model, input_shape=self._data.input_shape, classes=self._data.n_classes, images=self._some,
            seed=seed, **self._given.model_options,
        )  # fmt: skip

    def run(self, seed: int) -> dict[str, float]:
        """Seconds of training and of testing, and the test accuracy without and with flips, in percent."""
        given, began = self._given, time.perf_counter()
        self._model.load_state_dict(self._fresh(seed).state_dict())
        options = {name: getattr(given, name) for name in ("batch_size", "optimizer", "precision", "device", "compile")}
        learn = onecycle.Learner(
            self._model, self._train, augment=given.augment or self._data.augment, seed=seed, verbose=False, **options
        )
        started = now(learn)
        learn.fit(given.epochs, given.policy, given.lr_max)
        trained = now(learn)
        images, labels = self._test
        outputs = [learn.predict(views).clamp_min(1e-30).log() for views in (images, images.flip(-1))]
        right = [100 * (each.argmax(1) == labels).double().mean().item() for each in (outputs[0], sum(outputs))]
        seconds = {
            "making": started - began,
            "training": trained - started,
            "testing": now(learn) - trained,
            "both": now(learn) - started,
        }
        return {**seconds, "plain": right[0], "flips": right[1]}


def _pair(split: Any) -> tuple[Tensor, Tensor]:
    return split.inputs, split.targets


def now(learn: onecycle.Learner) -> float:
    """The time when the device has done all that it was asked for."""
    if learn.runtime.device.type == "cuda":
        torch.cuda.synchronize(learn.runtime.device)
    return time.perf_counter()


class Airbench:
    """The other script in a process of its own, one run at a time."""

    def __init__(self, script: Path):
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(script.resolve(), theirs), daemon=True)
        self._process.start()
        theirs.close()

    def run(self, seed: int) -> dict[str, float]:
        """As `Speedrun.run`; its seconds are all in one."""
        self._ours.send(seed)
        return self._ours.recv()


def serve(script: Path, requests: Any) -> None:
    """Make a run for each number that comes, after one that warms up."""
    os.chdir(script.parent)
    sys.argv = [str(script)]  # the script reads its own text
    spec = importlib.util.spec_from_file_location("airbench", script)
    assert spec is not None and spec.loader is not None, script
    airbench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(airbench)
    model = airbench.CifarNet().cuda().to(memory_format=torch.channels_last)
    model.compile(mode="max-autotune")
    with redirect_stdout(io.StringIO()):
        airbench.main("warmup", model)
    while True:
        try:
            number = requests.recv()
        except EOFError:
            return
        with redirect_stdout(io.StringIO()) as printed:
            airbench.main(number, model)
        requests.send(last_row(printed.getvalue()))


def last_row(printed: str) -> dict[str, float]:
    """The numbers of the last row of the table that airbench prints.

    >>> last_row("| 3 |  7  | 0.95 | 0.93 |  | 2.1 |\\n|  |  eval  | 0.95 | 0.9364 | 0.9402 | 2.5931 |")
    {'both': 2.5931, 'plain': 93.64, 'flips': 94.02}
    """
    row = [line for line in printed.splitlines() if "eval" in line][-1]
    *_, plain, flips, seconds = (cell.strip() for cell in row.strip("| ").split("|"))
    return {"both": float(seconds), "plain": 100 * float(plain), "flips": 100 * float(flips)}


def interval(values: list[float]) -> str:
    """Mean, standard deviation and the 95 % interval of the mean.

    >>> interval([1.0, 2.0, 3.0]), interval([1.5])
    ('2.000, sd 1.000, 95 % 0.000 to 4.484 (n = 3)', '1.500 (n = 1)')
    """
    n, mean = len(values), statistics.fmean(values)
    if n == 1:
        return f"{mean:.3f} (n = 1)"
    spread = statistics.stdev(values)
    half = stats.t.ppf(0.975, n - 1) * spread / math.sqrt(n)
    return f"{mean:.3f}, sd {spread:.3f}, 95 % {max(0.0, mean - half):.3f} to {mean + half:.3f} (n = {n})"


def main() -> None:
    given = options()
    torch.backends.cudnn.benchmark = True  # as the other script has it; shapes do not change
    device = torch.cuda.get_device_name() if torch.cuda.is_available() and given.device != "cpu" else "the CPU"
    print(f"onecycle, torch {torch.__version__}, {device}: {' '.join(sys.argv[1:])}", flush=True)
    sides: dict[str, Any] = {"onecycle": Speedrun(given)}
    if given.beside is not None:
        sides["airbench94_muon"] = Airbench(given.beside)
    made: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for number in range(-1, given.runs):  # the first does not count
        for name, side in [*sides.items()][:: -1 if number % 2 else 1]:
            one = side.run(number + 1)
            if number >= 0:
                made[name].append(one)
            said = ", ".join(f"{one[key]:.2f} {NAMES[key]}" for key in one)
            print(f"{name} {number + 1 if number >= 0 else 'warm-up'}: {said}", flush=True)
    for name, runs in made.items():
        for key in runs[0]:
            print(f"{name}, {NAMES[key]}: {interval([one[key] for one in runs])}")
    if given.beside is not None:
        ours, theirs = made.values()
        both = zip(ours, theirs, strict=True)
        ratios = [one["both"] / other["both"] for one, other in both]
        print(f"seconds of training and testing, onecycle / airbench94_muon: {interval(ratios)}")


def numbers(text: str) -> dict[str, float]:
    """Whole numbers and others by name.

    >>> numbers("width=64,dropout=0.1")
    {'width': 64, 'dropout': 0.1}
    """
    named = (one.split("=") for one in text.split(","))
    return {name: float(number) if "." in number else int(number) for name, number in named}


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="by default the best one here")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--epochs", type=float, default=8)
    parser.add_argument("--model", default="resnet9", help="a name that onecycle.build_model takes")
    parser.add_argument(
        "--compile", nargs="?", const=True, default=False, help="with or without a mode of torch.compile"
    )
    parser.add_argument("--model-options", type=numbers, default={}, help="NAME=NUMBER, with commas")
    parser.add_argument("--optimizer", default="auto")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument(
        "--augment", type=lambda names: tuple(names.split(",")), help="with commas; flip,crop by default"
    )
    parser.add_argument("--policy", default="one_cycle")
    parser.add_argument("--lr-max", type=lambda peak: peak if peak == "default" else float(peak), default="default")
    parser.add_argument("--limit", type=int, help="images of training and of test, to see whether it runs")
    parser.add_argument("--beside", type=Path, help="airbench94_muon.py of a clone")
    given = parser.parse_args()
    if given.beside is not None:
        given.beside = given.beside / "airbench94_muon.py" if given.beside.is_dir() else given.beside
        if not given.beside.is_file():
            parser.error(f"--beside is airbench94_muon.py of a clone; there is no {given.beside}")
        if not torch.cuda.is_available():
            parser.error("--beside needs a CUDA device, as that script does")
    return given


if __name__ == "__main__":
    main()
