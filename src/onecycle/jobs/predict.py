"""Predictions by the model of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import whole
from ..data.batch_settings import BatchSettings
from ..data.batches import ImageTransform
from ..data.images import Item, decode, undecodable
from ..data.inputs import CHUNK, input_files, read_batches, unlike_training
from ..data.standardise import InputTransform, Scale
from ..data.table_columns import TableColumns
from ..data.tables import columns_of, read_rows
from ..data.text_tokens import TextTokens
from ..errors import CheckpointError, ConfigError, DataError, OneCycleError
from ..models import build
from ..records.checkpoint import latest, load_weights
from ..records.files import RUN
from ..records.progress import notes
from ..text import count
from ..training.evaluate import predict
from ..training.losses import Form
from ..training.probe import described
from ..training.runtime import Runtime, weights_dtype
from ..training.sharing import considerate
from .job import Job
from .samples import Accepted, unused

LIKELY = 0.5  # the probability above which a label is said


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """The model of a run with its weights, and what it was trained on; made by `load_run`.

    Attributes:
        model: in evaluation mode, on the device that it predicts on.
        classes: their names by label; None for a regression.
        kind: "image", "array", "table" or "text".
        input_shape: of one sample, None where that is not known.
        fit: how images of other proportions are brought to that shape.
        columns: of a table, else None.
        verbose: print notes on what is unlike the training data, and on what is done to inputs.
    """

    model: nn.Module
    classes: tuple[str, ...] | None
    kind: str
    input_shape: tuple[int, ...] | None
    fit: str
    columns: TableColumns | TextTokens | None
    batching: BatchSettings = field(repr=False)
    form: Form = field(repr=False)
    runtime: Runtime = field(repr=False)
    scale: Scale | None = field(default=None, repr=False)  # of the targets
    fitted: bool = field(default=True, repr=False)  # images were brought to one size
    verbose: bool = field(default=True, repr=False)
    seen: tuple[Sequence[float], Sequence[float]] | None = field(default=None, repr=False)  # mean and std of training

    @property
    def label_sets(self) -> bool:
        """Whether a sample may have several of the classes, each with a probability of its own."""
        return self.classes is not None and len(self.classes) > 1 and self.form.activation == "sigmoid"

    def __repr__(self) -> str:
        known = {"kind": self.kind, "input_shape": self.input_shape, "classes": self.classes and len(self.classes)}
        said = "".join(f", {name}={value}" for name, value in known.items() if value is not None)
        return f"TrainedModel({type(self.model).__name__}{said})"

    def predict(self, inputs: Any) -> Tensor:
        """Predictions, [n, ...] on the CPU: probabilities for a classifier, else the model's outputs.

        `inputs` are what `Learner.predict` takes, prepared as in training (images as uint8 are normalised, those of
        another size are brought to that of training); or paths: of images, of a folder of them, of arrays in ``.npy``
        and ``.npz`` files, of tables; or a data frame, or a column for each name in a dictionary.

        Raises:
            DataError: what the model does not take; files that are missing or cannot be read; images that do not
                decode are listed.
        """
        said: list[str] = []
        paths = _paths(inputs)
        if paths is not None:
            outputs = torch.cat([outputs for _, outputs in self.of_files(paths, say=said.append)])
        else:
            samples = self._accepted.samples(inputs, said.append)
            if self.kind == "image" and isinstance(samples, tuple) and samples[0].dtype == torch.uint8:
                said += self._unlike([], samples[0])
            outputs = self._predicted(samples, described(samples[0] if isinstance(samples, tuple) else samples))
        if said and self.verbose:
            notes(said)
        return outputs

    def of_files(
        self, paths: Sequence[str | Path], *, skip_damaged: bool = False, say: Callable[[str], None] = lambda note: None
    ) -> Iterator[tuple[list[str], Tensor]]:
        """The names of the samples in files and the predictions for them, as many at a time as fit into memory.

        With `skip_damaged`, images that do not decode are left out; that and what is unlike the training data is told
        to `say`.
        """
        shape = self.input_shape
        if self.columns is None and (self.kind not in ("image", "array") or shape is None):
            raise self._accepted.refused(f"files such as {next(iter(paths), 'none')}", "give tensors")
        self._accepted.check_files(paths)
        if self.columns is not None:
            yield self._of_tables(paths, self.columns, say)
            return
        shape = shape or ()
        files, left_out = input_files(paths, self.kind)
        for note in left_out:
            say(note)
        bad: dict[str, str] = {}
        for i, (names, samples, failed) in enumerate(read_batches(files, self.kind, shape, self.fit)):
            bad |= failed
            if not names or (bad and not skip_damaged):
                continue  # read on: all that are damaged are listed
            for note in self._unlike(files[:CHUNK], samples) if i == 0 else ():
                say(note)
            yield names, self._predicted(samples)
        if bad and not skip_damaged:
            raise undecodable(bad)
        if bad:
            say(f"{len(bad)} of {count(len(files), 'file')} do not decode and are left out, such as {next(iter(bad))}")

    def samples(self, inputs: Any, say: Callable[[str], None] = lambda note: None) -> Tensor:
        """What `predict` takes but paths, as the samples [n, ...] that `of_samples` takes; notes are told to `say`.

        Raises:
            DataError: what the model does not take.
        """
        given = self._accepted.samples(inputs, say)
        if not (isinstance(given, tuple) and len(given) == 1):
            raise self._accepted.refused(f"a {type(inputs).__name__}")
        for note in self._unlike([], given[0]) if given[0].dtype == torch.uint8 else ():
            say(note)
        return given[0]

    def images(
        self, encoded: Sequence[bytes], *, most: int | None = None, say: Callable[[str], None] = lambda note: None
    ) -> Tensor:
        """Encoded images as the samples [n, ...] that `of_samples` takes, decoded as files are; no file is opened.

        Raises:
            DataError: images that do not decode, or that have more than `most` pixels; a model of something else.
        """
        shape = self.input_shape
        if self.kind != "image" or shape is None or shape[0] not in (1, 3):
            raise self._accepted.refused(count(len(encoded), "encoded image"))
        made = []
        for i, item in enumerate(encoded, 1):
            try:
                made.append(torch.from_numpy(decode(item, shape, self.fit, most)))
            except MemoryError:
                raise
            except Exception as error:  # Pillow's formats raise whatever they like on damaged files
                which = f"image {i} of {len(encoded)}" if len(encoded) > 1 else "the image"
                raise DataError(
                    f"{which} does not decode: {str(error) or type(error).__name__}. Give a JPEG, PNG, WebP, GIF, BMP "
                    "or TIFF image that other programs show"
                ) from error
        images = torch.stack(made)
        for note in self._unlike(encoded, images):
            say(note)
        return images

    def of_samples(self, samples: Tensor) -> Tensor:
        """The predictions, as `predict` has them, for what `samples` or `images` gave."""
        return self._predicted(samples)

    def _of_tables(
        self, paths: Sequence[str | Path], columns: TableColumns | TextTokens, say: Callable[[str], None]
    ) -> tuple[list[str], Tensor]:
        def tell(names: Sequence[str]) -> None:
            for note in unused(names, columns):
                say(note)

        rows, counts = read_rows(paths, columns, tell)
        for note in columns.unlike(rows):
            say(note)
        named = zip(map(str, paths), counts, strict=True)
        return [file if n == 1 else f"{file}[{i}]" for file, n in named for i in range(n)], self._predicted(rows)

    def _unlike(self, files: Sequence[Item], images: Tensor) -> tuple[str, ...]:
        if self.kind != "image":
            return ()
        known = self.batching.normalise
        mean, std = self.seen or ((known.mean, known.std) if isinstance(known, ImageTransform) else ((), ()))
        return unlike_training(files, images, self.fit, mean, std)

    @property
    def _accepted(self) -> Accepted:
        normalised = isinstance(self.batching.normalise, ImageTransform)
        return Accepted(self.kind, self.input_shape, self.columns, self.fit, self.fitted, normalised)

    def _predicted(self, inputs: Any, given: str = "") -> Tensor:
        if hasattr(inputs, "shape"):
            inputs, given = (inputs,), described(inputs)
        try:
            batches = self.batching.batches(self._of_models_type(inputs), training=False)
            outputs = self.form.predict(predict(self.model, batches.epoch(0), self.runtime))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever the model raises for inputs that it is not made for
            known = isinstance(error, OneCycleError)
            if known and (error.__cause__ is None or isinstance(error.__cause__, OneCycleError)):
                raise
            said = str(error) if known else f"{type(error).__name__}: {error}"
            raise self._accepted.refused(given or f"a {type(inputs).__name__}", said.partition("\n")[0]) from error
        return outputs if self.scale is None else self.scale.inverse(outputs)

    def _of_models_type(self, inputs: Any) -> Any:
        """Numbers of another type than the model's weights in that, where it is a model of numbers."""
        if self.kind not in ("array", "table") or not isinstance(inputs, tuple) or not isinstance(inputs[0], Tensor):
            return inputs
        dtype = weights_dtype(self.model)
        codes = any(isinstance(module, nn.Embedding | nn.EmbeddingBag) for module in self.model.modules())
        return inputs if dtype is None or codes else (inputs[0].to(dtype), *inputs[1:])


