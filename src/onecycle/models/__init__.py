"""The reference models, timm's by name and your own: `build` makes one from its name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import is_whole, whole
from ..errors import ConfigError, did_you_mean
from .external import from_timm, imported_maker
from .fast import FastCNN, fast_cnn
from .hugging_face import from_hub
from .lora import add_lora
from .pretrained import configuration, without_weights
from .resnet import resnet9, resnet20, resnet56, resnet110, wrn22
from .small import lenet, mlp, small_cnn
from .tabular import TableFront, TableLayout, tabular
from .texts import TextFront, Tokens, text_classifier
from .transformer import char_transformer

__all__ = ["build", "names"]

_BUILDERS: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {
        "mlp": mlp,
        "tabular": tabular,
        "text-classifier": text_classifier,
        "lenet": lenet,
        "small-cnn": small_cnn,
        "fast-cnn": fast_cnn,
        "resnet9": resnet9,
        "resnet20": resnet20,
        "resnet56": resnet56,
        "resnet110": resnet110,
        "wrn-22": wrn22,
        "char-transformer": char_transformer,
    }
)


def names() -> tuple[str, ...]:
    """The names of the reference models, which `build` takes beside ``timm:NAME`` and ``package.module:callable``.

    >>> names()[:3]
    ('mlp', 'tabular', 'text-classifier')
    """
    return tuple(_BUILDERS)


def build(
    name: str,
    *,
    input_shape: tuple[int, ...],
    classes: int,
    columns: TableLayout | Tokens | None = None,
    images: Tensor | None = None,
    seed: int = 0,
    pretrained: bool = False,
    labels: Sequence[str] | None = None,
    architecture: Mapping[str, Any] | None = None,
    lora: int | None = None,
    **options: Any,
) -> nn.Module:
    """A freshly initialised model on the CPU: the same weights for the same seed.

    `name` is one of `names()`; ``timm:NAME`` for a model of the timm package; ``hf:OWNER/NAME`` or
    ``hf:FOLDER`` for a classifier of transformers; or ``package.module:callable`` for one
    of your own, found as ``import`` finds it and in the current directory. The callable gets those of `input_shape`
    and `classes` that its signature takes, and the options, and returns a `torch.nn.Module`.

    `input_shape` is the shape of one sample without the batch: (channels, height, width) for images, (features,) or
    any other shape for ``mlp``, (length,) for ``char-transformer``. `classes` is the width of the output: classes,
    regression targets, or the size of the vocabulary. The model maps [n, *input_shape] to [n, classes], the
    ``char-transformer`` int64 [n, length] to [n, length, classes].

    `columns` are those of a table or of texts, ``data.columns``: then the model comes behind a `TableFront`, which
    embeds the categories, or a `TextFront`, a small transformer, and is made for that front's width.

    `images` [n, *input_shape] are some of the training data, normalised as the model is to see them: a ``fast-cnn``
    begins from their patches. Others do not look at them.

    With `pretrained` its weights are loaded, but for the head, which is new; see
    `onecycle.models.pretrained.configuration` for what it takes. A callable of yours gets that as an argument
    ``pretrained``. The head of a model of ``hf:`` is kept where its own classes are `labels`, the names of the classes,
    in whatever order. `architecture` is what its configuration has as such: with it nothing but the weights is read.
    With `lora`, a rank, low-rank changes of the linear layers are trained in place of them, see `add_lora`.

    Options: ``dropout`` (a probability, default 0, before the last layer; in ``char-transformer`` everywhere; in
    ``tabular`` after each layer, default 0.1); ``hidden`` widths of ``mlp``; ``width`` of ``fast-cnn``, default 16;
    ``width`` and ``depth`` of ``tabular`` and ``char-transformer``, whose ``heads`` too; ``bn_momentum`` of
    ``resnet20``, ``resnet56`` and ``resnet110``.

    The weights are drawn within a fork of torch's CPU generator: the caller's draws go on as if nothing had happened.

    Raises ConfigError for an unknown name or option, a shape the model cannot take, and whatever goes wrong in your
    own callable; MissingDependency where timm is not installed.

    >>> model = build("small-cnn", input_shape=(1, 28, 28), classes=10)
    >>> sum(p.numel() for p in model.parameters())
    77754
    """
    shape = _checked_shape(input_shape)
    whole("classes", classes)
    weights = {"pretrained": True} if pretrained else {}
    if pretrained and name in _BUILDERS:
        raise ConfigError(without_weights(name))
    # On the CPU, so that the same seed gives the same weights whatever the device.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        make = _maker(name)  # inside the fork and before the seed: importing your module may draw
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every accelerator too
        if name.startswith("hf:"):
            known = None if architecture is not None and not (pretrained and labels) else configuration(name)
            architecture = architecture or (known and known.architecture)
            order = known.order(labels) if known and pretrained else None
            model = make(
                input_shape=shape,
                classes=classes,
                columns=columns,
                known=architecture,
                order=order,
                **weights,
                **options,
            )
        elif columns is None:
            model = make(input_shape=shape, classes=classes, **weights, **options)
        else:
            front = TextFront(columns) if hasattr(columns, "vocabulary") else TableFront(columns)  # type: ignore[arg-type]
            model = nn.Sequential(front, make(input_shape=(front.width,), classes=classes, **weights, **options))
        if lora is not None:
            add_lora(model, whole("lora", lora, what="the rank of the change of a layer"), name)
    if images is not None and isinstance(model, FastCNN):
        model.patches.whiten_(images)
    # For `onecycle.load_run`, which makes it again.
    recipe = {"name": name, "input_shape": shape, "classes": classes, "options": options}
    recipe |= {key: value for key, value in (("architecture", architecture), ("lora", lora)) if value is not None}
    model.recipe = recipe  # type: ignore[assignment]
    return model


def _maker(name: str) -> Callable[..., nn.Module]:
    if name in _BUILDERS:
        return lambda **options: _BUILDERS[name](**_known(name, options))
    if name.startswith("hf:"):
        return partial(from_hub, name.removeprefix("hf:"))
    if name.startswith("timm:"):
        return partial(from_timm, name.removeprefix("timm:"))
    if ":" in name:
        return imported_maker(name)
    raise ConfigError(
        f"unknown model {name!r}: {did_you_mean(name, _BUILDERS)}; also timm:NAME, hf:OWNER/NAME and "
        "package.module:callable"
    )


def _known(name: str, options: dict[str, Any]) -> dict[str, Any]:
    known = inspect.signature(_BUILDERS[name]).parameters
    for option in options:
        if option not in known:
            options_of_it = [k for k in known if k not in ("input_shape", "classes")]
            raise ConfigError(f"model {name} has no option {option!r}: {did_you_mean(option, options_of_it)}")
    return options


def _checked_shape(input_shape: tuple[int, ...]) -> tuple[int, ...]:
    shape = tuple(input_shape)
    if not shape or not all(is_whole(side) for side in shape):
        raise ConfigError(
            f"input_shape is the shape of one sample, such as (1, 28, 28) or (64,), all sides >= 1; got {input_shape!r}"
        )
    return shape
