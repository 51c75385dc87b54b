"""The facade: a model, its data and its optimizer, with the functions of the package as methods."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from .data.arrays import as_tensor
from .data.batches import first_batch
from .data.by_number import samples_in_all
from .errors import ConfigError, DataError
from .fits.frozen import Frozen
from .fits.plan import Rates, planned
from .fits.run import Fit, began_at
from .fits.staged import StagedFit
from .fits.trained import Trained
from .interpretation.api import Interpretation
from .interpretation.looked import Looked
from .interpretation.made import names_in, predictions_of
from .optim import build as optimizers
from .optim import layers
from .optim.choice import AUTO, OptimizerChoice
from .profiling.api import BUDGET, profile_of
from .profiling.result import Profile
from .range_test.api import RangeTest, range_test_of
from .range_test.plan import EPOCHS
from .records import extension as extensions
from .records import run as runs
from .records.checkpoint import load_weights, read_metadata, save_weights
from .records.files import RUN, STAGES
from .records.history import History, Observer, Result
from .records.progress import NoteBlock
from .schedules.budget import Budget
from .schedules.policy import Policy
from .schedules.stages import HEAD, Stage, fine_tuning
from .search.api import SHARE
from .search.forecast import Forecast
from .text import count, html_table, listed
from .tracking.trackers import Trackers
from .training import batch_norm, norms, outputs, probe, sharded
from .training import compiled as compiling
from .training import evaluate as evaluation
from .training import objectives as tasks
from .training.loop import updates_per_epoch, watch
from .training.options import TrainingOptions, in_words, seconds_of
from .training.ranks import together
from .training.runtime import Runtime, weights_dtype
from .training.setup import TrainingSetup
from .training.sharing import considerate
from .training.signals import stop_requests
from .training.state import TrainState
from .training.units import Units, retransformed


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
        self.notes: list[str] = []
        self._block: NoteBlock | None = None  # the notes that are printed before it trains
        self._unsaid: list[str] = []  # those on its optimizer until others come: fine-tuning may take another
        self.history = History()
        self._ended: extensions.Extended | None = None  # what an extension goes on from
        self._of_part = False  # whether the last fit trained the head alone
        self._forecast: Forecast | None = None  # of the last fit
        self.runtime = Runtime.choose(given.device, cast(str, given.precision), seconds_of(given.timeout))
        self.verbose = verbose and self.runtime.ranks.is_main
        self.tracking = Trackers(given.track if self.runtime.ranks.is_main else (), self._note)
        with self.runtime.ranks.together():
            self._prepare(model, train, valid, loss, metrics, layer_groups)
        self.notes += self._of_optimizer
        self._unsaid = self._of_optimizer

    def _prepare(
        self, model: nn.Module, train: Any, valid: Any, loss: Any, metrics: Any,
        layer_groups: Sequence[nn.Module] | None,
    ) -> None:  # fmt: skip
        """Look at model and data, and make what is decided from them."""
        given, ranks = self.options, self.runtime.ranks
        if not isinstance(model, nn.Module):
            kind = f"the class {model.__name__}: give an instance" if isinstance(model, type) else f"{model!r}"
            raise ConfigError(f"model is a torch.nn.Module; received {kind}")
        if sharded.has_shards(model):
            raise ConfigError(
                f"{type(model).__name__} is in shards by now (fully_shard): give the model whole, and shard=True"
            )
        within = getattr(model, "_orig_mod", None)  # of torch.compile, which names everything by it
        compiled, model = (model, within) if isinstance(within, nn.Module) else (None, model)
        shapes = [f"{name} {'' if is_lazy(p) else list(p.shape)}" for name, p in model.named_parameters()]
        ranks.check_same({**given.alike(), "the model": shapes})
        model = model if given.shard else self.runtime.place(model)
        self.model = batch_norm.synced(model, ranks) if given.sync_batchnorm else model
        if given.shard:
            of_it = given.optimizer if isinstance(given.optimizer, torch.optim.Optimizer) else None
            sharded.shard(ranks, self.runtime.device, self.model, optimizer=of_it)
        else:
            ranks.align((*self.model.parameters(), *self.model.buffers()))
        self._setup = TrainingSetup(self.model, given, self.runtime, self._note)
        self._setup.take_data(train, valid, loss)
        task = self._setup.take_loss(loss, metrics)
        self.runtime = self._setup.lay_out(task)
        self.train, self.valid = self._setup.train, self._setup.valid
        self._setup.check_ranks()
        of_loss = tasks.loss_module(task)
        if given.shard and of_loss is not None and any(True for _ in of_loss.parameters()):
            sharded.shard(ranks, self.runtime.device, of_loss, optimizer=of_it, small=True)
        chosen = self._setup.choose_optimizer()
        built, self._of_optimizer = self._built(of_loss)
        if given.compile and compiled is None:
            compiled = compiling.compiled(self.model, built, given.compile, self.train, self.runtime)
        self._given_layers = layer_groups
        if layer_groups is not None:
            layers.layers_of(self.model, built, layer_groups)  # so that an error comes now
        self._deep = False  # whether layer groups are as for fine-tuning
        make = partial(self._layers, layer_groups)
        self._rates = Rates.of(built, make, chosen.optimizer, self._setup.samples_per_update)
        self.state = TrainState(
            self.model, built, task, self.runtime, given.seed, given.accumulate, given.clip,
            compiled, average=given.average, norm_statistics=given.norm_statistics, rescue=given.rescue,
        )  # fmt: skip
        self._frozen = Frozen(self.state, lambda: self._run_order)

    def _built(self, of_loss: nn.Module | None) -> tuple[torch.optim.Optimizer, list[str]]:
        """The optimizer that was chosen, over the model and the module of the loss, and notes."""
        given, chosen = self.options, self._setup.chosen
        built, notes = optimizers.build_optimizer(
            chosen.optimizer, self.model, momentum=cast(float | None, given.momentum), beside=of_loss,
            weight_decay=given.weight_decay, by_adamw=chosen.left,
        )  # fmt: skip
        return built, [*([chosen.note] if chosen.note else []), *notes]

    def _without_muon(self) -> None:
        """Have AdamW in place of Muon, where that was chosen here: weights that others pretrained were not by Muon.

        Source: Liu et al., 2502.16982, section 3.5.
        """
        if self.options.optimizer != AUTO or self._setup.chosen.optimizer != "muon" or self.options.shard:
            return
        self._setup.chosen = OptimizerChoice("adamw")
        built, notes = self._built(tasks.loss_module(self.state.loss))
        self.state.take_optimizer(built)
        self._rates = Rates.of(built, self._rates.layers, "adamw", self._setup.samples_per_update)
        for note in self._of_optimizer:
            self.notes.remove(note)
        self._unsaid = []
        self._note('optimizer "adamw", for fine-tuning; optimizer="muon" is the other', *notes)

    def _layers(self, given: Sequence[nn.Module] | None) -> list[list[nn.Parameter]]:
        """The layer groups, the input's first."""
        return layers.layers_of(self.model, self.optimizer, given, lambda: self._run_order, deep=self._deep)

    @cached_property
    def _run_order(self) -> layers.RunOrder:
        """The order in which the modules of the model are run."""
        batch = self.runtime.move(probe.few(first_batch(self.train)))
        return probe.run_order(self.model, self.state.loss, batch, self.runtime)

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
    def default_peak(self) -> float:
        """The peak without evidence: of the optimizer and the samples of an update, or the rate of one of your own."""
        return self._rates.middle

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer; parameter groups may be added to it between fits."""
        return self.state.optimizer

    @considerate()
    @together
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
        spread: float | str = 1.0,
        part: Trained | None = None,
        fall_back: Mapping[str, float] | None = None,
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
                "default": that default, which goes with the samples of an update with AdamW and Adam. ``slice(a, b)``
                spreads it over the layer groups, from a (the input's) to b (the output's) in equal ratios;
                ``slice(b)`` gives all but the last a tenth.
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
            spread: the peak of the last layer group, `lr_max`, over that of the first, in equal ratios between. "auto",
                for what was pretrained: 100, 1, or the last layer group alone, by a pilot each beside those of an
                automatic peak; 100 where these cannot tell.
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
        ranks = self.runtime.ranks
        resume = ranks.broadcast(resume)  # where the script asks whether there is a folder, the main rank's answer
        folder, resume = (None, False) if out is None else runs.placed(Path(out), resume, ranks)
        began = began_at(began, folder if resume and facts is None else None)  # a job counts it
        trained = self._whole if part is None else part
        fit = self._planned(
            trained, budget, policy, lr_max, folder, resume=resume, search=search, extends=extends, spread=spread,
            fall_back=fall_back, **options,
        )  # fmt: skip
        with self.tracking, ExitStack() as until_end:
            with ExitStack() as stack:
                stop = stack.enter_context(stop_requests(ranks))
                stop.observed = ranks.any(bool(observers := list(observers)))
                ending = self._seconds_at_end(trained, fit.plan.whole)
                ending += fit.seconds_to_record() if folder is not None else 0.0
                fit.begin(stop, began, ending, after)
                self.tracking.check(folder, resume)
                if folder is not None:
                    fit.record(folder, stack, resume=resume, config=config, facts=facts)
                fit.remember()
                self._ended, self._forecast, self._of_part = None, None, False
                with fit.kept():
                    fit.search(search)
                    self._all_said(folder)
                    until_end.enter_context(fit.alone())
                    fit.track()
                    watchers = [*fit.watchers, *self._progress(stack, fit.plan.budget), *observers]
                    watch(fit.events, watchers, self.history.measured(), stop)
                    self.history.check_trained(stop.reason)
            result = fit.end()
        self._of_part = trained.state is not self.state or fit.plan.method == HEAD
        self._ended = None if self._of_part else fit.ended(result)
        self._forecast = fit.forecast
        return result

    @property
    def _whole(self) -> Trained:
        return Trained(self.state, self.train, self.valid, self.evaluate, self._rates, self.model)

    def _planned(
        self, trained: Trained, budget: Any, policy: Any, lr_max: Any, folder: Path | None, *, resume: bool = False,
        extends: extensions.Extended | None = None, search: float = SHARE, spread: float | str = 1.0,
        fall_back: Mapping[str, float] | None = None, **options: Any,
    ) -> Fit:  # fmt: skip
        """A fit of what is `trained`, planned; see `Fit` for what it may `fall_back` to."""
        whole = Budget.parse(budget)
        asked = {
            "budget": whole,
            "policy": policy,
            "lr_max": lr_max,
            "options": options,
            "a folder": folder is not None,
        }
        self.runtime.ranks.check_same({name: in_words(value) for name, value in asked.items()})
        plan = planned(
            whole, policy, lr_max, trained.rates, updates_per_epoch(trained.train, self.state.accumulate),
            options=options, spread=spread, layers=() if extends is None else extends.layers, search=search,
            resumed=folder if resume else None,
        )  # fmt: skip
        return Fit(
            trained, self._setup, plan, self.history, self.notes, self._note, extends, self.tracking, fall_back
        )  # fmt: skip

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

    @together
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
            ConfigError: nothing to go on from, or a training of a part of the model; no budget or two, or no peak; and
                as `fit`.
            CheckpointError: a `run` that is not finished, or of another model, other data or options; and as `fit`.
        """
        limit, ranks = Budget.parse(_one_of_two(epochs, budget)), self.runtime.ranks
        resume = ranks.broadcast(resume)
        ranks.check_same({"a folder": out is not None, "a run": run is not None})
        if out is not None:
            out, resume = runs.placed(Path(out), resume, ranks)
        resumed = Path(out) if resume and out is not None else None
        if out is not None and not resume:
            ranks.from_main(lambda: RUN.claim(out))
        run = None if run is None else ranks.folder(Path(run), resume=True, weights=True)
        extends = self._extended(run, resumed)
        lowered = lr_max == "auto" and isinstance(policy, str)
        if lr_max != "auto":
            extends = replace(extends, layers=(), lr_max=lr_max if isinstance(lr_max, int | float) else None)
        elif lowered:
            lr_max = extends.peak(limit.total_updates(self._updates_per_epoch))
        if extends.layers and len(extends.layers) != len(self._rates.layers()):
            self._deep = True  # as those of a run that was fine-tuned
        self._note(extends.goes_on(limit, self._updates_per_epoch, lowered), chief=True)
        return self.fit(limit, policy, lr_max, out=out, resume=resume, extends=extends, **keywords)

    @considerate()
    @together
    def fine_tune(
        self,
        epochs: float | None = None,
        lr_max: float | slice | str = "auto",
        freeze_epochs: float = 1.0,
        *,
        budget: Any = None,
        method: str = "auto",
        policy: str = "one_cycle",
        stages: Sequence[Stage | Mapping[str, Any]] | None = None,
        out: str | Path | None = None,
        resume: bool = False,
        **keywords: Any,
    ) -> Result:
        """Train the head of a pretrained model first, for `freeze_epochs`, and then all of it, each by one cycle.

        The features of a frozen body are computed once, where the head takes one tensor and the data are samples: the
        head is then trained for `EPOCHS` (20) epochs of them for each epoch asked for, without augmentation.

        Args:
            lr_max: the peak of the last stage, as for `fit`; with an optimizer of your own, which has no default peak,
                that of the head too.
            freeze_epochs: of the head alone; 0 for none.
            method: "head" trains nothing else; "discriminative" all, at peaks that fall by a factor of 100 from the
                last layer group, `lr_max`, to the first; "full" all at `lr_max`; "auto" is what is best of these by
                pilots inside the budget, "discriminative" where it is too small for them or the peak is given, and
                ends with the weights that the head came to where those have no larger validation loss, or a larger
                accuracy.
            stages: others, in place of all these: see `Stage`.
            out: a folder for the run; the stages before the last one are runs in its folder ``stages``.
            keywords: the other arguments of `fit`, for the last stage.

        Source: Howard & Ruder, 1801.06146, section 3; ``fine_tune`` of fastai is "discriminative".

        Raises:
            ConfigError: stages that cannot be trained; and as `fit`.
            CheckpointError, Interrupted, NonFiniteLoss: as `fit`.
        """
        given = stages is not None
        if given and (epochs, lr_max, freeze_epochs, budget, method, policy) != _NOT_GIVEN:
            raise ConfigError("stages have budgets, peaks and layers of their own: leave out the other arguments")
        if self.state.step:
            raise ConfigError("fine_tune begins with a learner as new, and this one was trained before")
        self._without_muon()
        self._deep, staged = True, StagedFit(self, fall_back=method == "auto" and not given, shared=not given)
        if not given and not staged.caches and len(self._rates.layers()) == 1:
            if method == HEAD:
                raise ConfigError("the model has one layer group, and no head to be trained alone: give layer_groups")
            freeze_epochs = 0.0
            self._note("no stage of the head: the model has one layer group")
        made = [Stage.of(stage) for stage in stages or ()] if given else fine_tuning(
            _one_of_two(epochs, budget), freeze_epochs, method, lr_max, policy, cached=staged.caches
        )  # fmt: skip
        if not given and self._rates.default is None and lr_max not in ("auto", "default") and made[0].lr_max == "auto":
            last = made[-1].lr_max
            peak = last.stop if isinstance(last, slice) else last
            made = [replace(made[0], lr_max=peak), *made[1:]]
            self._note(f"the head's peak is {peak:g} too: an optimizer of your own has no default peak here")
        if not made:
            raise ConfigError("stages is empty: give one at least, such as {'budget': '3 epochs', 'train': 'head'}")
        ranks = self.runtime.ranks
        folder, resume = (None, False) if out is None else runs.placed(Path(out), ranks.broadcast(resume), ranks)
        return staged.fit(made, folder, resume=resume, **keywords)

    def _extended(self, run: str | Path | None, resumed: Path | None) -> extensions.Extended:
        """What is gone on from, with this learner brought to its end; `resumed` is an extension that was stopped."""
        if run is None and resumed is None:
            if self._of_part:
                raise extensions.of_a_part("the fit before")
            if self._ended is None:
                raise ConfigError("there is nothing to extend: fit first, or give run=FOLDER, that of a finished run")
            return self._ended
        at = Path(resumed or run or "")
        before = self.runtime.ranks.from_main(lambda: RUN.read(at)["resolved"] if RUN.exists(at) else {})
        if before.get("optimizer") == "adamw":
            self._without_muon()  # as a run that was fine-tuned
        if before.get("norm_statistics", "") is None:
            self._frozen.hold_norms()
        self._ended = extends = extensions.prepare(self.state, self.resolved, run, resumed, self.load)
        for records in self.runtime.ranks.from_main(lambda: list(extensions.records_before(extends))):
            self.history.begin_fit()
            self.history.extend(*records)
        return extends

    @considerate()
    @together
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
        return self.tracking.range_test(range_test_of(
            self.state, self.train, self.valid, updates=updates, repeats=repeats, epochs=epochs, build=build,
            say=self._say, **options,
        ))  # fmt: skip

    lr_find = range_test

    @considerate(changing=True)
    def profile(self, budget: Any = BUDGET, *, compile: bool = False, **about: Any) -> Profile:
        """Where the time of an update goes, and what would make it faster here; everything is as before afterwards.

        `budget` is a time for all of it; with `compile`, ``torch.compile`` is tried too, whose compiling may take
        longer. The others are those of `onecycle.profiling.api.profile_of`.

        Raises:
            ConfigError: a budget that is no time; several ranks.
            DataError: not even a batch of one sample fits into the memory.
        """
        return profile_of(self.state, self.train, budget=budget, compile=compile, say=self._say, **about)

    @together
    def evaluate(
        self, data: Any = None, *, flips: bool = False, keep: outputs.Outputs | None = None
    ) -> dict[str, float]:
        """Mean loss and metrics on `data`, by default the validation data.

        With `flips`, of the mean of what the model gives for each image and for its mirror image: not to be compared
        with what is measured without them. What the model gives for each sample is kept in `keep`.

        Raises:
            ConfigError: no data, or `flips` of anything but images.
        """
        if flips and not self._setup.batching.images:
            raise ConfigError("flips=True mirrors images held as uint8, and these data are none: leave it out")
        batches = self.valid if data is None else self._setup.batching.batches(data, training=False)
        if batches is None:
            raise ConfigError("there is nothing to evaluate on: give data, or a validation split to the learner")
        if keep is not None:
            keep.begin(samples_in_all(batches))
        with self.state.averaged():
            model = evaluation.Mirrored(self.model) if flips else self.model
            return evaluation.evaluate(model, self.runtime.epoch(batches, 0), self.state.loss, self.runtime, keep)

    @together
    def interpret(self, data: Any = None) -> Interpretation:
        """What the model gets wrong on `data`, by default the validation data, how sure it is, and what it goes by.

        That takes one evaluation. On data that the model was trained on it is better than it is elsewhere, and so are
        its labels.

        Raises:
            ConfigError: no data, or a loss that does not say what outputs and targets are.

        >>> x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
        >>> learn = Learner(nn.Linear(3, 2), (x, (x[:, 0] > 0).long()), verbose=False)
        >>> learn.interpret((x[:8], (x[:8, 0] > 0).long())).confusion.accuracy.n
        8
        """
        kept, ranks = outputs.Outputs(), self.runtime.ranks
        self.evaluate(data, keep=kept)
        setup, split = self._setup, "valid" if data is None else "the data given"
        batches = cast(Any, self.valid if data is None else setup.batching.batches(data, training=False))
        made = predictions_of(kept, self.state.loss, split, names_in(setup.source), ranks)
        looked = Looked.of(self.model, self.state, setup, batches, setup.held_out if data is None else data)
        return Interpretation.of(made, looked, "computed now")

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

    @property
    def measured(self) -> frozenset[str]:
        """The names of what an evaluation measures, as far as the data could be looked at."""
        return frozenset(self._setup.measured)

    def freeze(self, first: int | None = None) -> None:
        """Do not train the `first` so many layer groups; by default all but the last. `unfreeze` undoes it.

        They are in evaluation mode until `unfreeze`: their batch norms keep their statistics, and drop nothing out.
        """
        groups = self._rates.layers()
        self._frozen.freeze(groups, len(groups) - 1 if first is None else first)

    def unfreeze(self) -> None:
        """Train every layer group."""
        self.freeze(0)

    @together
    def save(self, path: str | Path) -> Path:
        """Write the model's weights as safetensors, in one step, with the units that they were trained in."""
        model = sharded.in_one_piece(self.model, self.runtime.ranks)
        return self.runtime.ranks.from_main(lambda: save_weights(model, path, self._units.metadata()))

    @together
    def load(self, path: str | Path) -> None:
        """Read weights that `save` wrote, and the units of inputs and targets that they were trained in.

        All that is evaluated, predicted and trained afterwards is in these units; a note says where the learner's data
        gave others.

        Raises:
            CheckpointError: no such file, a damaged one, or weights of another model; all is as before then.
        """
        ranks, before = self.runtime.ranks, self._units
        units = Units.read(ranks.from_main(lambda: read_metadata(path)))
        loss = self.state.loss if units is None else units.for_loss(self.state.loss)
        if self.state.is_sharded:  # each rank reads its shards
            load_weights(self.model, path)
        else:
            ranks.from_main(lambda: load_weights(self.model, path))
            ranks.align((*self.model.parameters(), *self.model.buffers()))
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

    def _seconds_at_end(self, trained: Trained, budget: Budget) -> float:
        """What follows the last update of a time budget."""
        state, valid = trained.state, trained.valid
        if budget.seconds is None:
            return 0.0
        measuring = 0.0 if valid is None else evaluation.seconds(state.model, valid, state.loss, self.runtime)
        return measuring + norms.seconds(state, trained.train)

    @property
    def resolved(self) -> dict[str, Any]:
        """What the options came to, as plain data: momentum, weight decay, smoothing, device, ..."""
        return self._setup.resolved(self.state)

    def _progress(self, stack: ExitStack, budget: Budget) -> list[Observer]:
        if not self.verbose:
            return []
        from .records.progress import Progress

        unit = "images" if self._setup.batching.images else "samples"
        progress = Progress(epochs=budget.epochs, unit=unit)
        stack.callback(progress.close)
        return [progress]

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

    def _note(self, *notes: str, chief: bool = False) -> None:
        self.notes += notes
        self._say(*notes, chief=chief)

    def _say(self, *notes: str, chief: bool = True) -> None:
        if self.verbose:
            self._block = self._block or NoteBlock()
            self._block.add(*self._unsaid)
            self._block.add(*notes, chief=chief)
            self._unsaid = []

    def _all_said(self, folder: Path | None) -> None:
        """The notes of the beginning are over: of those that were not printed it is said where they are."""
        self._say()
        if self._block is not None:
            if folder is not None and folder.parent.name == STAGES:  # whose notes the run has
                folder = folder.parent.parent
            here = "learn.notes has them" if folder is None else f"in {folder}/run.json and on its page, or --verbose"
            self._block.close(here)


_NOT_GIVEN = (None, "auto", 1.0, None, "auto", "one_cycle")  # of the arguments of `fine_tune`


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