def _paths(inputs: Any) -> list[str | Path] | None:
    """Paths as a list; None for what is none."""
    if isinstance(inputs, str | Path):
        return [inputs]
    several = isinstance(inputs, list | tuple) and inputs and all(isinstance(path, str | Path) for path in inputs)
    return list(inputs) if several else None


def load_run(
    folder: str | Path,
    *,
    model: nn.Module | None = None,
    device: str | torch.device | None = None,
    verbose: bool = True,
) -> TrainedModel:
    """Load the model of the run in `folder` with its weights, to predict as the learner that trained it.

    Args:
        folder: of a run of ``onecycle train``, `run` or ``Learner.fit(out=...)``.
        model: a model that the weights are loaded into, where the run does not know how its own was made: one that
            `onecycle.build_model` did not make.
        device: to predict on; None: the best one here.
        verbose: print notes on what is predicted for.

    Raises:
        CheckpointError: no run there, no weights, weights of another model, or a model that must be given.

    >>> from tempfile import TemporaryDirectory
    >>> from onecycle import Job, load, run
    >>> with TemporaryDirectory() as place:
    ...     _ = run(Job("digits", model="mlp", budget="1 epochs", limit=200), f"{place}/run", report=False)
    ...     trained = load_run(f"{place}/run")
    >>> trained
    TrainedModel(Sequential, kind=image, input_shape=(1, 8, 8), classes=10)
    >>> trained.predict(load("digits").test.inputs[:2]).shape
    torch.Size([2, 10])
    """
    folder = Path(folder)
    record = RUN.read(folder)
    known = _described(folder, record)
    columns = columns_of(known)
    model = model or _built(folder, known["model"], columns)
    _load_weights(model, folder)
    resolved = record["resolved"]
    runtime = Runtime.choose(device, resolved.get("precision") or "fp32")
    runtime = Runtime(runtime.device, runtime.precision, any(isinstance(m, nn.Conv2d) for m in model.modules()))
    scales = resolved.get("scales") or {}
    normalise: Any = ImageTransform(tuple(known["mean"]), tuple(known["std"])) if known["mean"] else None
    if "dtype" in scales:
        normalise = InputTransform(getattr(torch, scales["dtype"]), Scale.of(scales.get("inputs")))
    shape, classes = known["input_shape"], known["classes"]
    return TrainedModel(
        runtime.place(model).eval(),
        None if classes is None else tuple(classes),
        known["kind"],
        None if shape is None else tuple(shape),
        known["fit"],
        columns,
        BatchSettings(resolved.get("batch_size") or 64, 0, 0, runtime.device, normalise),
        Form(known["form"], known["class_axis"], None, known["activation"]),
        runtime,
        Scale.of(scales.get("targets")),
        bool(record["facts"]) or classes is not None,
        verbose,
        known.get("seen"),
    )


