"""Predictions by the model of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import whole
from ..data.batch_settings import BatchSettings
from ..data.batches import ImageTransform
from ..data.images import Item, decode, undecodable
from ..data.inputs import ahead, input_files, matching, read_batches, samples_at_once, unlike_training
from ..data.standardise import InputTransform, Scale
from ..data.table_columns import TableColumns, strange_notes
from ..data.tables import columns_of, rows_of
from ..data.text_tokens import TextTokens
from ..errors import CheckpointError, ConfigError, DataError, OneCycleError
from ..interpretation.api import Interpretation
from ..models import build
from ..records.files import RUN
from ..records.progress import notes
from ..records.read import number
from ..records.run import load_trained
from ..text import count
from ..training.evaluate import predict
from ..training.losses import Form
from ..training.probe import described
from ..training.runtime import Runtime, weights_dtype
from .job import Job
from .named import check_named, named
from .samples import Accepted, unused

AT_ONCE, AT_ONCE_THERE = 2**18, 2**24  # values of a batch that is predicted, on the CPU and on an accelerator
LARGEST = 4096  # samples of one, at most


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
        temperature: what scores are divided by to calibrate probabilities, fitted on the validation split (Guo et al.,
            "On Calibration of Modern Neural Networks", 1706.04599); None where the run has none.
        notes: what there is to say of the weights: that they are those of a checkpoint, as of a run that still trains.
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
    temperature: float | None = field(default=None, repr=False)  # that calibrates, where the run has one
    notes: tuple[str, ...] = field(default=(), repr=False)  # on its weights
    verbose: bool = field(default=True, repr=False)
    seen: tuple[Sequence[float], Sequence[float]] | None = field(default=None, repr=False)  # mean and std of training
    folder: Path | None = field(default=None, repr=False)

    @property
    def label_sets(self) -> bool:
        """Whether a sample may have several of the classes, each with a probability of its own."""
        return self.classes is not None and len(self.classes) > 1 and self.form.activation == "sigmoid"

    def __repr__(self) -> str:
        known = {"kind": self.kind, "input_shape": self.input_shape, "classes": self.classes and len(self.classes)}
        said = "".join(f", {name}={value}" for name, value in known.items() if value is not None)
        return f"TrainedModel({type(self.model).__name__}{said})"

    @property
    def calibratable(self) -> bool:
        """Whether it gives probabilities, which a temperature may calibrate."""
        return self.form.activation in ("softmax", "sigmoid")

    def predict(self, inputs: Any, *, calibrated: bool = False) -> Tensor:
        """Predictions, [n, ...] on the CPU: probabilities for a classifier, else the model's outputs.

        `inputs` are what `Learner.predict` takes, prepared as in training (images as uint8 are normalised, those of
        another size are brought to that of training); or paths: of images, of a folder of them, of arrays in ``.npy``
        and ``.npz`` files, of tables, and patterns such as ``photos/*.jpg``; or a data frame, or a column for each name
        in a dictionary. With `calibrated`, probabilities are those at the run's `temperature`, where it has one.

        Raises:
            DataError: what the model does not take; files that are missing or cannot be read; images that do not
                decode are listed.
        """
        said = list(self.notes)
        paths = paths_of(inputs)
        if paths is not None:
            parts = self.of_files(paths, calibrated=calibrated, say=said.append)
            outputs = torch.cat([outputs for _, outputs in parts])
        else:
            samples = self._accepted.samples(inputs, said.append)
            if self.kind == "image" and isinstance(samples, tuple) and samples[0].dtype == torch.uint8:
                said += self._unlike([], samples[0])
            given = described(samples[0] if isinstance(samples, tuple) else samples)
            outputs = self._predicted(samples, given, calibrated)
        if said and self.verbose:
            notes(said)
        return outputs

    def interpret(self, data: Any = None) -> Interpretation:
        """What the run gets wrong, see `onecycle.jobs.interpret.interpret_run`.

        Raises:
            ConfigError: a model that `load_run` did not make.
            OneCycleError: as there.
        """
        from .interpret import interpret_run

        if self.folder is None:
            raise ConfigError("only the model of a run can be looked into: load_run(folder).interpret()")
        return interpret_run(self.folder, data, verbose=self.verbose)

    def predictions(
        self,
        inputs: str | Path | Sequence[str | Path],
        *,
        top_k: int = 1,
        calibrated: bool = True,
        skip_damaged: bool = False,
        workers: int | None = None,
        say: Callable[[str], None] | None = None,
    ) -> Iterator[dict[str, Any]]:
        """The predictions for files, one dictionary a sample, as they come: of any number, few are in memory at once.

        Args:
            inputs: paths, as `predict` takes them.
            top_k: name so many classes, the likeliest first.
            calibrated: probabilities at the run's temperature, where it has one.
            skip_damaged: leave out images that do not decode.
            workers: threads that decode images; None: one for each core.
            say: is told what is to be noted, at default printed; some of it after the last sample.

        Each has ``file``, and ``class`` and ``probability`` (with `top_k` also ``class_2``, ``probability_2`` and so
        on), or ``output`` where there are no classes. Where a sample may have several labels, ``labels`` has those of
        more than one half, ";" between them, and ``probability_LABEL`` that of each.

        Raises:
            ConfigError: a `top_k` above the number of classes, or where there are none.
            DataError: what `predict` refuses.
        """
        parts = self.named_parts(
            paths_of(inputs) or [], top_k=top_k, calibrated=calibrated, skip_damaged=skip_damaged, workers=workers,
            say=say or (lambda note: notes([note] if self.verbose else [])),
        )  # fmt: skip
        for columns in parts:
            for values in zip(*columns.values(), strict=True):
                yield dict(zip(columns, values, strict=True))

    def named_parts(
        self, paths: Sequence[str | Path], *, top_k: int = 1, say: Callable[[str], None] = lambda note: None,
        **options: Any,
    ) -> Iterator[dict[str, list[Any]]]:  # fmt: skip
        """The `predictions` part by part, as columns of values; `options` are those of `of_files`."""
        check_named(self, top_k)
        for note in self.notes:
            say(note)
        for names, outputs in self.of_files(paths, say=say, **options):
            yield {"file": names, **named(self, outputs, top_k)}

    def of_files(
        self, paths: Sequence[str | Path], *, calibrated: bool = False, skip_damaged: bool = False,
        workers: int | None = None, say: Callable[[str], None] = lambda note: None,
    ) -> Iterator[tuple[list[str], Tensor]]:  # fmt: skip
        """The names of the samples in files and the predictions for them, part by part.

        A part is what is read at once, see `onecycle.data.inputs` and `onecycle.data.table_parts`; the next one is read
        meanwhile. With `skip_damaged`, images that do not decode are left out; that and what is unlike the training
        data is told to `say`.
        """
        shape = self.input_shape
        if self.columns is None and (self.kind not in ("image", "array") or shape is None):
            raise self._accepted.refused(f"files such as {next(iter(paths), 'none')}", "give tensors")
        if workers is not None:
            whole("workers", workers, what="the number of threads that decode images")
        paths = matching(paths)
        self._accepted.check_files(paths)
        if self.columns is not None:
            yield from self._of_tables(paths, self.columns, calibrated, say)
        else:
            yield from self._of_arrays(paths, shape or (), calibrated, skip_damaged, workers, say)

    def _of_arrays(
        self, paths: Sequence[str | Path], shape: tuple[int, ...], calibrated: bool, skip_damaged: bool,
        workers: int | None, say: Callable[[str], None],
    ) -> Iterator[tuple[list[str], Tensor]]:  # fmt: skip
        files, left_out = input_files(paths, self.kind)
        for note in left_out:
            say(note)
        bad: dict[str, str] = {}
        for i, (names, samples, failed) in enumerate(ahead(read_batches(files, self.kind, shape, self.fit, workers))):
            bad |= failed
            if not names or (bad and not skip_damaged):
                continue  # read on: all that are damaged are listed
            for note in self._unlike(files[: samples_at_once(shape)], samples) if i == 0 else ():
                say(note)
            yield names, self._predicted(samples, calibrated=calibrated, many=True)
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

    def _many(self, samples: Tensor) -> BatchSettings:
        """The batches where only their speed counts: larger than those of training where samples are small."""
        most = AT_ONCE if self.runtime.device.type == "cpu" else AT_ONCE_THERE
        size = min(LARGEST, most // max(1, samples[0].numel()))
        return replace(self.batching, evaluated=max(2 * self.batching.batch_size, size))

    def _of_tables(
        self,
        paths: Sequence[str | Path],
        columns: TableColumns | TextTokens,
        calibrated: bool,
        say: Callable[[str], None],
    ) -> Iterator[tuple[list[str], Tensor]]:
        strange: Counter[str] = Counter()
        named, seen = [], Counter[int]()
        for place, more, rows in ahead(rows_of(paths, columns, named.extend)):
            strange.update(columns.strange(rows))
            file, start = str(paths[place]), seen[place]
            seen[place] += len(rows)
            names = [file] if seen[place] == 1 and not more else [f"{file}[{start + i}]" for i in range(len(rows))]
            yield names, self._predicted(rows, calibrated=calibrated, many=True)
        for note in (*unused(named, columns), *strange_notes(strange, seen.total())):
            say(note)

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

    def _predicted(self, inputs: Any, given: str = "", calibrated: bool = False, many: bool = False) -> Tensor:
        batching = self._many(inputs) if many else self.batching
        if hasattr(inputs, "shape"):
            inputs, given = (inputs,), described(inputs)
        try:
            batches = batching.batches(self._of_models_type(inputs), training=False)
            outputs = predict(self.model, batches.epoch(0), self.runtime)
            if calibrated and self.calibratable and self.temperature is not None:
                outputs = outputs / self.temperature
            outputs = self.form.predict(outputs)
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


def paths_of(inputs: Any) -> list[str | Path] | None:
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
    said = load_trained(model, folder)
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
        number((record.get("calibration") or {}).get("temperature")),
        said,
        verbose,
        known.get("seen"),
        folder,
    )


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
