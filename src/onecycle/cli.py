"""The command: the public functions, from the shell."""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, CycloptsError, Parameter

from .errors import ConfigError, Interrupted, OneCycleError

if TYPE_CHECKING:
    from .job import Job
    from .policy import Policy

app = App(
    name="onecycle",
    help="Train PyTorch models well in a fraction of the usual epochs, with the 1cycle policy.",
    version_flags=["--version"],
    result_action="return_value",  # `main` ends the process, and says how to go on after a Ctrl-C
    suppress_keyboard_interrupt=False,
)

Json = Annotated[
    bool, Parameter(name="--json", negative="", show_default=False, help="Print one JSON object and nothing else.")
]


def main(arguments: list[str] | None = None) -> None:
    """Run the command; exit code 2 for anything that cannot be used, 130 after Ctrl-C, 143 after SIGTERM."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in words
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            app([word for word in words if word != "--debug"], exit_on_error=False, print_error=False)
    except (OneCycleError, CycloptsError) as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Interrupted as stop:
        print(str(stop), file=sys.stderr)
        sys.exit(128 + stop.signal)
    except KeyboardInterrupt as stop:
        print(str(stop) or "stopped", file=sys.stderr)
        sys.exit(130)


def _show_warning(message: Warning | str, *_: Any) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)


@app.command
def train(
    data: str | None = None,
    *,
    model: str | None = None,
    epochs: float | None = None,
    budget: str | None = None,
    lr_max: float | None = None,
    preset: str | None = None,
    policy: Path | None = None,
    optimizer: str | None = None,
    momentum: str | None = None,
    weight_decay: float | None = None,
    batch_size: int | None = None,
    smoothing: float | None = None,
    augment: str | None = None,
    accumulate: int | None = None,
    clip: float | None = None,
    seed: int | None = None,
    limit: int | None = None,
    image_size: int | None = None,
    precision: str | None = None,
    device: str | None = None,
    compile: Annotated[bool | None, Parameter(negative="")] = None,
    out: Path | None = None,
    resume: Path | None = None,
    json: Json = False,
) -> None:
    """Train a model with one cycle of the learning rate.

    Parameters
    ----------
    data
        digits (default), fashion-mnist, mnist, cifar10, cifar100, a folder of images by class, Parquet files,
        hub:OWNER/NAME, a .npz, or a .txt for the character model.
    model
        mlp, lenet, small-cnn, resnet9, resnet20, resnet56, resnet110, wrn-22, char-transformer, timm:NAME, or
        package.module:callable. Default: one that suits the data.
    epochs
        Passes over the training data; default 10.
    budget
        In place of epochs: a time such as 90s, 5m or 1h, or "500 updates".
    lr_max
        Peak learning rate. Default: the optimizer's.
    preset
        Shape of the schedule; see "onecycle policy". Default: one_cycle.
    policy
        A JSON file with schedules of your own, in place of a preset:
        {"lr": {"points": [[0, 0.01], [0.3, 0.1], [1, 0]], "easing": "linear"}, "momentum": 0.9}
    optimizer
        muon (default), sgd, adam or adamw.
    momentum
        Momentum, or beta1: one number, or HIGH,LOW to cycle it against the learning rate.
    weight_decay
        Of weights; biases and norms get none.
    batch_size
        Samples a batch; default 64.
    smoothing
        Label smoothing in training; default 0.1 for classes.
    augment
        flip, crop, cutout, several with commas, or none. Default: what suits the data.
    accumulate
        Batches for each update; default 1.
    clip
        Largest norm of the gradient.
    seed
        Of everything random: default 0.
    limit
        Use only so many training samples, evenly from all classes.
    image_size
        Side in pixels that images of a folder are brought to.
    precision
        fp32 (default), bf16 or fp16.
    device
        cpu, cuda, cuda:1, mps. Default: the best one here.
    compile
        Run the model through torch.compile.
    out
        Folder of the run. Default: runs/DATA-MODEL-1, or the next free number.
    resume
        Go on with the run in this folder, exactly where its last checkpoint is.
    """
    given = {k: v for k, v in locals().items() if v is not None and k not in ("out", "resume", "json")}
    from .job import run

    job, folder = _job(given, out, resume)
    result = run(job, folder, resume=resume is not None, verbose=not json)
    if json:
        _print_json(result)
        return
    from .progress import summary

    print(*summary(result, width=get_terminal_size().columns if sys.stdout.isatty() else None), sep="\n")


@app.command
def predict(run: Path, *files: str, json: Json = False) -> None:
    """Say what is in images (or in the rows of arrays), by the model of a run.

    Parameters
    ----------
    run
        Folder of a run of "onecycle train".
    files
        Image files; or .npy and .npz files of samples, for a model of arrays.
    """
    if not files:
        raise ConfigError("give at least one file to predict: onecycle predict RUN FILE...")
    from .job import predict_files

    rows = predict_files(run, list(files))
    if json:
        _print_json({"run": str(run), "predictions": rows})
        return
    columns = ["file", "class", "probability"] if "class" in rows[0] else ["file", "output"]
    _print_table(columns, [[_text(row[column]) for column in columns] for row in rows])


@app.command
def policy(
    preset: str = "one_cycle",
    *,
    lr_max: float = 0.1,
    epochs: float = 10,
    steps_per_epoch: int = 100,
    momentum: str | None = None,
    out: Path | None = None,
    json: Json = False,
) -> None:
    """See a schedule before running it.

    Parameters
    ----------
    preset
        one_cycle, paper, author, fastai, torch, clr, wsd, step, cosine, linear or constant.
    lr_max
        Peak learning rate.
    epochs
        Length of the run.
    steps_per_epoch
        Updates an epoch.
    momentum
        One number, or HIGH,LOW to cycle it.
    out
        Draw it into this file: .png, .svg or .pdf.
    """
    from .budget import Budget
    from .presets import preset as make
    from .report.figures import save

    if steps_per_epoch < 1:
        raise ConfigError(f"--steps-per-epoch is at least 1; received {steps_per_epoch}")
    updates = Budget(epochs=epochs).total_updates(steps_per_epoch) or 1
    options = {} if momentum is None else {"momentum": _momentum(momentum)}
    made = make(preset, lr_max, updates, **options)
    saved = None
    if out is not None:
        figure = made.plot(updates, updates_per_epoch=steps_per_epoch, title=f"{preset}, peak {lr_max:g}")
        saved = str(save(figure, out))
    if json:
        _print_json({"preset": preset, "updates": updates, "policy": made.to_dict(), "picture": saved})
        return
    _show_policy(made, updates, steps_per_epoch)
    if saved:
        print(f"drawn in {saved}")


@app.command
def data(data: str | None = None, *, out: Path | None = None, seed: int = 0, json: Json = False) -> None:
    """List the known data sets, or look at one: where it was found, size, classes and a contact sheet of samples.

    Parameters
    ----------
    data
        As for "onecycle train". Without it, the known ones are listed.
    out
        File of the contact sheet. Default: NAME-samples.png.
    seed
        Of the cut into training and validation data.
    """
    from .data import NAMES, contact_sheet, describe, find, load

    if data is None:
        rows = [{"name": name, "what": describe(name), "found": find(name)} for name in NAMES]
        if json:
            _print_json({"data": rows})
        else:
            _print_table(["name", "what", "found"], [[r["name"], r["what"], r["found"] or "not yet"] for r in rows])
        return
    loaded = load(data, seed=seed)
    sizes = {k: len(s) for k, s in (("train", loaded.train), ("valid", loaded.valid), ("test", loaded.test)) if s}
    sheet = None
    if loaded.kind == "image":
        sheet = str(contact_sheet(loaded, out or Path(f"{loaded.name.replace('/', '-')}-samples.png")))
    facts = {"name": loaded.name, "kind": loaded.kind, "origin": loaded.origin, "shape": loaded.input_shape, **sizes}
    if json:
        _print_json({**facts, "classes": loaded.classes, "notes": loaded.notes, "sheet": sheet})
        return
    classes = f"{len(loaded.classes)}: {', '.join(map(repr_class, loaded.classes))}" if loaded.classes else "none"
    rows = [[key, _text(value)] for key, value in facts.items()] + [["classes", classes]]
    rows += [["note", note] for note in loaded.notes] + ([["samples", f"drawn in {sheet}"]] if sheet else [])
    _print_table(["", ""], rows)


def repr_class(name: str) -> str:
    """A class's name as it can be printed in a line: white space shown, everything else as it is."""
    return name if name.isprintable() and name.strip() else repr(name)