@considerate()
def predict_files(
    folder: str | Path,
    files: Sequence[str | Path],
    *,
    top_k: int = 1,
    skip_damaged: bool = False,
    say: Callable[[str], None] = lambda note: None,
) -> list[dict[str, Any]]:
    """The class of each image, or the outputs for each row of arrays or tables, by the model of the run in `folder`.

    Of a folder among `files`, all images are taken. Returns one dictionary a sample: ``file``, and ``class`` and
    ``probability`` (with `top_k` also ``class_2``, ``probability_2`` and so on), or ``output`` where there are no
    classes. Where a sample may have several labels, ``labels`` has those of more than one half, ";" between them, and
    ``probability_LABEL`` that of each. With `skip_damaged` images that do not decode are left out; `say` is told that,
    and in what images are unlike those of training.

    Raises:
        CheckpointError: no run, or no weights there.
        ConfigError: a `top_k` above the number of classes, or where there are none.
        DataError: files that cannot be read.
    """
    trained = load_run(folder)
    check_top(top_k, trained.classes)
    if trained.label_sets and top_k > 1:
        raise ConfigError(f"top_k = {top_k}: this run gives each sample several labels, and all of them are named")
    return [
        {"file": name, **_prediction(trained, outputs, top_k)}
        for names, batch in trained.of_files(files, skip_damaged=skip_damaged, say=say)
        for name, outputs in zip(names, batch, strict=True)
    ]


