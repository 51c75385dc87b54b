"""Fits in stages: each begins with the weights that the one before came to."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import ConfigError
from ..records.checkpoint import checkpoints, load_weights
from ..records.extension import WEIGHTS
from ..records.files import RUN, STAGES
from ..records.history import Result
from ..records.run import broken_off
from ..schedules.stages import ALL, HEAD, Stage
from ..text import count, listed
from .trained import HeadAlone

# The default peak of what was pretrained, as a share of that of a model from scratch: the geometric mean over the layer
# groups. Of AdamW 1e-4, as in fine-tuning of transformers.
SHARE = 1 / 70


class StagedFit:
    """Fits of a `Learner` in stages, the last one in a folder and those before it in its folder ``stages``.

    Each begins with the weights that the one before came to, and otherwise as new: with an optimizer and draws that
    know of no other stage. So a run that is resumed needs nothing but the weights of a stage that is over.

    Args:
        learner: one as new.
        fall_back: go back to what came before the last stage, where that is no better.
    """

    def __init__(self, learner: Any, *, fall_back: bool):
        self._learner, self._fall_back = learner, fall_back
        self._head = HeadAlone.of(learner.state, learner._setup, learner._run_order)

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
        if not before:
            return self._fit(last, out, resume=resume, model=self._learner.model, **keywords)
        began, fall_back = keywords.pop("began", None) or time.perf_counter(), dict[str, float]()
        if out is not None and not resume:
            self._begin(last, out, **keywords)
        if out is None or not checkpoints(out / "checkpoints"):
            with _told(out):
                for i, stage in enumerate(before, 1):
                    self._learner._note(f"stage {i} of {len(stages)}: {self._what(stage)}")
                    result, seconds = self._made(stage, None if out is None else out / STAGES / f"{i}-{stage.name}")
                    fall_back, began = result.valid or {}, began - seconds
        self._learner._note(f"stage {len(stages)} of {len(stages)}: {self._what(last)}")
        more = {"fall_back": fall_back} if self._fall_back and self._learner.valid is not None else {}
        return self._fit(last, out, resume=out is not None, model=self._learner.model, began=began, **more, **keywords)

    def _what(self, stage: Stage) -> str:
        """What is trained in a stage, in words."""
        if isinstance(stage.train, int):
            return f"the last {count(stage.train, 'layer group')}"
        if stage.train == ALL:
            rising = f", at peaks that rise {stage.spread:g} times from the first layer group to the last"
            return f"all layers{rising if stage.spread > 1 else ''}"
        if not isinstance(self._head, HeadAlone):
            return f"the head, with what is frozen before it, as {self._head}"
        left_out = listed(self._head.left_out, "and")
        without = f", without {left_out}" if left_out else ""
        return f"the head, {count(self._head.size, 'parameter')}, on features that are computed once{without}"

    def _begin(self, last: Stage, out: Path, *, config: Any = None, facts: Any = None, **keywords: Any) -> None:
        """Begin the run that the last stage is to be, so that it can be resumed from here on."""
        whole = self._learner._whole
        with ExitStack() as stack:
            planned = self._learner._planned(whole, last.budget, last.policy, last.lr_max, out, spread=last.spread)
            planned.record(out, stack, resume=False, config=config, facts=facts)

    def _made(self, stage: Stage, folder: Path | None) -> tuple[Result, float]:
        """What a stage before the last came to, and the seconds that it took in a process before this one."""
        begun = folder is not None and RUN.exists(folder)
        record = RUN.read(folder) if folder is not None and begun else {}
        if folder is None or record.get("status") != "finished":
            result = self._fit(stage, folder, resume=begun, model=None)
            self._learner.state.begin_anew()
            return result, 0.0
        if stage.train == HEAD and isinstance(self._head, HeadAlone):
            load_weights(self._head.head, folder / WEIGHTS)
        else:
            self._learner.load(folder / WEIGHTS)
        return Result(**record["result"], folder=folder), record["result"]["seconds"]

    def _fit(self, stage: Stage, out: Path | None, *, resume: bool, model: nn.Module | None, **keywords: Any) -> Result:
        """Fit what the stage is of; the weights at its end are those of `model`, None: of what is trained alone."""
        learner, trained = self._learner, self._learner._whole
        groups = learner._rates.layers()
        if stage.train == HEAD and isinstance(self._head, HeadAlone):
            held = set(self._head.head.parameters())
            groups = [[p for p in learner.model.parameters() if (p in held) is last] for last in (False, True)]
            learner._freeze(groups, 1)
            trained = self._head.trained(model or self._head.head)
        else:
            learner._freeze(groups, _frozen(stage, len(groups)))
            if stage.train != HEAD:
                trained = replace(trained, rates=trained.rates.scaled(SHARE * math.sqrt(stage.spread)))
        return learner.fit(
            stage.budget, stage.policy, stage.lr_max, out=out, resume=resume, spread=stage.spread, part=trained,
            **{**stage.options, **keywords},
        )  # fmt: skip


def _frozen(stage: Stage, groups: int) -> int:
    """How many of the layer groups are frozen in a stage."""
    trained = {HEAD: 1, ALL: groups}.get(stage.train, stage.train)  # type: ignore[arg-type]
    if not 1 <= trained <= groups:
        raise ConfigError(f"train={trained} of a stage: the model has {count(groups, 'layer group')}")
    return groups - trained


@contextmanager
def _told(folder: Path | None) -> Iterator[None]:
    """After an error within the block, ``run.json`` says how the run stands."""
    try:
        yield
    except BaseException as error:
        if folder is not None:
            broken_off(folder, error)
        raise
