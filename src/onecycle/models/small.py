"""Small models for small data: a multi-layer perceptron, LeNet and a residual network of 78 thousand parameters."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import Tensor, nn
from torch.nn import functional as F

from ..checks import share, whole
from ..errors import ConfigError


def mlp(
    *, input_shape: tuple[int, ...], classes: int, hidden: int | Sequence[int] = (256, 256), dropout: float = 0.0
) -> nn.Sequential:
    """A multi-layer perceptron: flatten, then for each of the `hidden` widths linear and ReLU, then linear.

    >>> import torch
    >>> mlp(input_shape=(64,), classes=10, hidden=(32,))(torch.zeros(5, 64)).shape
    torch.Size([5, 10])
    """
    if isinstance(hidden, str) or not isinstance(hidden, int | Sequence):
        raise ConfigError(f"hidden is a width or several, such as 128 or (128, 64), got {hidden!r}")
    widths = [hidden] if isinstance(hidden, int) else list(hidden)
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise([prod(input_shape), *(whole("hidden", width) for width in widths)]):
        layers += [nn.Linear(before, after), nn.ReLU(inplace=True)]
    layers += [nn.Dropout(dropout_share(dropout))] if dropout else []
    return nn.Sequential(*layers, nn.Linear(widths[-1] if widths else prod(input_shape), classes))


def lenet(*, input_shape: tuple[int, ...], classes: int, dropout: float = 0.0) -> nn.Sequential:
    """LeNet as Caffe has it (20 and 50 5x5 convolutions, 500 hidden units), the MNIST model of arXiv 1803.09820.

    Images of at least 16x16 pixels. 431,080 parameters for (1, 28, 28) and 10 classes. Weights start uniform in
    +-sqrt(3 / fan_in), biases at 0 (Caffe's "xavier").
    """
    channels = image_channels("lenet", input_shape, minimum=16)
    height, width = (((side - 4) // 2 - 4) // 2 for side in input_shape[1:])
    model = nn.Sequential(
        nn.Conv2d(channels, 20, 5),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, 5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(50 * height * width, 500),
        nn.ReLU(inplace=True),
        nn.Dropout(dropout_share(dropout)),
        nn.Linear(500, classes),
    )
    for layer in model:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            caffe_xavier_(layer)
    return model


def caffe_xavier_(layer: nn.Conv2d | nn.Linear) -> None:
    """Fill as Caffe's "xavier" does: uniform in +-sqrt(3 / fan_in), which torch calls Kaiming with gain 1; bias 0."""
    nn.init.kaiming_uniform_(layer.weight, nonlinearity="linear")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def small_cnn(*, input_shape: tuple[int, ...], classes: int, dropout: float = 0.0) -> SmallCNN:
    """A residual network for small images of any size; 77,754 parameters for (1, 28, 28) and 10 classes."""
    return SmallCNN(image_channels("small-cnn", input_shape), classes, dropout_share(dropout))


class SmallCNN(nn.Module):
    """Stem of stride 2 to 16 channels, residual stages of 16, 32 and 64 (the last two of stride 2), mean, linear."""

    def __init__(self, channels: int, classes: int, dropout: float):
        super().__init__()
        self.stem = nn.Sequential(*conv_bn(channels, 16, stride=2), nn.ReLU(inplace=True))
        self.stages = nn.Sequential(
            ResidualBlock(16, 16), ResidualBlock(16, 32, stride=2), ResidualBlock(32, 64, stride=2)
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.stages(self.stem(x)).mean((2, 3))))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, the sum with a shortcut, ReLU (He et al., arXiv 1512.03385, section 3.3).

    Where width or size changes the shortcut is a 1x1 convolution with batch norm, else the input itself.
    """

    def __init__(self, before: int, after: int, stride: int = 1):
        super().__init__()
        self.body = nn.Sequential(*conv_bn(before, after, stride=stride), nn.ReLU(inplace=True), *conv_bn(after, after))
        same = before == after and stride == 1
        self.shortcut = nn.Identity() if same else nn.Sequential(*conv_bn(before, after, kernel=1, stride=stride))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(self.body(x) + self.shortcut(x))


def conv_bn(before: int, after: int, *, kernel: int = 3, stride: int = 1) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """A convolution that keeps the size (but for its stride), without a bias: the batch norm after it has one."""
    return nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(after)


def dropout_share(dropout: float) -> float:
    """The share of activations to drop, once it is one."""
    return share("dropout", dropout, of="the activations")


def image_channels(model: str, input_shape: tuple[int, ...], minimum: int = 1) -> int:
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
