"""Fits in stages: each begins with the weights that the one before came to."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import ConfigError
from ..records.checkpoint import checkpoints, load_weights
from ..records.files import RUN, STAGES, WEIGHTS, read_jsonl
from ..records.history import Result
from ..records.run import abandon, broken_off
from ..schedules.budget import Budget
from ..schedules.stages import ALL, HEAD, STILL, Stage, spread_of
from ..search.api import SHARE as SEARCHED
from ..search.api import updates_within
from ..text import count, listed
from ..training.loop import updates_per_epoch
from ..training.ranks import Ranks
from .trained import FeaturesDiffer, HeadAlone, Trained

# The default peak of what was pretrained, as a share of that of a model from scratch: the geometric mean over the layer
# groups. Of AdamW 1e-4, as in fine-tuning of transformers.
SHARE = 1 / 70
# Of what is left of a time budget, what the stages before the last may take each.
PART = 1 / 4
# Of what is left, what the features of the head may take, by which most is learned of few samples; and of the time that
# they took, what its training on them may at least.
FEATURES, LEAST = 1 / 2, 1 / 10


class StagedFit:
    """Fits of a `Learner` in stages, the last one in a folder and those before it in its folder ``stages``.

    Each begins with the weights that the one before came to, and otherwise as new: with an optimizer and draws that
    know of no other stage. So a run that is resumed needs nothing but the weights of a stage that is over.

    What is frozen when they begin stays so.

    Args:
        learner: one as new.
        fall_back: go back to what came before the last stage, where that is no better.
        shared: whether a time budget is that of all stages, and not of the last alone.
    """

    def __init__(self, learner: Any, *, fall_back: bool, shared: bool):
        self._learner, self._fall_back, self._shared = learner, fall_back, shared
        self._ranks: Ranks = learner.runtime.ranks
        self._frozen = [p for p in learner.model.parameters() if not p.requires_grad]
        self._head = HeadAlone.of(learner.state, learner._setup, learner._run_order)
        groups = learner._rates.layers()
        if learner._given_layers and isinstance(self._head, HeadAlone) and set(groups[-1]) != set(self._head.held):
            self._head = "your last layer group is another than the module that makes the outputs"
        if self._frozen:
            learner._note(f"{count(sum(p.numel() for p in self._frozen), 'parameter')} were frozen before, and stay so")

    @property
    def caches(self) -> bool:
        """Whether the head can be trained on features that are computed once."""
        return isinstance(self._head, HeadAlone)

    def fit(self, stages: Sequence[Stage], out: Path | None, *, resume: bool, **keywords: Any) -> Result:
        """Train; `keywords` are those of the last fit, see `Learner.fit`.

        Raises:
            ConfigError: stages that cannot be trained.
            Interrupted, CheckpointError, NonFiniteLoss: see `Learner.fit`.
        """
        *before, last = stages
        for stage in stages:
            _frozen(stage, len(self._learner._rates.layers()))
        began, seconds = keywords.pop("began", None) or time.perf_counter(), Budget.parse(last.budget).seconds
        if not before:
            left = None if seconds is None or last.train != HEAD else self._left(seconds, began)
            return self._fit(last, out, resume=resume, model=self._learner.model, left=left, began=began, **keywords)
        if out is not None and not resume:
            self._begin(stages, out, **keywords)
        fall_back: Mapping[str, float] | None = None
        took = 0.0
        folders = [None if out is None else out / STAGES / f"{i}-{stage.name}" for i, stage in enumerate(before, 1)]
        if out is None or not self._ranks.from_main(lambda: bool(checkpoints(out / "checkpoints"))):
            with _told(out):
                for i, (stage, folder) in enumerate(zip(before, folders, strict=True), 1):
                    self._learner._note(f"stage {i} of {len(stages)}: {self._what(stage)}")
                    left = None if seconds is None or not self._shared else self._left(seconds, began)
                    result, spent = self._made(stage, folder, left)
                    fall_back, began, took = result.valid, began - spent, took + result.seconds
        else:
            for folder in filter(None, folders):
                self._recall(folder)
                ended = self._ranks.from_main(partial(RUN.read, folder))["result"]
                fall_back, took = ended["valid"], took + ended["seconds"]
        pilots = last.lr_max == "auto" and keywords.get("search", SEARCHED) > 0
        self._learner._note(f"stage {len(stages)} of {len(stages)}: {self._what(last, pilots)}")
        more: dict[str, Any] = {"fall_back": fall_back} if self._fall_back else {}
        more |= {"began": began} if self._shared else {}
        return self._fit(last, out, resume=out is not None, model=self._learner.model, took=took, **more, **keywords)

    def _left(self, seconds: float, began: float) -> float:
        """What is left of a budget, on all ranks."""
        return self._ranks.broadcast(seconds - (time.perf_counter() - began))

    def _what(self, stage: Stage, pilots: bool = True) -> str:
        """What is trained in a stage, in words, where its peak is found by `pilots` or not."""
        if stage.train != HEAD:
            by, ratio = "", spread_of(stage.spread)
            if stage.spread == "auto" and pilots:
                by = ", by the method that is best by pilots"
            elif ratio != 1:
                by = f", at peaks that rise {ratio:g} times from the first layer group to the last"
            norms = self._learner._frozen.norms_before_head() if stage.norms == STILL else []
            kept = f"; the statistics of {count(len(norms), 'batch norm')} stay as they came" if norms else ""
            what = "all layers" if stage.train == ALL else f"the last {count(int(stage.train), 'layer group')}"
            return f"{what}{by}{kept}"
        if not isinstance(self._head, HeadAlone):
            return f"the head, with what is frozen before it, as {self._head}"
        left_out = listed(self._head.left_out, "and")
        without = f", without {left_out}" if left_out else ""
        return f"the head, {count(self._head.size, 'parameter')}, on features that are computed once{without}"

    def _begin(
        self, stages: Sequence[Stage], out: Path, *, config: Any = None, facts: Any = None, observers: Any = (),
        after: float = 0.0, **options: Any,
    ) -> None:  # fmt: skip
        """Begin the run that the last stage is to be, so that it can be resumed from here on."""
        last = stages[-1]
        with ExitStack() as stack:
            planned = self._learner._planned(
                self._within(last), last.budget, last.policy, last.lr_max, out, spread=last.spread,
                **{**last.options, **options},
            )  # fmt: skip
            planned.record(out, stack, resume=False, config=config, facts=facts)
            self._ranks.from_main(lambda: RUN.update(out, stages=[stage.name for stage in stages]))

    def _made(self, stage: Stage, folder: Path | None, left: float | None) -> tuple[Result, float]:
        """What a stage before the last came to, and the seconds that it took in a process before this one."""
        ranks, record = self._ranks, dict[str, Any]()
        if folder is not None:  # on the main rank's disk, as all that was made before
            record = ranks.from_main(lambda: RUN.read(folder) if RUN.exists(folder) else {})
        if folder is None or record.get("status") != "finished":
            placed = None if folder is None else ranks.folder(folder, resume=bool(record))
            result = self._fit(stage, placed, resume=bool(record), model=None, left=left, part=PART)
            self._learner.state.begin_anew()
            return result, 0.0
        self._recall(folder)
        if stage.train == HEAD and isinstance(self._head, HeadAlone):
            head = self._head.head
            ranks.from_main(lambda: load_weights(head, folder / WEIGHTS))
            ranks.align((*head.parameters(), *head.buffers()))
        else:
            self._learner.load(folder / WEIGHTS)
        return Result(**record["result"], folder=folder), record["result"]["seconds"]

    def _recall(self, folder: Path) -> None:
        """Add the records of a stage that was made in a process before this one to the history."""
        kept = self._ranks.from_main(lambda: [read_jsonl(folder / f"{name}.jsonl") for name in ("steps", "epochs")])
        self._learner.history.begin_fit()
        self._learner.history.extend(*kept)

    def _fit(
        self, stage: Stage, out: Path | None, *, resume: bool, model: nn.Module | None, left: float | None = None,
        part: float = 1.0, took: float = 0.0, **keywords: Any,
    ) -> Result:  # fmt: skip
        """Fit what the stage is of, in about a `part` of the seconds that are `left`, or features of the head in more.

        The weights at its end are those of `model`, None: of what is trained alone. Stages before it `took` seconds.
        """
        learner, began = self._learner, time.perf_counter()
        known: dict[str, Any] = {}
        if left is not None and resume and out is not None:
            known = self._ranks.from_main(lambda: RUN.read(out)["resolved"])
        alone = None
        if stage.train == HEAD:
            limit = None if left is None or known.get("updates") else FEATURES * max(left, 0.0)
            alone = self._head_on_features(limit, known.get("features"))
        if alone is not None:
            held = set(alone.model.parameters())
            groups = [[p for p in learner.model.parameters() if (p in held) is last] for last in (False, True)]
            self._freeze(groups, 1)
            trained = replace(alone, model=model or alone.model)
        else:
            trained = self._within(stage)
        budget, spent = stage.budget, time.perf_counter() - began
        trained = replace(trained, spent=took + spent)
        if left is not None:
            rest = max(part * left - spent, LEAST * spent if alone else 0.0, 1e-3)
            budget = Budget(updates=known.get("updates") or self._updates(trained, budget, rest))
            keywords.pop("began", None)
        return learner.fit(
            budget, stage.policy, stage.lr_max, out=out, resume=resume, spread=stage.spread, part=trained,
            **{**stage.options, **keywords},
        )  # fmt: skip

    def _within(self, stage: Stage) -> Trained:
        """What a stage trains of the whole model, the rest frozen."""
        trained, groups = self._learner._whole, self._learner._rates.layers()
        self._freeze(groups, _frozen(stage, len(groups)), stage.norms)
        if stage.train == HEAD:
            return trained
        return replace(trained, rates=trained.rates.scaled(SHARE * math.sqrt(spread_of(stage.spread))))

    def _head_on_features(self, seconds: float | None, samples: int | None) -> Trained | None:
        """The head with its features, see `HeadAlone.trained`; None where it is trained with what is before it."""
        if not isinstance(self._head, HeadAlone):
            return None
        try:
            alone = self._head.trained(seconds, samples)
            if alone.samples is not None and samples is None:
                self._learner._note(
                    f"the head is trained on the features of {alone.samples:,} samples, drawn at random: those of all "
                    "would take too much of the time"
                )
            return alone
        except FeaturesDiffer as error:
            self._head = str(error)
            self._learner._note(f"the head is trained with what is frozen before it, as {error}")
            return None

    def _freeze(self, groups: Sequence[Sequence[nn.Parameter]], first: int, norms: str = STILL) -> None:
        self._learner._frozen.freeze(groups, first)
        if norms == STILL:
            self._learner._frozen.hold_norms()
        for parameter in self._frozen:
            parameter.requires_grad_(False)

    def _updates(self, trained: Trained, budget: Any, seconds: float) -> int:
        """The updates of a budget, or as many as about fit into so many seconds, at least one."""
        per_epoch = updates_per_epoch(trained.train, trained.state.accumulate)
        within = updates_within(trained.state, trained.train, Budget(seconds=seconds), 0.0)
        asked = Budget.parse(budget).total_updates(per_epoch)
        made = max(1, within if asked is None else min(asked, within))
        if asked is not None and made < asked:
            self._learner._note(f"{count(made, 'update')} of {asked:,} fit into the time that this stage may take")
        return made


def _frozen(stage: Stage, groups: int) -> int:
    """How many of the layer groups are frozen in a stage."""
    trained = {HEAD: 1, ALL: groups}.get(stage.train, stage.train)  # type: ignore[arg-type]
    if not 1 <= trained <= groups:
        raise ConfigError(f"train={trained} of a stage: the model has {count(groups, 'layer group')}")
    return groups - trained


@contextmanager
def _told(folder: Path | None) -> Iterator[None]:
    """After an error within the block, ``run.json`` says how the run stands; one that was not yet begun is removed."""
    try:
        yield
    except BaseException as error:
        if folder is not None and isinstance(error, ConfigError) and not any((folder / STAGES).glob(f"*/{RUN.file}")):
            shutil.rmtree(folder / STAGES, ignore_errors=True)
            abandon(folder)
        elif folder is not None:
            broken_off(folder, error)
        raise
