"""What of a model stands still: layer groups that are not trained, and batch norms that keep their statistics."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from ..errors import ConfigError
from ..optim import build as optimizers
from ..optim import layers
from ..training import batch_norm
from ..training.state import TrainState
from .trained import classifier_of


class Frozen:
    """What of a model is not trained.

    Args:
        state: of the model.
        order: gives the order in which its modules are run.
    """

    def __init__(self, state: TrainState, order: Callable[[], layers.RunOrder]):
        self._state, self._order = state, order
        self._still: list[nn.Module] = []  # what is in evaluation mode therefore

    def freeze(self, groups: Sequence[Sequence[nn.Parameter]], count: int) -> None:
        """Do not train the first `count` of the layer groups, and train the others.

        Modules without a trained parameter are in evaluation mode: their batch norms keep their statistics, and they
        drop nothing out.

        Raises:
            ConfigError: an optimizer that cannot train that; all is as before then.
        """
        state = self._state
        before = {p: p.requires_grad for p in state.model.parameters()}
        layers.freeze(groups, count)
        try:
            optimizers.check_steps(state.optimizer, state.model)
            optimizers.check_clip(state.clip, state.model)
        except ConfigError:
            for parameter, trained in before.items():
                parameter.requires_grad_(trained)
            raise
        for module in self._still:
            module.training = True
        self._still = []
        self._hold(layers.frozen_modules(state.model))

    def hold_norms(self) -> None:
        """Put the batch norms before the head into evaluation mode, so that they keep their statistics."""
        self._hold(self.norms_before_head())

    def norms_before_head(self) -> list[nn.Module]:
        """The batch norms that are not within the head."""
        model = self._state.model
        head = layers.head_of(model, self._order(), classifier_of(model))
        inside = set[nn.Module]() if head is None else set(head.modules())
        return [norm for norm in batch_norm.batch_norms([model]) if norm not in inside]

    def _hold(self, modules: Sequence[nn.Module]) -> None:
        for module in modules:
            if module.training:
                module.training = False
                self._still.append(module)
