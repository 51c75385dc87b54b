"""Checks that several models share."""

from __future__ import annotations

from numbers import Integral

from onecycle.errors import ConfigError


def image_shape(model: str, input_shape: tuple[int, ...], minimum: int = 1) -> int:
    """The number of channels, once the shape is that of an image with sides of at least `minimum` pixels."""
    if len(input_shape) != 3:
        raise ConfigError(
            f"model {model} takes images of shape (channels, height, width), got {input_shape}; "
            "use mlp, which takes any shape"
        )
    channels, height, width = input_shape
    if min(height, width) < minimum:
        raise ConfigError(
            f"model {model} needs images of at least {minimum}x{minimum} pixels, got {height}x{width}; "
            "use small-cnn or mlp, which take any size"
        )
    return channels


def probability(name: str, value: float) -> float:
    """The value itself, if it is a probability below 1."""
    if not 0 <= value < 1:
        raise ConfigError(f"{name} is a probability, 0 <= {name} < 1, got {value!r}")
    return value


def positive(name: str, value: int) -> int:
    """The value itself, if it is a whole number of at least 1."""
    if not is_positive(value):
        raise ConfigError(f"{name} is a whole number >= 1, got {value!r}")
    return value


def is_positive(value: object) -> bool:
    """Whether value is a whole number of at least 1, numpy's included, True excluded."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1
