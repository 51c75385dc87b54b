"""The facade: a model, its data and its optimizer, with the functions of the package as methods."""

from __future__ import annotations

import inspect
import math
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .checks import one_of, share
from .data.arrays import as_tensor
from .errors import ConfigError, DataError, did_you_mean
from .optim import build as optimizers
from .range_test.api import RangeTest, kind_of, range_test_of
from .range_test.plan import EPOCHS
from .records import extension as extensions
from .records.best import KeepBest
from .records.checkpoint import load_weights, read_metadata, save_weights
from .records.files import RUN
from .records.history import History, Observer, Result
from .records.prediction import needed_to_predict
from .records.run import Recording
from .schedules.budget import Budget
from .schedules.policy import Policy
from .schedules.presets import PRESETS, preset
from .search.api import SHARE, PilotRecord, Search, peak_recorded, search_of, updates_within
from .search.forecast import Forecast, forecast
from .search.pilots import Pilot
from .text import count, html_table, listed
from .training import balance, norms
from .training import evaluate as evaluation
from .training import objectives as tasks
from .training.loop import Charges, Event, Update, resolve, train, updates_per_epoch, watch
from .training.options import TrainingOptions
from .training.runtime import Runtime, weights_dtype
from .training.setup import TrainingSetup
from .training.signals import StopRequest, stop_requests
from .training.state import TrainState
from .training.units import Units, retransformed

# A run of fewer updates says so.
FEW = 100
NO_DEFAULT = "give lr_max: an optimizer of your own has no default peak here"