def _prediction(trained: TrainedModel, outputs: Tensor, top_k: int) -> dict[str, Any]:
    """The outputs for one sample as the fields of a record: the outputs, the labels, or the best classes."""
    if trained.classes is None or trained.kind == "text":
        return {"output": outputs.tolist()}
    if trained.label_sets:
        shares = dict(zip(trained.classes, outputs.tolist(), strict=True))
        labels = [label for label, share in shares.items() if share > LIKELY]
        return {"labels": ";".join(labels), **{f"probability_{label}": share for label, share in shares.items()}}
    best = outputs.topk(top_k, -1)
    fields: dict[str, Any] = {}
    for rank, (label, probability) in enumerate(zip(best.indices.tolist(), best.values.tolist(), strict=True), 1):
        end = "" if rank == 1 else f"_{rank}"
        fields |= {f"class{end}": trained.classes[label], f"probability{end}": probability}
    return fields


def check_top(top_k: int, classes: Sequence[str] | None) -> None:
    """Raise a ConfigError for a number of classes to name that a run with these `classes` does not have."""
    whole("top_k", top_k, what="the number of classes to name for each sample")
    if classes is None and top_k > 1:
        raise ConfigError(f"top_k = {top_k}: this run has no classes to choose among. Leave it out")
    if classes is not None and top_k > len(classes):
        raise ConfigError(f"top_k = {top_k}: this run has {count(len(classes), 'class')}. Give at most that")


def _described(folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """What a prediction needs to know of a run: of its data, its model and its loss."""
    if facts := record["facts"]:
        job = Job.recorded(record["config"])
        recipe = {"name": job.model, "input_shape": facts["input_shape"], "classes": facts["outputs"]}
        recipe |= {"architecture": facts.get("architecture"), "lora": job.lora}
        activation = "" if facts["classes"] is None else "sigmoid" if facts.get("label_sets") else "softmax"
        known = {"form": "free", "class_axis": -1 if facts["kind"] == "text" else 1, "activation": activation}
        return {**facts, **known, "fit": job.fit, "model": {**recipe, "options": job.own_model_options}}
    if not record.get("prediction"):
        raise CheckpointError(
            f"the run in {folder} was begun in Python by a version that did not keep what a prediction needs: make its "
            "learner again and use Learner.load and Learner.predict"
        )
    known = record["prediction"]
    if known["kind"] == "image" and not known["mean"] and len(known["input_shape"] or ()) != 3:
        return {**known, "kind": "array"}  # so earlier versions called numbers that were standardised
    return known


def _built(folder: Path, recipe: Mapping[str, Any] | None, columns: TableColumns | TextTokens | None) -> nn.Module:
    if recipe is None:
        raise CheckpointError(
            f"the run in {folder} does not know how its model was made, since onecycle.build_model did not make it: "
            f"give one to take the weights, load_run({str(folder)!r}, model=...)"
        )
    shape, options = tuple(recipe["input_shape"]), recipe["options"]
    return build(
        recipe["name"], input_shape=shape, classes=recipe["classes"], columns=columns,
        architecture=recipe.get("architecture"), lora=recipe.get("lora"), **options,
    )  # fmt: skip


def _load_weights(model: nn.Module, folder: Path) -> None:
    weights = folder / "model.safetensors"
    if weights.exists():
        load_weights(model, weights)
        return
    saved = latest(folder / "checkpoints")
    if saved is None:
        raise CheckpointError(f"{folder} has neither model.safetensors nor a checkpoint: train it first")
    try:
        model.load_state_dict({**saved["model"], **(saved.get("averages") or {})})
    except (RuntimeError, KeyError) as error:
        raise CheckpointError(
            f"the weights in {folder} are of another model: {error}. Give the one that was trained, load_run(..., "
            "model=...)"
        ) from error
