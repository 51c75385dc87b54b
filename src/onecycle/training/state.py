"""Everything that changes while training, in one place that can be saved and restored to the bit."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..checks import one_of, share, unwrapped
from ..errors import CheckpointError, ConfigError
from ..optim.build import check_same_model
from ..optim.groups import plain_settings
from .means import RunningMeans, diverged
from .objectives import Loss, loss_module
from .options import NORM_STATISTICS
from .runtime import Runtime, generators


@dataclass
class Position:
    """Where a run is: counted in updates, epochs, batches of the epoch under way, and seconds spent on training.

    `progress` is the one that the last update used. Of a run in a time budget: `charged` are the seconds that were
    spent before its first update, `pace` those of an update, and `ending` those that what follows the last one takes.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    progress: float = 0.0
    charged: float = 0.0
    pace: float = 0.0
    ending: float = 0.0

    def advance(self, batches: int, seconds: float, progress: float) -> None:
        """One update was applied."""
        self.step += 1
        self.batch += batches
        self.seconds, self.progress = seconds, progress


@dataclass
class TrainState:
    """A model in training: what `onecycle.train` reads and changes.

    Args:
        model: the network, on the device that it is to be trained on.
        optimizer: any torch optimizer over its parameters.
        loss: ``loss(model, batch)`` returns the batch's mean loss, or ``(loss, {metric: mean})``.
        runtime: device and precision; None: the device that the model is on, in float32.
        seed: what dropout, batch order and augmentation are derived from.
        accumulate: batches for each update.
        clip: largest norm of the gradient, over all parameters; None: not clipped.
        average: keep a moving average of the weights, which keeps this share of itself at each update (less in the
            first ones: at most (1 + k) / (10 + k) at update k); None: none.
        forward: what to call in the model's place, such as ``torch.compile(model)``.
        norm_statistics: those of batch norms are "estimated" anew from training data before each evaluation and at the
            end of a run, or "running" means.

    `at` is the position over the model's whole life, `begun` where the run under way began (None: none is), `averages`
    are the averaged weights and buffers by name, and `best` is the best model so far, where one is kept.

    Raises:
        ConfigError: accumulate below 1, clip not above 0, or an optimizer of another model.
    """

    model: nn.Module
    optimizer: Optimizer
    loss: Loss
    runtime: Runtime = None  # type: ignore[assignment]
    seed: int = 0
    accumulate: int = 1
    clip: float | None = None
    forward: Any = None
    at: Position = field(default_factory=Position)
    begun: Position | None = None
    means: RunningMeans = field(default_factory=RunningMeans)
    average: float | None = None
    norm_statistics: str = "estimated"
    averages: dict[str, Tensor] | None = None
    best: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.average is not None:
            share("average", self.average, of="itself that a moving average keeps")
        self.seed, self.accumulate, self.clip = map(unwrapped, (self.seed, self.accumulate, self.clip))
        plain_settings(self.optimizer)
        check_same_model(self.optimizer, *self.modules)
        if self.accumulate < 1:
            raise ConfigError(
                f"accumulate is the number of batches for each update, at least 1; received {self.accumulate}"
            )
        one_of("norm_statistics", self.norm_statistics, NORM_STATISTICS)
        if self.clip is not None and not self.clip > 0:
            raise ConfigError(f"clip is the largest norm of the gradient, above 0; received {self.clip}")
        sparse = [name for name, module in self.model.named_modules() if getattr(module, "sparse", False) is True]
        if self.clip is not None and sparse:
            raise ConfigError(
                f"clip={self.clip} is for dense gradients, and those of {sparse[0] or type(self.model).__name__} are "
                "sparse: leave out clip, or build the embedding with sparse=False"
            )
        self.runtime = Runtime.of(self.model) if self.runtime is None else self.runtime
        self.forward = self.model if self.forward is None else self.forward
        for module in self.modules[1:]:
            module.to(self.runtime.device)
        self.scaler = self.runtime.scaler()
        self.generators = generators(self.runtime.device)

    @property
    def modules(self) -> list[nn.Module]:
        """The model, and the module in the loss where there is one."""
        of_loss = loss_module(self.loss)
        return [self.model] if of_loss is None else [self.model, of_loss]

    def training_mode(self) -> None:
        """Put the modules into training mode, but for what was put into evaluation mode within them."""
        for module in self.modules:
            training_mode(module)

    @property
    def step(self) -> int:
        """Updates applied over the model's whole life."""
        return self.at.step

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data; loads with ``torch.load(weights_only=True)``."""
        self.means.read()
        return {
            "model": self.model.state_dict(),
            "loss": [module.state_dict() for module in self.modules[1:]],
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "seed": self.seed,
            "averages": self.averages,
            "best": self.best,
            "at": asdict(self.at),
            "begun": None if self.begun is None else asdict(self.begun),
            "means": {name: copy.copy(getattr(self.means, name)) for name in ("sums", "weights", "samples", "seconds")},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a saved state; all of it or, where it does not fit, nothing.

        Raises:
            CheckpointError: saved for another model or another optimizer.
        """
        try:
            with all_or_nothing(*self.modules):
                for module, saved in zip(self.modules, [state["model"], *state["loss"]], strict=True):
                    module.load_state_dict(saved)
                _check_same_kind(self.optimizer, state["optimizer"])
                self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))  # torch itself keeps the tensors
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError(f"this state is of another model or optimizer: {error}") from error
        if self.scaler is not None and state["scaler"] is not None:
            self.scaler.load_state_dict(state["scaler"])
        self.averages, self.best = copy.deepcopy(state["averages"]), copy.deepcopy(state["best"])
        if self.averages is not None:
            self.averages = {name: tensor.to(self.runtime.device) for name, tensor in self.averages.items()}
        self.seed = state["seed"]
        self.at = Position(**state["at"])
        self.begun = None if state["begun"] is None else Position(**state["begun"])
        self.means = RunningMeans(**copy.deepcopy(state["means"]))

    @torch.no_grad()
    def follow(self) -> None:
        """Take the weights as they are now into their moving average."""
        if self.average is None:
            return
        now = self.model.state_dict()
        if self.averages is None:
            self.averages = {name: tensor.clone() for name, tensor in now.items() if isinstance(tensor, Tensor)}
            return
        since = self.at.step - (self.at if self.begun is None else self.begun).step
        keep = min(self.average, (1 + since) / (10 + since))
        for name, average in self.averages.items():
            if average.is_floating_point():
                average.lerp_(now[name], 1 - keep)
            else:
                average.copy_(now[name])

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the block the model has its averaged weights and buffers, where there are such."""
        if self.averages is None:
            yield
            return
        before = {name: tensor.clone() for name, tensor in self.model.state_dict().items() if name in self.averages}
        self.model.load_state_dict(self.averages, strict=False)
        try:
            yield
        finally:
            self.model.load_state_dict(before, strict=False)

    def take_averages(self) -> None:
        """Give the model its averaged weights and buffers, where there are such, and end the averaging."""
        if self.averages is not None:
            self.model.load_state_dict(self.averages, strict=False)
            self.averages = None

    def end_run(self) -> None:
        """Give up the run under way, if there is one: the next `onecycle.train` begins a new one, with a new epoch."""
        self.averages = self.best = None
        if self.at.batch:
            self.at.epoch, self.at.batch = self.at.epoch + 1, 0
        self.begun, self.means = None, RunningMeans()

    def check_finite(self) -> None:
        """Read what is pending, and look at every weight.

        Raises:
            NonFiniteLoss: a loss or a weight is NaN or infinite.
        """
        self.means.read()
        for name, tensor in chain.from_iterable(module.named_parameters() for module in self.modules):
            if not bool(torch.isfinite(tensor).all()):
                lr = float(self.optimizer.param_groups[0]["lr"])
                raise diverged(f"non-finite weights in {name}", self.step - 1, lr)


def training_mode(module: nn.Module) -> None:
    """Put a module into training mode, but for what is in evaluation mode within one that is in training."""
    if not module.training:
        if any(part.training for part in module.modules()):
            module.training = True
        else:
            module.train()


@contextmanager
def all_or_nothing(*modules: nn.Module) -> Iterator[None]:
    """Where loading into `modules` fails within the block, their weights and buffers are put back."""
    before = [copy.deepcopy(module.state_dict()) for module in modules]
    try:
        yield
    except BaseException:
        for module, state in zip(modules, before, strict=True):
            module.load_state_dict(state)
        raise


def _check_same_kind(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """torch itself takes over the settings of any optimizer, and fails at the next step."""
    missing = [name for name in optimizer.defaults if not all(name in group for group in saved["param_groups"])]
    if missing:
        raise ValueError(f"{type(optimizer).__name__} has settings that were not saved: {', '.join(missing)}")