class Learner:
    """A model with what it takes to train it.

    Args:
        model: any module.
        train: a DataLoader, an iterable of batches, a tuple of tensors, arrays or data frames, a torch Dataset, a
            `datasets.Dataset`, a list of pairs (input, number), a split, or the data of `onecycle.load`, which brings
            its own validation split.
        valid: the same, to be measured after each epoch; or None.
        loss: None picks cross-entropy, binary cross-entropy or squared error by the targets; a criterion
            ``fn(outputs, targets)``, of torch.nn or your own, or a name such as "mse"; or ``fn(model, batch)`` for
            everything else, which returns the batch's mean loss, ``(loss, {metric: mean})``, or with what these means
            weigh, such as the number of tokens, ``(loss, {metric: mean}, weight)``. What a criterion that is a module
            has as parameters is trained too.
        metrics: functions of (outputs, targets) to the batch's mean, torchmetrics objects (measured in evaluation), or
            names such as "f1", "auroc", "top5", "r2" and "mae"; one, several, or a dictionary. None: accuracy where it
            makes sense.
        layer_groups: modules from input to output, which hold all of the model and which `lr_max=slice(a, b)` is spread
            over; None: the model's children.
        verbose: print notes and progress.
        options: the fields of `onecycle.training.options.TrainingOptions`. The optimizer may also be a class of
            torch.optim, a factory from parameter groups, or an instance.

        {options}

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
        metrics: tasks.Metrics = None,
        layer_groups: Sequence[nn.Module] | None = None,
        verbose: bool = True,
        **options: Any,
    ):
        given = self.options = TrainingOptions.from_dict(options)
        if isinstance(given.momentum, tuple):
            raise ConfigError(
                f"momentum is one number; received {given.momentum!r}: a cycle is an option of the fit, as in "
                "fit_one_cycle(10, momentum=(0.95, 0.85))"
            )
        self.verbose = verbose
        self.notes: list[str] = []
        self.history = History()
        self._ended: extensions.Extended | None = None  # what an extension goes on from
        self._forecast: Forecast | None = None  # of the last fit
        self._pilots: list[Pilot] = []  # that it is from
        self.runtime = Runtime.choose(given.device, given.precision)
        if not isinstance(model, nn.Module):
            kind = f"the class {model.__name__}: give an instance" if isinstance(model, type) else f"{model!r}"
            raise ConfigError(f"model is a torch.nn.Module; received {kind}")
        within = getattr(model, "_orig_mod", None)  # of torch.compile, which names everything by it
        compiled, model = (model, within) if isinstance(within, nn.Module) else (None, model)
        self.model = self.runtime.place(model)
        self._setup = TrainingSetup(self.model, given, self.runtime, self._note)
        self._setup.take_data(train, valid, loss)
        task = self._setup.take_loss(loss, metrics)
        self.runtime = self._setup.lay_out(task)
        self.train, self.valid = self._setup.train, self._setup.valid
        of_loss = tasks.loss_module(task)
        built, notes = optimizers.build_optimizer(
            given.optimizer, self.model, momentum=given.momentum, weight_decay=given.weight_decay, beside=of_loss
        )
        self._still: list[nn.Module] = []  # norms in evaluation mode since `freeze`
        self._layers = optimizers.layers_of(self.model, built, layer_groups)
        self._recipe = optimizers.RECIPES.get(given.optimizer) if isinstance(given.optimizer, str) else None
        self._middle = _middle(built, self._recipe)
        self.state = TrainState(
            self.model, built, task, self.runtime, given.seed, given.accumulate, given.clip,
            torch.compile(self.model) if given.compile and compiled is None else compiled, average=given.average,
            norm_statistics=given.norm_statistics, rescue=given.rescue,
        )  # fmt: skip
        self._note(*notes)

    def __repr__(self) -> str:
        return f"Learner({', '.join(f'{name}: {value}' for name, value in self._about())})"

    def _repr_html_(self) -> str:
        return html_table(self._about(), title="Learner")

    def _about(self) -> list[tuple[str, str]]:
        """What a short description says, by name."""
        size = sum(p.numel() for p in self.model.parameters())
        return [
            ("model", f"{type(self.model).__name__} of {count(size, 'parameter')}"),
            ("optimizer", type(self.optimizer).__name__),
            ("device", f"{self.runtime.device}, {self.runtime.precision}"),
            ("trained", count(self.state.step, "update")),
        ]

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer; parameter groups may be added to it between fits."""
        return self.state.optimizer

    def fit(
        self,
        budget: Any,
        policy: str | Policy | Callable[[int | None], Policy] = "one_cycle",
        lr_max: float | slice | str = "auto",
        *,
        out: str | Path | None = None,
        resume: bool = False,
        config: Mapping[str, Any] | None = None,
        facts: Mapping[str, Any] | None = None,
        observers: Iterable[Observer] = (),
        began: float | None = None,
        after: float = 0.0,
        extends: extensions.Extended | None = None,
        search: float = SHARE,
        **options: Any,
    ) -> Result:
        """Train by `policy` up to the peak `lr_max` inside `budget`; each call is a run of its own.

        The budget is charged with the pilots of a search, and a time budget with everything: evaluations, checkpoints,
        writing the weights.

        Args:
            budget: epochs, ``"500 updates"``, ``"5m"``, or a `Budget`; see `Budget.parse`.
            policy: the name of a preset (see `onecycle.schedules.presets`); or a policy, or a function from the number
                of updates to one, which have their own peak.
            lr_max: the peak. "auto": from pilots, see `search`; where these cannot tell, the optimizer's default.
                "default": that default. ``slice(a, b)`` spreads it over the layer groups, from a (the input's) to b
                (the output's) in equal ratios; ``slice(b)`` gives all but the last a tenth.
            out: a folder for the run: records, checkpoints, weights. None: nothing is written.
            resume: go on with the run in `out`.
            config: plain data kept with the run; resuming under another one stops and names what differs.
            facts: the same, about the data.
            observers: called with each event after the learner's own; one that raises `StopTraining` ends the fit well,
                after the update under way and the end of its epoch. A method ``begin`` gets what was measured before,
                (update, means) pairs; it may end a run that is resumed, and none before its first update.
            began: when a time budget began, by `time.perf_counter`; None: with this call.
            after: seconds of a time budget to be left for what the caller does afterwards.
            extends: what the run goes on from, kept with it; see `extend`.
            search: the share of the budget that an automatic peak may spend on pilots, short runs at several peaks, see
                `search`; 0 for none, and the optimizer's default peak.
            options: keywords of the preset, such as ``momentum=(0.95, 0.85)``.

        Source: Smith, 1803.09820, section 4; Smith & Topin, 1708.07120.

        Raises:
            ConfigError: a budget, a policy or a peak that cannot be used; an end before the first update.
            NonFiniteLoss: the loss became NaN or infinite, and the run could not be rescued or was not to be; the last
                good checkpoint stays.
            Interrupted: Ctrl-C or SIGTERM came; the update under way was finished and a checkpoint written.
            CheckpointError: `out` holds another run, or cannot be written.
        """
        if resume and out is None:
            raise ConfigError("resume=True needs out, the folder of the run to go on with")
        whole, folder = Budget.parse(budget), None if out is None else Path(out)
        began = _began(began, folder if resume and facts is None else None)  # a job counts it
        shape = self._shape(policy, lr_max, options, extends)
        peak, spent = self._known_peak(policy, lr_max, search, folder if resume else None)
        evaluate, keeper = None if self.valid is None else self.evaluate, self._keeper()
        self.state.end_run()
        self.state.training_mode()
        with ExitStack() as stack:
            stop, ending = stack.enter_context(stop_requests()), self._seconds_at_end(whole)

            def planned(peak: float, spent: int) -> tuple[Budget, Policy, Iterator[Event]]:
                budget = whole.without(spent, self._updates_per_epoch)
                policy = shape(peak, budget.total_updates(self._updates_per_epoch))
                events = train(
                    self.state, self.train, budget, policy, evaluate, evaluate_every=self.options.evaluate_every,
                    stop=stop, charges=Charges(began, ending, after),
                )  # fmt: skip
                return budget, policy, events

            budget, plan, events = planned(self._middle if peak is None else peak, spent)
            self._note_few(budget)
            self.history.begin_fit()
            recording, config = None, config or {"budget": str(whole)}
            if folder is not None:
                about = self._resolved(None if peak is None else plan, budget, config)
                recording = self._recording(folder, resume, config, facts, about, stack, extends)
            self._ended, self._forecast, self._pilots = None, None, _pilots_of(recording)
            with recording.kept() if recording else nullcontext():
                if peak is None:
                    found, began = self._search(whole, search, shape, began, recording, stop)
                    budget, plan, events = planned(found.lr_max, spent := found.updates)
                    if recording:
                        about = {**self._resolved(plan, budget, config), "search": found.to_dict()}
                        recording.decided(about, self.notes)
                watchers = [self._say_rescue, *keeper, self.history, *(recording.watchers if recording else ())]
                watchers += [*self._progress(stack, budget), *observers]
                watch(events, watchers, self.history.measured(), stop)
                self.history.check_trained(stop.reason)
        noted = len(self.notes)
        result = self._foresee(self._beside_baseline(self._end_fit(plan, keeper, stop, recording)), spent, stop.reason)
        if recording:
            result = recording.finished(
                result, self.state, self._units.metadata(), self.notes[noted:],
                self._forecast.to_dict() if self._forecast and self._pilots else None,
            )  # fmt: skip
        self._ended = extensions.ended(self.state, result, extends, _peak_of(plan), plan.layers)
        return result

    def fit_one_cycle(
        self,
        epochs: float | None = None,
        lr_max: float | slice | str = "auto",
        *,
        budget: Any = None,
        **keywords: Any,
    ) -> Result:
        """Train with one cycle of the learning rate up to `lr_max`, for `epochs` or inside `budget`.

        The short form of `fit` with the policy "one_cycle"; its other arguments are those of `fit`.

        Raises:
            ConfigError: no budget or two; and as `fit`.
        """
        return self.fit(_one_of_two(epochs, budget), "one_cycle", lr_max, **keywords)

    def extend(
        self,
        epochs: float | None = None,
        lr_max: float | slice | str = "auto",
        *,
        budget: Any = None,
        run: str | Path | None = None,
        out: str | Path | None = None,
        resume: bool = False,
        policy: str | Policy | Callable[[int | None], Policy] = "extension",
        **keywords: Any,
    ) -> Result:
        """Go on from the end of the last fit, or of a finished run on disk, for `epochs` more or inside `budget`.

        The learning rate rises to the peak of before once more and falls in a straight line (the preset "extension");
        the data come in orders of their own. The `run` is never changed; `out` is a new folder, which can be extended
        again.

        Args:
            lr_max: the peak. "auto": that of before, and less in an extension of fewer than two thirds of the updates
                before: 1.5 times their ratio; else as for `fit`.
            run: the folder of a finished run. The learner is made as that of the run was, and has not been trained.
                None: go on from the learner's own last fit.
            out, resume: a folder for the extension; go on with one that was stopped, in a learner as new.
            policy: another shape, as for `fit`.
            keywords: the other arguments of `fit`.

        Raises:
            ConfigError: nothing to go on from, no budget or two, or no peak; and as `fit`.
            CheckpointError: a `run` that is not finished, or of another model, other data or options; and as `fit`.
        """
        limit = Budget.parse(_one_of_two(epochs, budget))
        resumed = Path(out) if resume and out is not None else None
        if out is not None and not resume:
            RUN.claim(out)
        extends = self._extended(run, resumed)
        lowered = lr_max == "auto" and isinstance(policy, str)
        if lr_max != "auto":
            extends = replace(extends, layers=(), lr_max=lr_max if isinstance(lr_max, int | float) else None)
        elif lowered:
            lr_max = extends.peak(limit.total_updates(self._updates_per_epoch))
        self._note(extends.goes_on(limit, self._updates_per_epoch, lowered))
        return self.fit(limit, policy, lr_max, out=out, resume=resume, extends=extends, **keywords)

    def _extended(self, run: str | Path | None, resumed: Path | None) -> extensions.Extended:
        """What is gone on from, with this learner brought to its end; `resumed` is an extension that was stopped."""
        if run is None and resumed is None:
            if self._ended is None:
                raise ConfigError("there is nothing to extend: fit first, or give run=FOLDER, that of a finished run")
            return self._ended
        self._ended = extends = extensions.prepare(self.state, self.resolved, run, resumed, self.load)
        for records in extensions.records_before(extends):
            self.history.begin_fit()
            self.history.extend(*records)
        return extends

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
        batches = self.valid if data is None else self._setup.batching.batches(data, training=False)
        if batches is None:
            raise ConfigError("there is nothing to evaluate on: give data, or a validation split to the learner")
        with self.state.averaged():
            return evaluation.evaluate(self.model, batches.epoch(0), self.state.loss, self.runtime)

    def predict(self, inputs: Any) -> Any:
        """Predictions for `inputs`, [n, ...] on the CPU: probabilities for a classifier, else the model's outputs.

        `inputs` is a tensor or array of samples, a batch as a dictionary, or anything with batches whose first element
        is the inputs.
        """
        if isinstance(inputs, list) and inputs and isinstance(inputs[0], int | float | list):
            raise DataError("predict takes samples as a tensor or an array: give np.array(inputs)")
        if hasattr(inputs, "shape"):
            inputs = (as_tensor(inputs),)
        elif isinstance(inputs, Mapping):
            inputs = [inputs]
        batches = self._setup.batching.batches(inputs, training=False).epoch(0)
        with self.state.averaged():
            outputs = evaluation.predict(self.model, batches, self.runtime)
        return tasks.activation(self.state.loss)(outputs) if isinstance(outputs, Tensor) else outputs

    def freeze(self, layers: int | None = None) -> None:
        """Do not train the first `layers` layer groups; by default all but the last. `unfreeze` undoes it.

        Batch norms within them keep their statistics: they are in evaluation mode until `unfreeze`.
        """
        before = {p: p.requires_grad for p in self.model.parameters()}
        optimizers.freeze(self._layers, len(self._layers) - 1 if layers is None else layers)
        try:
            optimizers.check_steps(self.optimizer, self.model)
            optimizers.check_clip(self.state.clip, self.model)
        except ConfigError:
            for parameter, trained in before.items():
                parameter.requires_grad_(trained)
            raise
        for norm in self._still:
            norm.train()
        self._still = [norm for norm in optimizers.norms_of_frozen_layers(self.model) if norm.training]
        for norm in self._still:
            norm.eval()

    def unfreeze(self) -> None:
        """Train every layer group."""
        self.freeze(0)

    def save(self, path: str | Path) -> Path:
        """Write the model's weights as safetensors, in one step, with the units that they were trained in."""
        return save_weights(self.model, path, self._units.metadata())

    def load(self, path: str | Path) -> None:
        """Read weights that `save` wrote, and the units of inputs and targets that they were trained in.

        All that is evaluated, predicted and trained afterwards is in these units; a note says where the learner's data
        gave others.

        Raises:
            CheckpointError: no such file, a damaged one, or weights of another model; all is as before then.
        """
        units, before = Units.read(read_metadata(path)), self._units
        loss = self.state.loss if units is None else units.for_loss(self.state.loss)
        load_weights(self.model, path)
        if units is None or not (differing := units.differing(before)):
            return
        self.state.loss = loss
        batching = units.for_batching(self._setup.batching, weights_dtype(self.model))
        if batching is not self._setup.batching:
            self._setup.batching, self.train = batching, retransformed(self.train, batching.augment)
            self.valid = None if self.valid is None else retransformed(self.valid, batching.normalise)
        self._note(f"{path}: {listed(differing)} in the units that these weights were trained in, not in those of the "
                   "training data here")  # fmt: skip

    def evaluation_seconds(self, data: Any = None) -> float:
        """About how long `evaluate` takes, by one batch; 0 where there is nothing to evaluate on."""
        batches = self.valid if data is None else self._setup.batching.batches(data, training=False)
        return 0.0 if batches is None else evaluation.seconds(self.model, batches, self.state.loss, self.runtime)

    @property
    def _units(self) -> Units:
        return Units.of(self._setup.batching, self.state.loss)

    @property
    def _updates_per_epoch(self) -> int | None:
        return updates_per_epoch(self.train, self.state.accumulate)

    def _seconds_at_end(self, budget: Budget) -> float:
        """What follows the last update of a time budget."""
        return self.evaluation_seconds() + norms.seconds(self.state, self.train) if budget.seconds else 0.0

    def _recording(
        self, folder: Path, resume: bool, config: Mapping[str, Any], facts: Mapping[str, Any] | None,
        resolved: dict[str, Any], stack: ExitStack, extends: extensions.Extended | None,
    ) -> Recording:  # fmt: skip
        prediction = None  # the configuration and the facts of a job say it
        if facts is None:
            about = (self._setup.source, self.train, self._setup.batching.normalise, self.state.loss)
            prediction = needed_to_predict(self.model, *about)
        if not resume:
            return Recording.start(
                folder, self.state, stack, config=config, facts=facts, resolved=resolved, notes=self.notes,
                history=self.history, prediction=prediction, say=self._note,
                extends=None if extends is None else extends.to_dict(),
            )  # fmt: skip
        before = len(self.history.steps)
        recording = Recording.resume(
            folder, self.state, stack, config=config, facts=facts, resolved=resolved, history=self.history
        )
        if done := len(self.history.steps) - before:
            self._note(f"{folder} goes on after {count(done, 'update')}, from its last good checkpoint")
        return recording

    def _resolved(self, policy: Policy | None, budget: Budget, config: Mapping[str, Any]) -> dict[str, Any]:
        """What the options of a run came to, as plain data; its model by the name that `config` has for it.

        Without a policy, whose peak is still searched, what follows from that is left out.
        """
        run: dict[str, Any] = {}
        if policy is not None:
            updates, parts = budget.total_updates(self._updates_per_epoch), policy.to_dict()
            shape = {
                name: part for name, part in parts.items() if not isinstance(part, str)
            }  # of a function it is none
            run = {"lr_max": _peak_of(policy), "updates": updates, "schedule": shape}
        return {**run, **self.resolved, **({"model": config["model"]} if config.get("model") else {})}

    @property
    def resolved(self) -> dict[str, Any]:
        """What the options came to, as plain data: momentum, weight decay, smoothing, device, ..."""
        return self._setup.resolved(self.state)

    def _keeper(self) -> list[KeepBest]:
        """What keeps the best weights, where that is asked for."""
        name = self.options.keep_best
        if name is None:
            return []
        if self.valid is None:
            raise ConfigError(f"keep_best={name!r} needs validation data: give valid, or leave it out")
        if not any(name == known or name.startswith(f"{known}_") for known in self._setup.measured):
            raise ConfigError(
                f"keep_best={name!r} is no validation measure: {did_you_mean(name, self._setup.measured)}"
            )
        return [KeepBest(self.state, name)]

    def _end_fit(
        self, policy: Policy, keeper: Sequence[KeepBest], stop: StopRequest, recording: Recording | None
    ) -> Result:
        """What the fit came to, with the weights that it is to end with in the model."""
        result = self.history.result(_peak_of(policy), self._updates_per_epoch)
        if stop.reason is not None:
            self._note(f"stopped after {count(result.updates, 'update')}: {stop.reason}")
        self.state.take_averages()
        measured = self.history.measured()
        if self.valid is not None and (not measured or measured[-1][0] + 1 < result.updates):
            result = replace(result, valid=(valid := self.evaluate()))  # the end was asked for after that of an epoch
            self.history.measured_at_end(valid)
            if recording:
                recording.measured_at_end(valid)
            for best in keeper:
                best.take(valid, result.updates, self.history.epochs[-1]["epoch"])
        for best in keeper:
            if kept := best.restore():
                result = replace(result, valid=kept[0])
                self._note(kept[1])
        return result

    def _progress(self, stack: ExitStack, budget: Budget) -> list[Observer]:
        if not self.verbose:
            return []
        from .records.progress import Progress

        unit = "images" if self._setup.batching.images else "samples"
        progress = Progress(epochs=budget.epochs, unit=unit)
        stack.callback(progress.close)
        return [progress]

    def _beside_baseline(self, result: Result) -> Result:
        """The result with what is reached without learning, and a note where it is not better than that."""
        base = balance.baseline(
            self.state.loss, balance.targets_of(self.train), balance.targets_of(self.valid), self._setup.class_names,
            balanced=self.options.class_weights is not None,
        )  # fmt: skip
        if base is None or result.valid is None or base.measure not in result.valid:
            return result
        value = result.valid[base.measure]
        known = {"measure": base.measure, "value": base.value, "by": base.by}
        if not base.better(value):
            self._note(base.line(value))
        return replace(result, baseline=known)

    def _shape(
        self,
        policy: str | Policy | Callable[[int | None], Policy],
        lr_max: Any,
        options: Mapping[str, Any],
        extends: extensions.Extended | None,
    ) -> Callable[[float, int | None], Policy]:
        """From a peak and a number of updates to the policy of a run; one of your own has its peak."""
        if not isinstance(policy, str):
            if lr_max != "auto" or options:
                asked = {"lr_max": lr_max, **options}
                given = ", ".join(f"{name}={value!r}" for name, value in asked.items() if value != "auto")
                raise ConfigError(f"a policy of your own has its peak and its shape: leave out {given}")
            return lambda peak, updates: resolve(policy, updates)
        one_of("preset", policy, PRESETS)
        layers = () if extends is None else extends.layers
        if isinstance(lr_max, slice):
            _, layers = optimizers.layer_factors(lr_max, len(self._layers))
        if layers:
            optimizers.split_by_layer(self.optimizer, self._layers, layers)
        return lambda peak, updates: replace(preset(policy, peak, updates, **options), layers=layers)

    def _known_peak(self, policy: Any, lr_max: Any, search: float, resumed: Path | None) -> tuple[float | None, int]:
        """The peak as a number, None where it is to be searched, and the updates of the budget that it took."""
        share("search", search, of="the budget")
        if not isinstance(policy, str):
            return math.nan, 0
        if isinstance(lr_max, slice):
            return optimizers.layer_factors(lr_max, len(self._layers))[0], 0
        if lr_max in ("auto", "default") and resumed is not None:
            return peak_recorded(RUN.read(resumed)["resolved"])
        if lr_max == "auto" and search > 0:
            return None, 0
        if lr_max in ("auto", "default"):
            if self._recipe is None:
                raise ConfigError(NO_DEFAULT)
            return self._middle, 0
        if isinstance(lr_max, str) or lr_max is None:
            raise ConfigError(f'lr_max is a number, a slice, "auto" or "default"; received {lr_max!r}')
        return lr_max, 0

    def _search(
        self, budget: Budget, share: float, shape: Callable[[float, int | None], Policy], began: float,
        recording: Recording | None, stop: StopRequest,
    ) -> tuple[Search, float]:  # fmt: skip
        """What pilots say of the peak, in a line too; and when the budget began, those of before counted."""
        record = PilotRecord()
        if recording:
            record = PilotRecord(_pilots_of(recording), recording.keep_pilot)
            began -= sum(one.seconds for one in record.before)
        updates = record.before[0].of if record.before else None
        if updates is None:
            updates = updates_within(self.state, self.train, budget, time.perf_counter() - began)
        found = search_of(
            self.state, self.train, self.valid, updates, self._middle, share=share, policy=shape,
            record=record, stop=stop, seconds=budget.seconds or math.inf,
        )  # fmt: skip
        self._pilots = list(found.pilots)
        if not found.pilots and self._recipe is None:
            raise ConfigError(f"{NO_DEFAULT}, and {found.reason}")
        self._note(found.line())
        return found, began

    def forecast(self) -> Forecast:
        """What the last fit says of longer ones: the validation metric at 1, 2, 4 and 8 times its budget.

        With 90 % intervals; ``forecast().budget_for(0.95)`` is the budget that reaches a value, ``forecast().plot()``
        the figure. A fit whose peak was given, or that was too short for pilots, has none, and says why.

        Raises:
            ConfigError: nothing has been fitted to its end.
        """
        if self._forecast is None:
            raise ConfigError("there is no fit to forecast from: fit first, to its end")
        return self._forecast

    def _foresee(self, result: Result, spent: int, stopped: str | None) -> Result:
        """Make the forecast of a fit, and where it made pilots a note of it; the result as it is."""
        targets = balance.targets_of(self.valid) if self._pilots else None
        self._forecast = forecast(
            self._pilots, result.valid, result.updates, passes=result.epochs, budget=result.updates + spent,
            samples=None if targets is None else len(targets), nothing=result.baseline, seconds=result.seconds,
            stopped=stopped, measured=self.history.measured(),
        )  # fmt: skip
        if self._pilots:
            self._note(self._forecast.line())
        return result

    def _note_few(self, budget: Budget) -> None:
        updates = budget.total_updates(self._updates_per_epoch)
        if updates is not None and updates < FEW:
            few = count(updates, "update")
            self._note(f"{few} are few: more epochs or a smaller batch_size would train it further")

    def _say_rescue(self, event: Event) -> None:
        if isinstance(event, Update) and event.rescue is not None:
            self._note(str(event.rescue))

    def _note(self, *notes: str) -> None:
        self.notes += notes
        self._say(*notes)

    def _say(self, *notes: str) -> None:
        if self.verbose:
            from .records.progress import notes as show

            show(notes)


