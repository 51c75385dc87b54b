"""A convolutional network for as much accuracy as a few minutes allow, of any width."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checks import whole
from .small import conv_bn, dropout_share, image_channels

LEAST = 4  # pixels of a side
SIDE, STAGES = 32, 3  # of what the first stage gets of larger images, and how many of them follow
COMPONENTS = 32  # of patches, at most
EPS = 5e-4  # added to the variances of whitened patches, in units of normalised pixels


def fast_cnn(*, input_shape: tuple[int, ...], classes: int, width: int = 16, dropout: float = 0.0) -> FastCNN:
    """Jordan's network for CIFAR-10 in seconds, of any width; 124,488 parameters for (1, 28, 28) and 10 classes.

    Width 64 has his 64, 256 and 256 channels. Images of any size from 4x4 pixels on: those with sides above 63 are
    cut into patches first, so that no more than about 32 x 32 of them are left. ReLU in place of GELU.

    Source: Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv 2404.00498, section 3.
    """
    channels = image_channels("fast-cnn", input_shape, minimum=LEAST)
    return FastCNN(channels, min(input_shape[1:]), classes, whole("width", width), dropout_share(dropout))


class FastCNN(nn.Module):
    """Patches, three stages (fewer for tiny images) of two convolutions and a pooling, global maximum, linear.

    Convolutions begin as the identity as far as their channels go (section 3.2). The output is times 1/9, so that it
    begins small.
    """

    def __init__(self, channels: int, side: int, classes: int, width: int, dropout: float):
        super().__init__()
        self.patches = Patches(channels, max(2, side // SIDE), overlapping=side < 2 * SIDE)
        left = (side - self.patches.size) // self.patches.stride + 1
        widths = [len(self.patches.bias), width, 4 * width, 4 * width][: 1 + min(STAGES, left.bit_length() - 1)]
        self.stages = nn.Sequential(*map(_stage, widths, widths[1:]))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.stages(F.relu_(self.patches(x))).amax((2, 3)))) / 9


class Patches(nn.Module):
    """What patches of images are along fixed directions and against them, plus a bias that is trained.

    The directions are random and orthogonal until `whiten_` sets those of the data (section 3.1).
    """

    filters: Tensor

    def __init__(self, channels: int, size: int, overlapping: bool):
        super().__init__()
        self.size, self.stride = size, 1 if overlapping else size
        numbers = channels * size**2
        directions = nn.init.orthogonal_(torch.empty(min(numbers, COMPONENTS), numbers))
        self.register_buffer("filters", _both_ways(directions, channels))
        self.bias = nn.Parameter(torch.zeros(len(self.filters)))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.filters, self.bias, self.stride)

    @torch.no_grad()
    def whiten_(self, images: Tensor) -> None:
        """Take the principal components of the patches of `images`, [n, c, h, w] as the model sees them.

        Each is scaled so that its mean square over these patches is 1; the largest ones come first.
        """
        patches = F.unfold(images.double(), self.size, stride=self.stride).transpose(1, 2).flatten(0, 1)
        variances, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
        scaled = (directions / (variances + EPS).sqrt()).T.flip(0)[: len(self.filters) // 2]
        self.filters.copy_(_both_ways(scaled, images.shape[1]))


def _both_ways(directions: Tensor, channels: int) -> Tensor:
    """Filters [2 k, channels, size, size] from k directions [k, channels size size]."""
    size = round((directions.shape[1] // channels) ** 0.5)
    return torch.cat((directions, -directions)).view(-1, channels, size, size)


def _stage(before: int, after: int) -> nn.Sequential:
    """Convolution, pooling by two and another convolution, each with batch norm and ReLU."""
    first, norm = conv_bn(before, after)
    second = conv_bn(after, after)
    for convolution in (first, second[0]):
        nn.init.dirac_(convolution.weight.detach()[: convolution.in_channels])
    return nn.Sequential(first, nn.MaxPool2d(2), norm, nn.ReLU(inplace=True), *second, nn.ReLU(inplace=True))
