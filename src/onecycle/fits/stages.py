"""Fine-tuning in stages: the head of a pretrained model first, then more of it, each stage a run of its own.

Source: Howard & Ruder, 1801.06146, sections 3.2 and 3.3; ``fine_tune`` of fastai is two such stages.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from torch import nn

from ..checks import is_whole, number, one_of
from ..errors import ConfigError, did_you_mean
from ..optim.layers import layer_factors
from ..records.checkpoint import checkpoints, load_weights
from ..records.extension import WEIGHTS
from ..records.files import RUN, STAGES
from ..records.history import Result
from ..records.run import broken_off
from ..schedules.budget import Budget
from ..schedules.presets import PRESETS
from ..text import count, listed
from .trained import HeadAlone

HEAD, ALL = "head", "all"
METHODS = ("auto", "head", "discriminative", "full")
# Discriminative rates: the peak of the last layer group over that of the first.
SPREAD = 100.0
# The default peak of what was pretrained, as a share of that of a model from scratch: the geometric mean over the layer
# groups. Of AdamW 1e-4, as in fine-tuning of transformers.
SHARE = 1 / 70
# A head on features that are computed once is trained for so many epochs of them where one of the model is asked for:
# they cost next to nothing.
EPOCHS = 20


@dataclass(frozen=True)
class Stage:
    """A run over some of the layers.

    Args:
        budget: of it, as `Budget.parse` takes it.
        train: "head", "all", or how many of the last layer groups.
        lr_max: the peak, or "auto", see `Learner.fit`; a pair of numbers is spread over the layer groups, from the
            input's to the output's.
        spread: the peak of the last layer group over that of the first, in equal ratios between.
        policy: the name of a preset.
        options: keywords of the preset.

    Raises:
        ConfigError: a value that cannot be used.

    >>> Stage("3 epochs", train="head").name
    'head'
    """

    budget: Any
    train: str | int = ALL
    lr_max: Any = "auto"
    spread: float = 1.0
    policy: str = "one_cycle"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        Budget.parse(self.budget)
        if not is_whole(self.train):
            one_of("train", self.train, (HEAD, ALL), ", or a number of layer groups")
        number("spread", self.spread, least=1, what="the last layer group's peak over the first's")
        one_of("preset", self.policy, PRESETS)
        peaks: Any = self.lr_max
        if isinstance(peaks, list | tuple) and len(peaks) == 2:
            object.__setattr__(self, "lr_max", peaks := slice(*peaks))
        if isinstance(peaks, slice):
            layer_factors(peaks, 2)
            if self.spread != 1:
                raise ConfigError(f"lr_max={peaks} is spread over the layers already: leave out spread")
        elif not isinstance(peaks, str) or peaks not in ("auto", "default"):
            number("lr_max", peaks, above=0, what='the peak, or a pair of them, "auto" or "default"')

    @property
    def name(self) -> str:
        """What is trained, as the name of a folder."""
        return self.train if isinstance(self.train, str) else f"last-{self.train}"

    @classmethod
    def of(cls, given: Any) -> Self:
        """One that is given as such, or as plain data.

        Raises:
            ConfigError: neither, or an unknown key.
        """
        if isinstance(given, cls):
            return given
        known = [f.name for f in fields(cls)]
        if not isinstance(given, Mapping) or "budget" not in given:
            raise ConfigError(f'a stage is {{"budget": "3 epochs", "train": "head", ...}}; received {given!r}')
        for name in given:
            if name not in known:
                raise ConfigError(f"a stage has no {name!r}: {did_you_mean(str(name), known)}")
        return cls(**given)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, which `of` takes."""
        values = {**asdict(replace(self, lr_max="auto")), "budget": str(Budget.parse(self.budget))}
        peaks = self.lr_max
        return {**values, "lr_max": [peaks.start, peaks.stop] if isinstance(peaks, slice) else peaks}


def fine_tuning(
    budget: Any, freeze_epochs: float = 1.0, method: str = "auto", lr_max: Any = "auto", policy: str = "one_cycle", *,
    cached: bool = False,
) -> tuple[Stage, ...]:  # fmt: skip
    """The stages of fine-tuning: the head for `freeze_epochs`, then by `method`, whose last stage has the `budget`.

    "head" trains nothing else; "discriminative" trains all at rates that fall towards the input by `SPREAD`, "full" at
    one rate. "auto" is discriminative, and goes back to where the head ended if that is no better. Where features are
    `cached`, the head is trained for `EPOCHS` epochs of them for each one asked for, and for so many in a time budget.

    >>> [(stage.name, stage.budget, stage.spread) for stage in fine_tuning("5 epochs")]
    [('head', '1 epochs', 1.0), ('all', '5 epochs', 100.0)]

    Raises:
        ConfigError: a value that cannot be used.
    """
    one_of("method", method, METHODS)
    number("freeze_epochs", freeze_epochs, least=0, what="the epochs of the head alone")
    if method == HEAD:
        whole = Budget.parse(budget)
        longer = Budget(epochs=EPOCHS * (whole.epochs or 1)) if cached and whole.updates is None else whole
        return (Stage(longer, HEAD, lr_max, policy=policy),)
    spread = 1.0 if method == "full" or isinstance(lr_max, slice | list | tuple) else SPREAD
    first = [Stage(f"{freeze_epochs * (EPOCHS if cached else 1):g} epochs", HEAD)] * bool(freeze_epochs)
    return (*first, Stage(budget, ALL, lr_max, spread, policy))


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