def _job(given: dict[str, Any], out: Path | None, resume: Path | None) -> tuple[Job, Path | None]:
    """The job that the options describe; a resumed one is the run's own, which they may only repeat."""
    from .job import Job, job_of

    settings = _settings(given)
    if resume is None:
        return Job.from_dict(settings), out
    if out is not None and out != resume:
        raise ConfigError(f"--resume {resume} goes on in its own folder; leave out --out {out}")
    return replace(job_of(resume), **settings), resume


def _settings(given: dict[str, Any]) -> dict[str, Any]:
    """The command's options as the fields of a job."""
    from .budget import Budget

    settings = dict(given)
    if "epochs" in settings and "budget" in settings:
        raise ConfigError("give --epochs or --budget, one of them")
    if "epochs" in settings:
        settings["budget"] = str(Budget(epochs=settings.pop("epochs")))
    if "momentum" in settings:
        settings["momentum"] = _momentum(settings["momentum"])
    if "augment" in settings:
        settings["augment"] = tuple(name.strip() for name in settings["augment"].split(","))
    if "policy" in settings:
        if "preset" in settings or "lr_max" in settings:
            raise ConfigError("a --policy of your own has its peak and shape: leave out --preset and --lr-max")
        settings["policy"] = _read_policy(settings["policy"])
    return settings


def _read_policy(path: Path) -> dict[str, Any]:
    from .policy import Policy

    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the policy in {path}: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f'{path} holds {values!r}; a policy is an object such as {{"lr": 0.1, "momentum": 0.9}}')
    return Policy.from_dict(values).to_dict()


def _momentum(text: str) -> float | tuple[float, float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2) or not all(0 <= number < 1 for number in numbers):
        raise ConfigError(
            f"--momentum is one number from 0 to below 1, or HIGH,LOW such as 0.95,0.85; received {text!r}"
        )
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])


def _show_policy(made: Policy, updates: int, steps_per_epoch: int) -> None:
    """The values at the first and last update and at the points between."""
    from .policy import position

    points = {x for s in made.schedules.values() for x, _ in getattr(s, "points", ()) if 0 <= x <= 1}
    steps = sorted({0, updates - 1, *(round(x * (updates - 1)) for x in points)})
    rows = []
    for step in steps:
        values = made(position(step, updates))
        rows.append([f"{step:,}", f"{step / steps_per_epoch:.2f}", *(f"{value:.4g}" for value in values.values())])
    _print_table(["update", "epoch", *made.schedules], rows)


def _print_table(columns: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=any(columns), pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(markup=False, highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console.width = 1000
    console.print(table)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, tuple | list):
        return (
            " x ".join(map(str, value))
            if all(isinstance(v, int) for v in value)
            else ", ".join(f"{v:.4g}" for v in value)
        )
    return f"{value:,}" if isinstance(value, int) else str(value)


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))
