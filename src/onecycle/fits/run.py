"""A fit under way: its folder, the pilots before it, what it trains with, and what it comes to."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from .. import text
from ..data.batches import Batches
from ..data.by_number import samples_in_all
from ..data.loaders import read_again
from ..interpretation.looked import Looked
from ..interpretation.made import names_in, predictions_of
from ..interpretation.recorded import record, seconds_to_record
from ..optim.layers import last_alone
from ..records.best import KeepBest, measure_in
from ..records.extension import Extended, ended
from ..records.files import RUN, SUMMARY
from ..records.history import History, Observer, Result
from ..records.origin import origin
from ..records.prediction import needed_to_predict
from ..records.predictions import Predictions
from ..records.run import Recording
from ..schedules.stages import DISCRIMINATIVE, HEAD, SPREAD
from ..search.api import Method, PilotRecord, search_of, updates_within
from ..search.forecast import Forecast, forecast
from ..search.pilots import Pilot
from ..text import count
from ..tracking.trackers import Trackers
from ..training import balance
from ..training import evaluate as evaluation
from ..training.loop import Charges, Event, Update, train
from ..training.outputs import Outputs
from ..training.setup import TrainingSetup
from ..training.signals import StopRequest
from ..training.units import Units
from .plan import Plan
from .trained import Trained

# A run of fewer updates says so.
FEW = 100
# What a fit is judged by that may fall back to what it began with: a smaller loss, and no smaller accuracy.
LOSS, ACCURACY = "loss", "accuracy"


class Fit:
    """A fit by a `plan`, whose methods follow each other as they stand here.

    Args:
        trained: what is; a run under way in its state is given up.
        setup: what the batches and the loss of the state come from.
        plan: what the fit is to do.
        history: where it is kept in memory.
        notes: those of the learner, a live list that `note` adds to.
        extends: what it goes on from.
        tracking: where it is logged beside its folder.
        fall_back: what was measured before, which it goes back to if it ends no better; None: it does not.

    Attributes:
        plan: with the peak that pilots found, after `search`.
        events: those of the training, which begins with the first that is taken.
        forecast: what the fit says of longer ones, at its end.

    Raises:
        ConfigError: weights that are to be kept by what is not measured.
    """

    def __init__(
        self, trained: Trained, setup: TrainingSetup, plan: Plan, history: History, notes: list[str],
        note: Callable[..., None], extends: Extended | None, tracking: Trackers,
        fall_back: Mapping[str, float] | None = None,
    ):  # fmt: skip
        state, valid = trained.state, trained.valid
        self._tracking, self._searched = tracking, dict[str, Any]()
        self._config: Mapping[str, Any] = {"budget": str(plan.whole)}
        self._state, self._train, self._valid, self._measure = state, trained.train, valid, trained.evaluate
        self._outputs, self._kept = Outputs(), None  # of the last evaluation, and what it measured
        self._features = {} if trained.samples is None else {"features": trained.samples}
        self._spent = trained.spent
        self._model, self._fall_back = trained.model, None if valid is None else fall_back
        self._setup, self._history, self._notes, self._note, self._extends = setup, history, notes, note, extends
        self.plan = plan
        self.forecast: Forecast | None = None
        self._recording: Recording | None = None
        self._record = PilotRecord()
        self._pilots: Sequence[Pilot] = ()
        self._keeper = KeepBest.asked(setup.options.keep_best, state, valid is not None, setup.measured)
        state.end_run()
        state.training_mode()

    def begin(self, stop: StopRequest, began: float, ending: float, after: float) -> None:
        """Begin a budget of time at `began`, with `ending` seconds for its last evaluation and `after` for the rest.

        Raises:
            ConfigError: a budget or a policy that cannot be used.
        """
        self._stop, self._began, self._reserved = stop, began, (ending, after)
        self.events = self._planned_events()
        if self.plan.updates is not None and self.plan.updates < FEW:
            few = f"{count(self.plan.updates, 'update')} {'is' if self.plan.updates == 1 else 'are'}"
            self._note(f"{few} few: more epochs or a smaller batch_size would train it further")
        self._history.begin_fit()

    def _planned_events(self) -> Iterator[Event]:
        return train(
            self._state, self._train, self.plan.budget, self.plan.policy,
            None if self._valid is None else self._evaluate, evaluate_every=self._setup.options.evaluate_every,
            stop=self._stop, charges=Charges(self._began, *self._reserved),
        )  # fmt: skip

    def record(
        self, folder: Path, stack: ExitStack, *, resume: bool, config: Mapping[str, Any] | None,
        facts: Mapping[str, Any] | None,
    ) -> None:  # fmt: skip
        """Begin a run in `folder`, or go on with the one there; `stack` closes its files.

        Raises:
            CheckpointError: the folder holds another run, or cannot be written.
        """
        self._config = config or self._config
        asked = dict[str, Any](config=self._config, facts=facts, resolved=self._resolved(), history=self._history)
        prediction = None  # the configuration and the facts of a job say it
        if facts is None:
            batching = self._setup.batching
            about = (self._setup.source, self._setup.train, batching.normalise, self._state.loss)
            prediction = needed_to_predict(self._model, *about)
        if resume:
            before = len(self._history.steps)
            self._recording = Recording.resume(folder, self._state, stack, **asked)
            if note := self._recording.other_ranks:
                self._note(note, chief=True)
            if done := len(self._history.steps) - before:
                self._note(f"{folder} goes on after {count(done, 'update')}, from its last good checkpoint", chief=True)
            self._note(*read_again(self._train, self._state.at.epoch, self._state.at.batch))
        else:
            extends = None if self._extends is None else self._extends.to_dict()
            self._recording = Recording.start(
                folder, self._state, stack, notes=self._notes, prediction=prediction, say=self._note, extends=extends,
                **asked,
            )  # fmt: skip
            self._summarise(folder)
        self._record = PilotRecord.kept_in(self._recording)
        self._pilots = [made for made in self._record.before if made.method == self.plan.method]

    def _summarise(self, folder: Path) -> None:
        """Write what model and data are into the folder of the run; of one that trains a part of its model nothing."""
        if self._model is self._setup.model:
            self._state.runtime.ranks.from_main(lambda: SUMMARY.write(folder, self._setup.summary()) and None)

    def _resolved(self) -> dict[str, Any]:
        """What the options came to, as plain data; the model by the name that the configuration has for it."""
        named = {"model": self._config["model"]} if self._config.get("model") else {}
        several = {"ranks": world} if (world := self._state.runtime.ranks.world) > 1 else {}
        body = [p for layer in self.plan.rates.layers()[:-1] for p in layer] if self.plan.method == HEAD else []
        frozen = {"frozen": sum(p.numel() for p in body)} if body else {}
        return {
            **self.plan.resolved(),
            **self._setup.resolved(self._state),
            **named,
            **several,
            **frozen,
            **self._features,
        }

    def _evaluate(self) -> dict[str, float]:
        """What is measured on the validation data; in a run with a folder, what the model gives is kept."""
        if self._recording is None:
            return self._measure()
        self._kept = self._measure(keep=self._outputs)
        return self._kept

    def kept(self) -> AbstractContextManager[None]:
        """A block after an error within which what can be kept in the folder is."""
        return self._recording.kept() if self._recording else nullcontext()

    def remember(self) -> None:
        """Keep the weights of before the first update, where it may fall back to them."""
        if self._fall_back is not None and not self._state.updates:
            KeepBest(self._state, self._setup.options.keep_best or LOSS).take(self._fall_back, 0, 0)

    def search(self, share: float) -> None:
        """Find the peak by pilots, where the plan has none; those of before the run was broken off are not made again.

        Raises:
            ConfigError: there is no peak without pilots, and none was made.
            Interrupted: a signal came.
        """
        if self.plan.peak is not None:
            return
        state, whole, record = self._state, self.plan.whole, self._record
        self._began -= sum(one.seconds for one in record.before)
        of = record.before[0].of if record.before else updates_within(
            state, self._train, whole, time.perf_counter() - self._began
        )  # fmt: skip
        search = state.runtime.ranks.broadcast(search_of(
            state, self._train, self._valid, of, self.plan.rates.middle, share=share, policy=self.plan.shape,
            methods=self._methods(), record=record, stop=self._stop, seconds=whole.seconds or math.inf,
        ))  # fmt: skip
        self.plan = self.plan.after(search)
        self._pilots = [made for made in search.pilots if made.method == search.method]
        self._searched = {"search": search.to_dict()}
        self._note(search.line(), chief=True)
        if self.plan.others:
            tried = search.why or "the budget is too small for pilots of the others"
            self._note(f'fine-tuning by "{search.method or DISCRIMINATIVE}": {tried}')
        self.events = self._planned_events()
        if self._recording:
            self._recording.decided({**self._resolved(), **self._searched}, self._notes)

    def _methods(self) -> list[Method]:
        """The other methods that pilots try; of layers that are trained the peaks have the same geometric mean."""
        if not self.plan.others:
            return []
        alone = partial(last_alone, self._model, self.plan.rates.layers())
        return [
            Method(name, shape, during=alone) if name == HEAD else Method(name, shape, SPREAD**-0.5)
            for name, shape in self.plan.others.items()
        ]

    def alone(self) -> AbstractContextManager[None]:
        """A block for the training: within it the head is trained alone, where that was the best pilot."""
        return last_alone(self._model, self.plan.rates.layers()) if self.plan.method == HEAD else nullcontext()

    def track(self) -> None:
        """Begin or go on with its runs in the trackers that were asked for, now that its peak is known.

        Raises:
            ConfigError: a tracker cannot begin one.
        """
        if self._recording:
            folder = self._recording.folder
            self._tracking.start(RUN.read(folder), folder, self._history, self._notes)
        elif self._tracking.names:
            resolved = {**self._resolved(), **self._searched}
            record = {"config": dict(self._config), "resolved": resolved, **origin()}
            self._tracking.start(record, None, self._history, self._notes)

    @property
    def watchers(self) -> list[Observer]:
        """What sees each event, in this order: the weights are kept before a checkpoint is written."""
        recorded = self._recording.watchers if self._recording else ()
        return [self._say_rescue, *self._keeper, self._history, *recorded, *self._tracking.observers]

    def _say_rescue(self, event: Event) -> None:
        if isinstance(event, Update) and event.rescue is not None:
            self._note(str(event.rescue))

    def end(self) -> Result:
        """Bring the weights that the fit is to end with into the model; what it came to, written to its folder too."""
        before = len(self._notes)
        result = self._history.result(self.plan.policy.peak, self.plan.per_epoch)
        if self._stop.reason is not None:
            self._note(f"stopped after {count(result.updates, 'update')}: {self._stop.reason}")
        self._state.take_averages()
        result = self._beside_baseline(self._or_before(self._with_best(self._measured(result))))
        self._foresee(result)
        result = replace(result, seconds=result.seconds + self._spent)
        self._tracking.ended(
            result.to_dict(), self.forecast.to_dict() if self.forecast else None,
            partial(self.plan.policy.plot, result.updates),
        )  # fmt: skip
        if self._recording is None:
            return result
        units = Units.of(self._setup.batching, self._state.loss)
        foreseen = self.forecast.to_dict() if self.forecast and self._pilots else None
        result = self._recording.finished(
            result, self._state, self._model, units.metadata(), self._notes[before:], foreseen
        )  # fmt: skip
        self._record_predictions(self._recording, result)
        return result

    @property
    def _looked(self) -> Looked:
        """The validation data and the model, to be looked into."""
        setup = self._setup
        return Looked.of(self._model, self._state, setup, cast(Batches, setup.valid), setup.held_out)

    @property
    def _keeps_predictions(self) -> bool:
        """Whether predictions are recorded: of a run of the whole model, with validation data."""
        return self._valid is not None and self._model is self._setup.model

    def seconds_to_record(self) -> float:
        """About how long it takes to record predictions at the end, in a run by time that will have a folder."""
        ranks, budget = self._state.runtime.ranks, self.plan.whole.seconds
        if budget is None or not self._keeps_predictions:
            return 0.0
        samples = samples_in_all(cast(Batches, self._valid)) or 0
        again = 0.0  # where the weights that are kept are not the last ones
        if self._keeper or self._fall_back is not None:
            held_out = cast(Batches, self._valid)
            again = evaluation.seconds(self._state.model, held_out, self._state.loss, self._state.runtime)
        return again + ranks.from_main(lambda: seconds_to_record(self._looked, samples, budget))

    def _record_predictions(self, recording: Recording, result: Result) -> None:
        """Write what the model predicts for the validation data into the folder of the run.

        That is of the last evaluation; only where that was of other weights than the run ends with, of one more.
        """
        if not self._keeps_predictions:
            return
        state, ranks = self._state, self._state.runtime.ranks
        if ranks.broadcast(self._kept != result.valid):
            self._evaluate()
        made = predictions_of(self._outputs, state.loss, "valid", names_in(self._setup.source), ranks)
        if isinstance(made, Predictions):
            ranks.from_main(lambda: record(recording.folder, made, self._looked, self.plan.whole.seconds))

    def _measured(self, result: Result) -> Result:
        """The result with what is measured at the end, also where that was asked for after the end of an epoch."""
        measured = self._history.measured()
        if self._valid is None or (measured and measured[-1][0] + 1 >= result.updates):
            return result
        valid = self._evaluate()
        self._history.measured_at_end(valid)
        if self._recording:
            self._recording.measured_at_end(valid)
        self._tracking.measured_at_end(self._history.epochs[-1])
        for best in self._keeper:
            best.take(valid, result.updates, self._history.epochs[-1]["epoch"])
        return replace(result, valid=valid)

    def _with_best(self, result: Result) -> Result:
        """The result with the best weights that were kept, where they were to be."""
        for best in self._keeper:
            if kept := best.restore():
                result = replace(result, valid=kept[0])
                self._note(kept[1])
        return result

    def _or_before(self, result: Result) -> Result:
        """The result, or where it is no better than what it began with, that and the weights of then."""
        best, name = self._state.best, LOSS
        if self._fall_back is None or self._keeper or best is None or result.valid is None:
            return result
        now, then = result.valid, best["valid"]
        if measure_in(now, name) > measure_in(then, name):
            if ACCURACY not in now or now[ACCURACY] >= then.get(ACCURACY, 0.0):
                return result
            name = ACCURACY
        KeepBest(self._state, LOSS).restore()
        said = [text.measure(name, valid[name]) for valid in (now, then)]
        self._note(f"kept: the weights that this began with: validation {name} {said[0]}, and {said[1]} before")
        return replace(result, valid=best["valid"])

    def _beside_baseline(self, result: Result) -> Result:
        """The result with what is reached without learning, and a note where it is not better than that."""
        base = balance.baseline(
            self._state.loss, balance.targets_of(self._train), balance.targets_of(self._valid),
            self._setup.class_names, balanced=self._setup.options.class_weights is not None,
        )  # fmt: skip
        if base is None or result.valid is None or base.measure not in result.valid:
            return result
        value = result.valid[base.measure]
        if not base.better(value):
            self._note(base.line(value))
        return replace(result, baseline={"measure": base.measure, "value": base.value, "by": base.by})

    def _foresee(self, result: Result) -> None:
        """Make the forecast, and where there were pilots a note of it."""
        targets = balance.targets_of(self._valid) if self._pilots else None
        self.forecast = forecast(
            self._pilots, result.valid, result.updates, passes=result.epochs, budget=result.updates + self.plan.spent,
            samples=None if targets is None else len(targets), nothing=result.baseline, seconds=result.seconds,
            stopped=self._stop.reason, measured=self._history.measured(),
        )  # fmt: skip
        if self._pilots:
            self._note(self.forecast.line())

    def ended(self, result: Result) -> Extended:
        """What an extension goes on from after this `result`."""
        policy = self.plan.policy
        return ended(self._state, result, self._extends, policy.peak, policy.layers)


def began_at(began: float | None, resumed: Path | None) -> float:
    """When a budget began: before what the pilots of a run that is resumed took."""
    now = time.perf_counter() if began is None else began
    searched = {} if resumed is None else RUN.read(resumed)["resolved"].get("search") or {}
    return now - searched.get("seconds", 0.0)
