"""Low-rank adaptation of a pretrained model by the library peft: few weights are trained beside those that stay."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..errors import ConfigError, MissingDependency


def add_lora(model: nn.Module, rank: int, name: str) -> None:
    """Put a change of this rank beside each linear layer of a model, in place; these and the head are trained alone.

    Each layer computes ``W x + 2 B A x``, B beginning at zero, so that the model begins as it is. The head is the
    module that the model's ``pretrained_cfg`` names as classifier.

    Source: Hu et al., "LoRA", 2106.09685, section 4.1.

    Raises:
        ConfigError: a model that does not say which its head is, or has no other linear layer.
        MissingDependency: peft is not installed.
    """
    try:
        import peft  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingDependency(f"lora needs the package peft: pip install 'onecycle[lora]' ({error})") from error
    known: Any = getattr(model, "pretrained_cfg", None) or {}
    head = known.get("classifier")
    modules = dict(model.named_modules())
    if not isinstance(head, str) or head not in modules:
        raise ConfigError(
            f"lora trains the head of {name} whole, and its pretrained_cfg does not say which it is: give "
            f'{{"classifier": NAME}}; received {head!r}'
        )
    within = (head, f"{head}.")
    targets = [key for key, module in modules.items() if type(module) is nn.Linear and not _is_in(key, within)]
    if not targets:
        raise ConfigError(f"lora changes linear layers, and {name} has none beside its head: leave it out")
    peft.inject_adapter_in_model(peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets), model)
    modules[head].requires_grad_(True)


def _is_in(key: str, within: tuple[str, str]) -> bool:
    return key == within[0] or key.startswith(within[1])
