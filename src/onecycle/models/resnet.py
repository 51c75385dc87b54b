"""Residual networks of the literature: Page's ResNet-9, Smith's ResNet-20/56/110, fast.ai's WRN-22."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from ..checks import share
from .small import caffe_xavier_, conv_bn, dropout_share, image_channels


def resnet9(*, input_shape: tuple[int, ...], classes: int, dropout: float = 0.0) -> ResNet9:
    """Page's ResNet-9 of DAWNBench (cifar10-fast, 2018); 6,573,120 parameters for (3, 32, 32) and 10 classes.

    Images of at least 8x8 pixels.
    """
    return ResNet9(image_channels("resnet9", input_shape, minimum=8), classes, dropout_share(dropout))


class ResNet9(nn.Module):
    """Convolutions of 64, 128, 256 and 512 channels, the last three with pooling, residuals after 128 and 512.

    Global maximum and a linear layer without bias, its output times 0.125.
    """

    def __init__(self, channels: int, classes: int, dropout: float):
        super().__init__()
        self.features = nn.Sequential(
            _conv_bn_relu(channels, 64),
            _conv_bn_relu(64, 128),
            nn.MaxPool2d(2),
            _DoubleResidual(128),
            _conv_bn_relu(128, 256),
            nn.MaxPool2d(2),
            _conv_bn_relu(256, 512),
            nn.MaxPool2d(2),
            _DoubleResidual(512),
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(512, classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.features(x).amax((2, 3)))) * 0.125


class _DoubleResidual(nn.Module):
    """x + two convolutions, each with batch norm and ReLU: nothing follows the sum."""

    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(_conv_bn_relu(width, width), _conv_bn_relu(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def _conv_bn_relu(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(*conv_bn(before, after), nn.ReLU(inplace=True))


def smith_resnet(
    blocks: int, /, *, input_shape: tuple[int, ...], classes: int, dropout: float = 0.0, bn_momentum: float = 0.05
) -> SmithResNet:
    """The ResNet for CIFAR of arXiv 1708.07120, with `blocks` residual blocks a stage.

    As in the author's Caffe files (github.com/lnsmith54/super-convergence): stages of 16, 32 and 64 channels with
    biases in all convolutions, no projections, zero channels where the width doubles. 3, 9 and 18 blocks make
    ResNet-20, -56 and -110; ResNet-56 has 808,682 parameters for (3, 32, 32) and 10 classes.

    `bn_momentum` is the share of a new batch in the running statistics, Caffe's 1 - moving_average_fraction: the
    paper has 0.05 with cyclical and 0.001 with piecewise constant learning rates (the latter starves its accuracy).
    """
    channels = image_channels(f"resnet{6 * blocks + 2}", input_shape)
    share("bn_momentum", bn_momentum, of="the running statistics")
    return SmithResNet(blocks, channels, classes, dropout_share(dropout), bn_momentum)


resnet20 = partial(smith_resnet, 3)
resnet56 = partial(smith_resnet, 9)
resnet110 = partial(smith_resnet, 18)


class SmithResNet(nn.Module):
    """Stem, three stages of post-activation blocks, global mean, linear. MSRA and (Caffe's) Xavier initialisation."""

    def __init__(self, blocks: int, channels: int, classes: int, dropout: float, bn_momentum: float):
        super().__init__()
        stage = [SmithBlock(16) for _ in range(blocks)]
        # The block that halves the size keeps the width of the stage before it.
        stage += [SmithBlock(16, down=True), *(SmithBlock(32) for _ in range(blocks - 1))]
        stage += [SmithBlock(32, down=True), *(SmithBlock(64) for _ in range(blocks - 1))]
        self.stem = nn.Sequential(nn.Conv2d(channels, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        self.stages = nn.Sequential(*stage)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(64, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                module.momentum = bn_momentum
        caffe_xavier_(self.head)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.stages(self.stem(x)).mean((2, 3))))


class SmithBlock(nn.Module):
    """conv-BN-ReLU-conv-BN, add, ReLU. With `down`: half the size, twice the channels, the new ones zero."""

    def __init__(self, width: int, down: bool = False):
        super().__init__()
        self.down = down
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, stride=2 if down else 1, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu_(self.body(x) + (_pool(x) if self.down else x))
        return F.pad(out, (0, 0, 0, 0, 0, x.shape[1])) if self.down else out


def _pool(x: Tensor) -> Tensor:
    """Caffe's mean over 3x3 windows, stride 2, no padding: sizes round up, windows at the border hold fewer pixels.

    So 32 becomes 16, as in the convolution beside it. For odd sides, which the paper does not have, it takes a border
    of one pixel (not counted in the mean) to match the convolution.
    """
    border = (x.shape[2] % 2, x.shape[3] % 2)
    return F.avg_pool2d(x, 3, 2, padding=border, ceil_mode=True, count_include_pad=False)


def wrn22(*, input_shape: tuple[int, ...], classes: int, dropout: float = 0.0) -> WideResNet:
    """fast.ai's WRN-22 of DAWNBench (2018): Zagoruyko and Komodakis' wide ResNet (arXiv 1605.07146), widen factor 6."""
    return WideResNet(image_channels("wrn-22", input_shape), classes, dropout_share(dropout))


class WideResNet(nn.Module):
    """Stem of 16 channels, stages of three pre-activation blocks of 96, 192 and 384, BN, ReLU, mean, linear."""

    def __init__(self, channels: int, classes: int, dropout: float):
        super().__init__()
        self.stem = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        blocks = []
        for before, after, stride in ((16, 96, 1), (96, 192, 2), (192, 384, 2)):
            blocks += [PreActivation(before, after, stride), PreActivation(after, after), PreActivation(after, after)]
        self.stages = nn.Sequential(*blocks, nn.BatchNorm2d(384), nn.ReLU(inplace=True))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(384, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.dropout(self.stages(self.stem(x)).mean((2, 3))))


class PreActivation(nn.Module):
    """BN-ReLU-conv-BN-ReLU-conv plus the shortcut, which starts after the first ReLU, as in fast.ai's code."""

    def __init__(self, before: int, after: int, stride: int = 1):
        super().__init__()
        self.activation = nn.Sequential(nn.BatchNorm2d(before), nn.ReLU(inplace=True))
        self.body = nn.Sequential(
            *conv_bn(before, after, stride=stride),
            nn.ReLU(inplace=True),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
        )
        self.shortcut = nn.Conv2d(before, after, 1, stride, bias=False) if before != after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(x)
        return self.body(x) + self.shortcut(x)
