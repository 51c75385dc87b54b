"""The facade: a model, its data and its optimizer, with the functions of the package as methods."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .data.batches import as_tensor, first_batch
from .data.feed import Feed, feed_for
from .errors import ConfigError, Interrupted
from .optim import build as optimizers
from .optim.groups import bind
from .range_test.api import RangeTest, range_test_of
from .range_test.plan import EPOCHS, FEWEST, SHARE
from .records.checkpoint import load_weights, save_weights
from .records.files import RUN
from .records.history import History, Observer, Result
from .records.run import Recording
from .schedules.budget import Budget
from .schedules.policy import Policy
from .schedules.presets import preset as make_preset
from .training import evaluate as evaluation
from .training import objectives as tasks
from .training.loop import EpochEnd, resolve, train, updates_per_epoch
from .training.objectives import Loss, pair
from .training.runtime import Runtime
from .training.signals import stop_requests
from .training.state import TrainState

BATCH_SIZE = 64
# A range test is worth its while where the run is so many times as long as the shortest one, or takes a minute. Where
# an epoch is so short that it would take more than its share, its curve is too coarse to be relied on unseen.
WORTH, A_MINUTE = 5, 60.0


class Learner:
    """A model with what it takes to train it.

    Args:
        model: any module.
        train: a DataLoader, an iterable of batches, a tuple of tensors or arrays, a torch Dataset, a
            `datasets.Dataset`, a split, or the data of `onecycle.load`, which brings its own validation split.
        valid: the same, to be measured after each epoch; or None.
        loss: None picks cross-entropy, binary cross-entropy or squared error by the targets; a criterion
            ``fn(outputs, targets)`` of torch.nn; or ``fn(model, batch)`` for everything else, which returns the batch's
            mean loss or ``(loss, {metric: mean})``.
        optimizer: "muon", "sgd", "adam", "adamw"; a class of torch.optim; a factory from parameter groups; an instance.
        metrics: functions of (outputs, targets) to the batch's mean, or torchmetrics objects (measured in evaluation),
            as a list or by name; None: accuracy where it makes sense.
        batch_size: samples a batch, where the data are not batched already.
        momentum: of SGD, or beta1; None: the optimizer's default.
        weight_decay: of weights, not of biases and norms; None: the optimizer's default.
        seed: what batch order, dropout and augmentation are derived from.
        precision: "fp32", "bf16" or "fp16".
        device: None: the best one here.
        compile: run the model through `torch.compile`.
        accumulate: batches for each update.
        clip: largest norm of the gradient.
        smoothing: label smoothing of the default cross-entropy, in training alone; None: 0.1, and 0 for tokens.
        augment: names among "flip", "crop", "cutout", or "none"; None: what suits the data.
        layer_groups: modules from input to output, which hold all of the model and which `lr_max=slice(a, b)` is spread
            over; None: the model's children.
        workers: processes that read data which do not lie in memory.
        verbose: print progress.

    Raises:
        ConfigError: an argument that cannot be used.
        DataError: data that cannot be trained on, or that do not fit the model.

    >>> x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    >>> learn = Learner(nn.Linear(3, 1), (x, x.sum(1)), optimizer="sgd", batch_size=16, verbose=False)
    >>> result = learn.fit_one_cycle(20, 0.1)
    >>> result.train["loss"] < 1e-3, result.updates
    (True, 80)
    """

    def __init__(
        self,
        model: nn.Module,
        train: Any,
        valid: Any = None,
        *,
        loss: Callable[..., Any] | None = None,
        optimizer: Any = "muon",
        metrics: tasks.Metrics = None,
        batch_size: int = BATCH_SIZE,
        momentum: float | None = None,
        weight_decay: float | None = None,
        seed: int = 0,
        precision: str = "fp32",
        device: str | torch.device | None = None,
        compile: bool = False,
        accumulate: int = 1,
        clip: float | None = None,
        smoothing: float | None = None,
        augment: str | Sequence[str] | None = None,
        layer_groups: Sequence[nn.Module] | None = None,
        workers: int = 0,
        verbose: bool = True,
    ):
        self.verbose = verbose
        self.notes: list[str] = []
        self.history = History()
        runtime = Runtime.choose(device, precision)
        self.runtime = replace(runtime, channels_last=any(isinstance(m, nn.Conv2d) for m in model.modules()))
        self.model = self.runtime.place(model)
        self._take_data(train, valid, augment, Feed(batch_size, seed, workers, self.runtime.device))
        built, notes = optimizers.build_optimizer(optimizer, self.model, momentum=momentum, weight_decay=weight_decay)
        self._layers = optimizers.layers_of(self.model, built, layer_groups)
        self._recipe = optimizers.RECIPES.get(optimizer) if isinstance(optimizer, str) else None
        self.state = TrainState(
            self.model, built, self._task(loss, metrics, smoothing), self.runtime, seed, accumulate, clip,
            torch.compile(self.model) if compile else None,
        )  # fmt: skip
        self._note(*notes)

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer; parameter groups may be added to it between fits."""
        return self.state.optimizer

    def fit(
        self,
        budget: Any,
        policy: Policy | Callable[[int | None], Policy],
        *,
        out: str | Path | None = None,
        resume: bool = False,
        config: dict[str, Any] | None = None,
        observers: Iterable[Observer] = (),
    ) -> Result:
        """Train by `policy` inside `budget`: epochs, ``"500 updates"``, ``"5m"``, or a `Budget`.

        Args:
            budget: see `Budget.parse`.
            policy: a policy, or a function from the number of updates to one.
            out: a folder for the run: records, checkpoints, weights. None: nothing is written.
            resume: go on with the run in `out`.
            config: plain data kept with the run; resuming under another one stops and names what differs.
            observers: called with each event after the learner's own.

        Raises:
            NonFiniteLoss: the loss became NaN or infinite; the last good checkpoint stays.
            Interrupted: Ctrl-C or SIGTERM came; the update under way was finished and a checkpoint written.
            CheckpointError: `out` holds another run, or cannot be written.
        """
        budget = Budget.parse(budget)
        policy = resolve(policy, self._updates(budget))
        if policy.layers:
            optimizers.split_by_layer(self.optimizer, self._layers, policy.layers)
        bind(policy, self.optimizer)  # what the optimizer does not have is refused before anything is written
        with ExitStack() as stack:
            recording = self._begin(
                None if out is None else Path(out), resume, config or {"budget": str(budget)}, policy, stack
            )
            watchers = [
                self.history,
                *(recording.watchers if recording else ()),
                *self._progress(stack, budget),
                *observers,
            ]
            try:
                self._train(budget, policy, watchers, recording)
            except BaseException as error:
                if recording:
                    recording.failed(error)
                raise
        result = self.history.result(_peak_of(policy), updates_per_epoch(self.train, self.state.accumulate))
        if recording:
            self.save(recording.folder / "model.safetensors")
            result = replace(result, folder=recording.folder)
            plain = result.to_dict()
            del plain["test"]  # which is measured last: a run without it is not over
            RUN.update(recording.folder, status="finished", result=plain)
        return result

    def fit_one_cycle(
        self,
        epochs: float | None = None,
        lr_max: float | slice | str | None = "auto",
        *,
        budget: Any = None,
        preset: str = "one_cycle",
        out: str | Path | None = None,
        resume: bool = False,
        config: dict[str, Any] | None = None,
        observers: Iterable[Observer] = (),
        **options: Any,
    ) -> Result:
        """Train with one cycle of the learning rate, for `epochs` or inside `budget`; each call is a cycle of its own.

        Args:
            epochs: passes over the data; may be a fraction.
            lr_max: the peak. "auto": from a range test, where the run is long enough to pay for one; else, and where
                the test cannot tell, the optimizer's default here. None: that default. ``slice(a, b)`` spreads it over
                the layer groups, from a (the input's) to b (the output's) in equal ratios; ``slice(b)`` gives all but
                the last a tenth.
            budget: in place of `epochs`: ``"5m"``, ``"500 updates"``.
            preset: a name in `onecycle.schedules.presets`; `options` its keywords, such as ``momentum=(0.95, 0.85)``.
            out, resume, config, observers: as in `fit`.

        Source: Smith, 1803.09820, section 4; Smith & Topin, 1708.07120.

        Raises:
            ConfigError: no budget or two, or a peak that is not a positive number; and as `fit`.
        """
        if (epochs is None) == (budget is None):
            raise ConfigError(f"give epochs or a budget, one of them; received epochs={epochs!r}, budget={budget!r}")
        budget = Budget.parse(epochs if budget is None else budget)
        resumed, layers = Path(out) if resume and out is not None else None, ()
        if isinstance(lr_max, slice):
            lr_max, layers = optimizers.layer_factors(lr_max, len(self._layers))
        policy = make_preset(preset, self._peak(lr_max, budget, resumed), self._updates(budget), **options)
        policy = replace(policy, layers=layers)
        return self.fit(budget, policy, out=out, resume=resume, config=config, observers=observers)

    def range_test(
        self,
        *,
        updates: int | None = None,
        repeats: int = 2,
        epochs: float = EPOCHS,
        build: Callable[[int], nn.Module] | None = None,
        **options: Any,
    ) -> RangeTest:
        """Which peak a 1cycle run of `epochs` epochs can take: a short training that leaves no trace.

        Args:
            updates: of the whole test; None: a twentieth of the updates of 10 epochs, but at least 64 and at most 400.
            repeats: sweeps, each with another data order.
            epochs: of the run that is to follow.
            build: ``build(seed)`` makes the model anew: then every repeat but the first has initial weights of its own.
            options: of `onecycle.range_test`: lr_low, lr_high, spacing; and full=True, to measure the sharpness too.

        Without validation data it is read from the training loss alone, and the verdict cannot tell much.

        Raises:
            DataError: fewer than two batches.
            TrainingError: the loss is NaN from the start, or no weight moves.
        """
        return range_test_of(
            self.state, self.train, self.valid, updates=updates, repeats=repeats, epochs=epochs, build=build,
            say=self._say, **options,
        )  # fmt: skip

    lr_find = range_test

    def evaluate(self, data: Any = None) -> dict[str, float]:
        """Mean loss and metrics on `data`, by default the validation data."""
        batches = self.valid if data is None else self._feed.batches(data, training=False)
        if batches is None:
            raise ConfigError("there is nothing to evaluate on: give data, or a validation split to the learner")
        return evaluation.evaluate(self.model, batches.epoch(0), self.state.loss, self.runtime)

    def predict(self, inputs: Any) -> Tensor:
        """Predictions for `inputs`, [n, ...] on the CPU: probabilities for a classifier, else the model's outputs.

        `inputs` is a tensor or array of samples, or anything with batches whose first element is the inputs.
        """
        if hasattr(inputs, "shape"):
            inputs = (as_tensor(inputs),)
        batches = self._feed.batches(inputs, training=False).epoch(0)
        return tasks.activation(self.state.loss)(evaluation.predict(self.model, batches, self.runtime))

    def freeze(self, layers: int | None = None) -> None:
        """Do not train the first `layers` layer groups; by default all but the last. `unfreeze` undoes it."""
        optimizers.freeze(self._layers, len(self._layers) - 1 if layers is None else layers)

    def unfreeze(self) -> None:
        """Train every layer group."""
        self.freeze(0)

    def save(self, path: str | Path) -> Path:
        """Write the model's weights as safetensors, in one step."""
        return save_weights(self.model, path)

    def load(self, path: str | Path) -> None:
        """Read weights that `save` wrote."""
        load_weights(self.model, path)

    def _begin(
        self, folder: Path | None, resume: bool, config: dict[str, Any], policy: Policy, stack: ExitStack
    ) -> Recording | None:
        if resume and folder is None:
            raise ConfigError("resume=True needs out, the folder of the run to go on with")
        self.state.end_run()
        if folder is None:
            self.history = History()
            return None
        if resume:
            recording = Recording.resume(folder, self.state, stack, config=config)
            self._note(f"{folder} goes on after {len(recording.history.steps)} updates, from its last good checkpoint")
        else:
            recording = Recording.start(
                folder, self.state, stack, config=config, resolved={"lr_max": _peak_of(policy)}, notes=self.notes
            )
        self.history = recording.history
        return recording

    def _updates(self, budget: Budget) -> int | None:
        return budget.total_updates(updates_per_epoch(self.train, self.state.accumulate))

    def _train(self, budget: Budget, policy: Policy, watchers: list[Observer], recording: Recording | None) -> None:
        with stop_requests() as stop:
            for event in train(self.state, self.train, budget, policy):
                if isinstance(event, EpochEnd) and self.valid is not None:
                    event = replace(event, valid=self.evaluate())
                for watch in watchers:
                    watch(event)
                if stop.signal is not None:
                    name = signal.Signals(stop.signal).name
                    raise Interrupted(f"stopped by {name} after update {self.state.step - 1}", signal=stop.signal)

    def _progress(self, stack: ExitStack, budget: Budget) -> list[Observer]:
        if not self.verbose:
            return []
        from .records.progress import Progress

        unit = "samples" if self._feed.normalise is None else "images"
        progress = Progress(epochs=budget.epochs, unit=unit)
        stack.callback(progress.close)
        return [progress]

    def _take_data(self, train: Any, valid: Any, augment: str | Sequence[str] | None, feed: Feed) -> None:
        statistics = None
        if hasattr(train, "train") and hasattr(train, "valid"):
            self._note(*train.notes)
            augment = train.augment if augment is None else augment
            statistics = (train.mean, train.std)
            train, valid = train.train, train.valid if valid is None else valid
        self._feed, notes = feed_for(train, statistics, augment, feed)
        self._note(*notes)
        self.train = self._feed.batches(train, training=True)
        self.valid = None if valid is None else self._feed.batches(valid, training=False)

    def _task(self, loss: Callable[..., Any] | None, metrics: tasks.Metrics, smoothing: float | None) -> Loss:
        if smoothing is not None and not 0 <= smoothing < 1:
            raise ConfigError(f"smoothing is a share from 0 up to 1, such as 0.1; received {smoothing!r}")
        if loss is not None:
            if smoothing:
                raise ConfigError("smoothing is for the default loss: smooth the labels in the loss that you give")
            return tasks.given_loss(loss, metrics)
        inputs, targets = pair(self.runtime.move(first_batch(self.train)))
        known = [targets, *(whole for split in (self.train, self.valid) for whole in getattr(split, "tensors", ())[1:])]
        if isinstance(inputs, Tensor) and isinstance(targets, Tensor):
            inputs, targets = inputs[:8], targets[:8]
        with evaluation.evaluating(self.model, self.runtime), self.runtime.autocast():
            outputs = self.model(inputs)
        task, note = tasks.pick_task(outputs, targets, metrics, smoothing, known)
        self._note(note)
        return task

    def _peak(self, lr_max: float | str | None, budget: Budget, resumed: Path | None) -> float:
        """The peak as a number."""
        if isinstance(lr_max, str) and lr_max != "auto":
            raise ConfigError(f'lr_max is a number, a slice, "auto" or None; received {lr_max!r}')
        if lr_max == "auto":
            lr_max = (resumed and RUN.read(resumed)["resolved"].get("lr_max")) or self._found(budget)
        if lr_max is None and self._recipe is None:
            raise ConfigError("give lr_max: an optimizer of your own has no default peak here")
        return lr_max if lr_max is not None else self._recipe.lr_max  # type: ignore[union-attr]

    def _found(self, budget: Budget) -> float | None:
        """The peak that a range test finds, said in one line; None where there is none, or no room for a test."""
        updates, per_epoch = self._updates(budget), updates_per_epoch(self.train, self.state.accumulate)
        short = updates < WORTH * FEWEST if updates is not None else (budget.seconds or 0) < A_MINUTE
        if short or (per_epoch is not None and per_epoch * EPOCHS * SHARE < FEWEST):
            return None
        test = self.range_test(epochs=budget.epochs or EPOCHS)
        if test.lr_max is None and self._recipe is None:
            raise ConfigError(f"give lr_max: {test.line()}; and an optimizer of your own has no default peak here")
        self._note(test.line())
        return test.lr_max

    def _note(self, *notes: str) -> None:
        self.notes += notes
        self._say(*notes)

    def _say(self, *notes: str) -> None:
        if self.verbose:
            from .records.progress import notes as show

            show(notes)


def _peak_of(policy: Policy) -> float | None:
    return getattr(policy.schedules["lr"], "peak", None)