def _pilots_of(recording: Recording | None) -> list[Pilot]:
    """Those of the peak, in the order in which they were made."""
    return [Pilot(**one) for one in recording.pilots() if "setting" not in one] if recording else []


def _middle(optimizer: torch.optim.Optimizer, recipe: optimizers.Recipe | None) -> float:
    """The peak that pilots are about: the optimizer's default, or the rate that one of your own begins with."""
    own = max(float(group["lr"]) for group in optimizer.param_groups)
    return recipe.lr_max if recipe else own or optimizers.TYPICAL[kind_of(optimizer)].lr_max


def _began(began: float | None, resumed: Path | None) -> float:
    """When a budget began: before what the pilots of a run that is resumed took."""
    now = time.perf_counter() if began is None else began
    searched = {} if resumed is None else RUN.read(resumed)["resolved"].get("search") or {}
    return now - searched.get("seconds", 0.0)


def _peak_of(policy: Policy) -> float | None:
    return getattr(policy.schedules["lr"], "peak", None)


def _one_of_two(epochs: float | None, budget: Any) -> Any:
    if (epochs is None) == (budget is None):
        raise ConfigError(f"give epochs or a budget, one of them; received epochs={epochs!r}, budget={budget!r}")
    return epochs if budget is None else budget


def _document(learner: type[Learner]) -> None:
    """Give the class the signature and the help of its options, which are the fields of `TrainingOptions`."""
    known = fields(TrainingOptions)
    said = [textwrap.fill(f"{f.name}: {f.metadata['help']}", 112, subsequent_indent="    ") for f in known]
    learner.__doc__ = (learner.__doc__ or "").replace("{options}", textwrap.indent("\n".join(said), " " * 8).lstrip())
    signature = inspect.signature(learner.__init__)
    keyword = inspect.Parameter.KEYWORD_ONLY
    own = [p for p in signature.parameters.values() if p.name not in ("self", "options")]
    more = [inspect.Parameter(f.name, keyword, default=f.default, annotation=f.type) for f in known]
    learner.__signature__ = inspect.Signature([*own, *more])  # type: ignore[attr-defined]


_document(Learner)
