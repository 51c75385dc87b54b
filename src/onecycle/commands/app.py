"""The command: the public functions, from the shell."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from shutil import get_terminal_size
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

from ..errors import ConfigError, Interrupted, OneCycleError
from .compare import compare
from .options import Flag, Json, Whole, job_from, momentum_from
from .printing import check_lines, page_line, print_json, print_table, repr_class, show_policy, text
from .report import report, runs
from .reproduce import reproduce

app = App(
    name="onecycle",
    help="Train PyTorch models well in a fraction of the usual epochs, with the 1cycle policy.",
    version_flags=["--version"],
    result_action="return_value",  # `main` ends the process, and says how to go on after a Ctrl-C
    suppress_keyboard_interrupt=False,
)

for command in (compare, reproduce, report, runs):
    app.command(command)

# Options of a check that are the test's own; the others describe what is tested.
TEST = ("updates", "repeats", "lr_low", "lr_high", "full")


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


def _width() -> int | None:
    """Of the terminal; None for a file or a pipe."""
    return get_terminal_size().columns if sys.stdout.isatty() else None


def _has_braille() -> bool:
    """Whether what is printed can hold the dots of a plot."""
    try:
        "\u28ff".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


@app.command
def check(
    data: str | None = None,
    *,
    model: str | None = None,
    optimizer: str | None = None,
    epochs: float | None = None,
    updates: Whole | None = None,
    repeats: Whole | None = None,
    lr_low: float | None = None,
    lr_high: float | None = None,
    full: Flag = False,
    momentum: str | None = None,
    weight_decay: float | None = None,
    batch_size: Whole | None = None,
    smoothing: float | None = None,
    augment: str | None = None,
    accumulate: Whole | None = None,
    clip: float | None = None,
    seed: Whole | None = None,
    limit: Whole | None = None,
    image_size: Whole | None = None,
    precision: str | None = None,
    device: str | None = None,
    out: Path | None = None,
    json: Json = False,
) -> None:
    """Test which learning rates a model can take, and whether it can super-converge. Nothing is kept of the training.

    Parameters
    ----------
    data
        As for "onecycle train"; or the CSV file of a range test, with columns lr and test_accuracy, to be judged.
    model
        As for "onecycle train". Default: one that suits the data.
    optimizer
        muon (default), sgd, adam or adamw.
    epochs
        Of the training that is to follow; default 10.
    updates
        Of the whole test. Default: a twentieth of 10 epochs, but at least 64 and at most 400.
    repeats
        Sweeps, each with a data order and initial weights of its own; default 2.
    lr_low
        Where the sweep begins. Default: found, where the loss does not move yet.
    lr_high
        Where it ends. Default: found, beyond where training diverges.
    full
        Measure the sharpness along the first sweep too: several times the cost.
    momentum
        Momentum, or beta1.
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
    out
        Folder for check.json, its picture and its page. Without it nothing is written.
    """
    given = {k: v for k, v in locals().items() if v is not None and v is not False and k not in ("out", "json")}
    from ..jobs import check as check_job

    if data is not None and data.lower().endswith(".csv"):
        if others := [f"--{name.replace('_', '-')}" for name in given if name != "data"]:
            raise ConfigError(f"a curve in a file is only judged, nothing is trained: leave out {', '.join(others)}")
        result = check_job.check_curve(data, out)
    else:
        test = {name: given.pop(name) for name in TEST if name in given}
        job, _ = job_from(given, None, None)
        result = check_job.check(job, out, verbose=not json, **test)
    if json:
        print_json(result)
    else:
        print(*check_lines(result, _width(), ascii=not _has_braille()), sep="\n")


@app.command
def train(
    data: str | None = None,
    *,
    model: str | None = None,
    epochs: float | None = None,
    budget: str | None = None,
    lr_max: float | Literal["auto", "default"] | None = None,
    policy: str | None = None,
    optimizer: str | None = None,
    momentum: str | None = None,
    weight_decay: float | None = None,
    batch_size: Whole | None = None,
    smoothing: float | None = None,
    augment: str | None = None,
    accumulate: Whole | None = None,
    clip: float | None = None,
    seed: Whole | None = None,
    limit: Whole | None = None,
    image_size: Whole | None = None,
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
        Peak learning rate: a number; auto (default), from a range test where the run is long enough to pay for one; or
        default, the optimizer's.
    policy
        Shape of the schedule, see "onecycle policy", default one_cycle; or a .json file with schedules of your own:
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
    from ..jobs.run import run

    job, folder = job_from(given, out, resume)
    result = run(job, folder, resume=resume is not None, verbose=not json)
    if json:
        print_json(result)
        return
    from ..records.progress import summary

    print(*summary(result, width=_width()), *page_line(result["run"]), sep="\n")


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
    from ..jobs.predict import predict_files

    rows = predict_files(run, list(files))
    if json:
        print_json({"run": str(run), "predictions": rows})
        return
    columns = ["file", "class", "probability"] if "class" in rows[0] else ["file", "output"]
    print_table(columns, [[text(row[column]) for column in columns] for row in rows])


@app.command
def policy(
    preset: str = "one_cycle",
    *,
    lr_max: float = 0.1,
    epochs: float = 10,
    steps_per_epoch: Whole = 100,
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
    from ..report.matplotlib import save
    from ..schedules.budget import Budget
    from ..schedules.presets import preset as make

    if steps_per_epoch < 1:
        raise ConfigError(f"--steps-per-epoch is at least 1; received {steps_per_epoch}")
    updates = Budget(epochs=epochs).total_updates(steps_per_epoch) or 1
    options = {} if momentum is None else {"momentum": momentum_from(momentum)}
    made = make(preset, lr_max, updates, **options)
    saved = None
    if out is not None:
        figure = made.plot(updates, updates_per_epoch=steps_per_epoch, title=f"{preset}, peak {lr_max:g}")
        saved = str(save(figure, out))
    if json:
        print_json({"preset": preset, "updates": updates, "policy": made.to_dict(), "picture": saved})
        return
    show_policy(made, updates, steps_per_epoch)
    if saved:
        print(f"drawn in {saved}")


@app.command
def data(data: str | None = None, *, out: Path | None = None, seed: Whole = 0, json: Json = False) -> None:
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
    from ..data import NAMES, contact_sheet, describe, find, load

    if data is None:
        rows = [{"name": name, "what": describe(name), "found": find(name)} for name in NAMES]
        if json:
            print_json({"data": rows})
        else:
            print_table(["name", "what", "found"], [[r["name"], r["what"], r["found"] or "not yet"] for r in rows])
        return
    loaded = load(data, seed=seed)
    sizes = {k: len(s) for k, s in (("train", loaded.train), ("valid", loaded.valid), ("test", loaded.test)) if s}
    sheet = None
    if loaded.kind == "image":
        sheet = str(contact_sheet(loaded, out or Path(f"{loaded.name.replace('/', '-')}-samples.png")))
    facts = {"name": loaded.name, "kind": loaded.kind, "origin": loaded.origin, "shape": loaded.input_shape, **sizes}
    if json:
        print_json({**facts, "classes": loaded.classes, "notes": loaded.notes, "sheet": sheet})
        return
    classes = f"{len(loaded.classes)}: {', '.join(map(repr_class, loaded.classes))}" if loaded.classes else "none"
    rows = [[key, text(value)] for key, value in facts.items()] + [["classes", classes]]
    rows += [["note", note] for note in loaded.notes] + ([["samples", f"drawn in {sheet}"]] if sheet else [])
    print_table(["", ""], rows)
