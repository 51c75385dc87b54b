"""Folders of runs, range tests and comparisons, as the library records them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>%{x}&amp;\"'`|*"
ORIGIN = {
    "created": "2026-01-02T03:04:05+00:00",
    "versions": {"onecycle": "0.1.0", "torch": "2.6.0"},
    "hardware": {"cpu": "a processor", "cores": 2, "gpus": []},
}


def write_run(
    folder: Path, *, updates: int = 8, per_epoch: int = 4, seed: int = 0, shift: float = 0.0, seconds: float = 0.1,
    config: dict[str, Any] | None = None, data: str = "digits", model: str = "mlp", optimizer: str = "sgd",
    preset: str = "one_cycle", unsmoothed: float | None = None, **record: Any,
) -> Path:  # fmt: skip
    """A run whose loss falls from about 2 and whose learning rate rises and falls.

    `unsmoothed` is how much less the loss is without label smoothing."""
    folder.mkdir(parents=True)
    facts = {
        "kind": "image",
        "input_shape": [1, 8, 8],
        "outputs": 10,
        "mean": [0.3 + seed],
        "samples": [1294, 144, 359],
    }
    settings = {
        "data": data,
        "model": model,
        "budget": "4 epochs",
        "policy": preset,
        "optimizer": optimizer,
        "seed": seed,
    }
    means = {split: {"loss": 0.5, "accuracy": a} for split, a in (("train", 0.95), ("valid", 0.8), ("test", 0.9))}
    result = {**means, "lr_max": 0.5, "epochs": 4.0, "updates": updates, "seconds": updates * seconds}
    known = {"schema": 2, **ORIGIN, "status": "finished", "config": config or settings, "notes": []}
    known |= {"facts": {} if config else facts, "resolved": {"lr_max": 0.5}}
    known |= {"command": ["/usr/bin/onecycle", "train", data, "--seed", str(seed)], "result": result, "error": None}
    (folder / "run.json").write_text(json.dumps(known | record))
    steps = [_step(k, updates, per_epoch, shift, seconds) for k in range(updates)]
    ends = [step for step in steps if step["step"] % per_epoch == per_epoch - 1]
    epochs = [
        {**{k: step[k] for k in ("epoch", "step", "lr", "momentum")}, "train_loss": step["loss"], "train_accuracy": 0.9,
         "valid_loss": 1.1 * step["loss"], "valid_accuracy": 0.8, "samples": 64, "seconds": per_epoch * seconds}
        for step in ends
    ]  # fmt: skip
    if unsmoothed is not None:
        epochs = [{**row, "train_loss_unsmoothed": row["train_loss"] - unsmoothed} for row in epochs]
    for name, rows in (("steps", steps), ("epochs", epochs)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def write_check(folder: Path, **result: Any) -> Path:
    """A range test of two repeats; the fields of its result may be given, or `result` whole."""
    folder.mkdir(parents=True)
    rates = [10 ** (-4 + k / 10) for k in range(50)]
    losses = [2.0 - 1.5 / (1 + math.exp(-3 * (math.log10(lr) + 2))) + max(0.0, math.log10(lr)) for lr in rates]
    sweeps = [
        {"lr": rates, "loss": [loss + 0.1 * i for loss in losses], "valid_lr": rates[::5], "valid_loss": losses[::5],
         "valid_accuracy": [1 - loss / 4 for loss in losses[::5]], "stopped": "diverged"}
        for i in range(2)
    ]  # fmt: skip
    found = {
        "curve": {"sweeps": sweeps}, "lr_max": 0.5, "lr_min": 0.01, "edge": 1.0, "reason": None,
        "title": "mlp on digits",
        "verdict": {"answer": "possible", "score": 0.8, "reasons": ["a wide range"], "advice": ["less weight decay"]},
        "sharpness": {"lr": [0.01, 0.1], "largest_eigenvalue": [90.0, 12.0], "hessian_free": [80.0, 10.0]},
    }  # fmt: skip
    record = {"schema": 1, **ORIGIN, "config": {"model": "mlp"}, "command": ["onecycle", "check"], "notes": []}
    record["result"] = result["result"] if "result" in result else found | result
    (folder / "check.json").write_text(json.dumps(record))
    return folder


def write_comparison(
    folder: Path, *, policies: tuple[str, ...] = ("one_cycle", "step"), epochs: tuple[int, ...] = (2,),
    fractions: tuple[float, ...] = (1.0,), seeds: tuple[int, ...] = (0, 1), runs: bool = True, updates: int = 8,
    **record: Any,
) -> Path:  # fmt: skip
    """A comparison with its runs below it."""
    folder.mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    cells = [(p, e, f, s) for p in range(len(policies)) for e in epochs for f in fractions for s in seeds]
    for i, (p, e, f, s) in enumerate(cells):
        accuracy = 0.9 - 0.1 / e - 0.1 * (1 - f) - 0.02 * p + 0.001 * s
        rows.append(
            {"policy": policies[p], "epochs": e, "fraction": f, "seed": s, "lr_max": 0.5, "test_accuracy": accuracy,
             "valid_accuracy": accuracy - 0.01, "seconds": 10.0 * e, "status": "finished", "error": None,
             "run": f"runs/{i}"}
        )  # fmt: skip
        if runs:
            write_run(folder / f"runs/{i}", seed=s, preset=policies[p], updates=updates, shift=s)
    found = [{"accuracy": 0.8, "speed_up": 1.5, "low": 1.2, "high": 1.9, "against": "step"},
             {"accuracy": 0.85, "speed_up": 2.0, "low": 1.5, "high": None, "against": "step",
              "more_than": True}]  # fmt: skip
    known = {"schema": 1, **ORIGIN, "config": {"policies": list(policies)}, "status": "finished", "table": rows}
    known |= {"command": ["onecycle", "compare"], "summary": ["1cycle reaches 80 %."], "speed_up": found}
    (folder / "compare.json").write_text(json.dumps(known | record))
    return folder


def _step(k: int, updates: int, per_epoch: int, shift: float, seconds: float) -> dict[str, float]:
    up = 1 - abs(2 * k / max(1, updates - 1) - 1)
    loss = 2 / (k + 1) + 0.1 + 0.01 * shift
    return {
        "step": k, "epoch": k // per_epoch, "lr": 0.5 * up, "momentum": 0.95 - 0.1 * up, "loss": loss,
        "accuracy": 1 - loss / 4, "seconds": k * seconds,
    }  # fmt: skip
