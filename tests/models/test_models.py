"""The reference models: parameter counts by hand, shapes, initialisation, and the ways a model name can go wrong."""

import sys
from itertools import pairwise
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from onecycle import models
from onecycle.errors import ConfigError, MissingDependency

IMAGE_MODELS = [name for name in models.names() if name != "char-transformer"]
CONV_MODELS = [name for name in IMAGE_MODELS if name not in ("mlp", "tabular", "text-classifier")]


def build(name, input_shape=(3, 32, 32), classes=10, **options):
    return models.build(name, input_shape=input_shape, classes=classes, **options)


def parameters(model) -> int:
    return sum(p.numel() for p in model.parameters())


def sample(name, shape, n=2):
    if name == "char-transformer":
        return torch.randint(0, 10, (n, *shape), generator=torch.Generator().manual_seed(0))
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(0))


def shape_for(name):
    return {"char-transformer": (12,), "lenet": (1, 16, 16)}.get(name, (1, 8, 8))


# Parameter counts, each sum written out.


def conv(before, after, kernel=3, bias=False):
    return before * after * kernel**2 + after * bias


def test_names():
    assert models.names() == (
        "mlp", "tabular", "text-classifier", "lenet", "small-cnn", "fast-cnn", "resnet9", "resnet20", "resnet56",
        "resnet110", "wrn-22", "char-transformer",
    )  # fmt: skip


def test_parameters_of_small_models():
    assert parameters(build("mlp", (1, 28, 28), hidden=(32,))) == 784 * 32 + 32 + 32 * 10 + 10
    assert parameters(build("mlp", (64,), hidden=7)) == 64 * 7 + 7 + 7 * 10 + 10
    assert parameters(build("mlp", (64,), hidden=())) == 64 * 10 + 10
    # 28 -> 24 -> 12 -> 8 -> 4
    linear = 50 * 16 * 500 + 500 + 500 * 10 + 10
    assert parameters(build("lenet", (1, 28, 28))) == conv(1, 20, 5, True) + conv(20, 50, 5, True) + linear == 431_080
    stem = conv(1, 16) + 32
    stage1 = 2 * (conv(16, 16) + 32)
    stage2 = conv(16, 32) + 64 + conv(32, 32) + 64 + conv(16, 32, 1) + 64
    stage3 = conv(32, 64) + 128 + conv(64, 64) + 128 + conv(32, 64, 1) + 128
    assert parameters(build("small-cnn", (1, 28, 28))) == stem + stage1 + stage2 + stage3 + 650 == 77_754
    stages = [conv(a, b) + conv(b, b) + 4 * b for a, b in pairwise((8, 16, 64, 64))]
    assert parameters(build("fast-cnn", (1, 28, 28))) == 8 + sum(stages) + 640 == 124_488


@pytest.mark.parametrize(
    ("side", "sides"),
    [(4, (3, 1)), (8, (7, 1)), (32, (31, 3)), (63, (62, 7)), (64, (32, 4)), (224, (32, 4)), (500, (33, 4))],
)
def test_fast_cnn_takes_images_of_any_size(side, sides):
    model = build("fast-cnn", (3, side, side)).eval()
    x = model.patches(torch.zeros(1, 3, side, side))
    assert (x.shape[-1], model.stages(x).shape[-1]) == sides


def test_patches_are_whitened_by_the_data():
    images = torch.randn(50, 3, 32, 32).cumsum(2) / 8  # rows that go together
    before, model = build("fast-cnn", (3, 32, 32)), build("fast-cnn", (3, 32, 32), images=images)
    responses = model.patches(images).detach()
    half = responses[:, :12]
    assert torch.equal(responses[:, 12:], -half)
    flat = half.transpose(0, 1).flatten(1)
    assert flat.square().mean(1)[0] == pytest.approx(1, abs=0.01)
    correlation = torch.corrcoef(flat)
    assert (correlation - torch.eye(12)).abs().max() < 0.05
    assert not torch.equal(before.patches.filters, model.patches.filters)
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), model.parameters(), strict=True))


def test_fast_cnn_begins_as_the_identity_as_far_as_channels_go():
    first = build("fast-cnn", (3, 32, 32)).stages[1][0]  # from 16 to 64 channels
    x = torch.randn(1, 16, 5, 5)
    assert torch.equal(first(x)[:, :16], x)


def test_parameters_of_resnet9():
    def block(before, after):
        return conv(before, after) + 2 * after

    expected = block(3, 64) + block(64, 128) + 2 * block(128, 128) + block(128, 256) + block(256, 512)
    assert parameters(build("resnet9")) == expected + 2 * block(512, 512) + 5120 == 6_573_120


@pytest.mark.parametrize(
    ("name", "blocks", "total"), [("resnet20", 3, 224_042), ("resnet56", 9, 808_682), ("resnet110", 18, 1_685_642)]
)
def test_parameters_of_smiths_resnets(name, blocks, total):
    def block(width):
        return 2 * (conv(width, width, bias=True) + 2 * width)

    # The block that opens stage 2 (3) still has 16 (32) channels inside.
    stages = (blocks + 1) * block(16) + blocks * block(32) + (blocks - 1) * block(64)
    expected = conv(3, 16, bias=True) + 32 + stages + 650
    assert parameters(build(name)) == expected == total


def test_parameters_of_wrn22():
    def block(before, after):
        shortcut = conv(before, after, 1) if before != after else 0
        return 2 * before + conv(before, after) + 2 * after + conv(after, after) + shortcut

    widths = (16, 96, 192, 384)
    stages = sum(block(before, after) + 2 * block(after, after) for before, after in pairwise(widths))
    assert parameters(build("wrn-22")) == conv(3, 16) + stages + 2 * 384 + 3850
    assert len([m for m in build("wrn-22").modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]) == 19


def test_parameters_of_char_transformer():
    block = 2 * 2 * 16 + (16 * 48 + 48) + (16 * 16 + 16) + (16 * 64 + 64) + (64 * 16 + 16)
    expected = 65 * 16 + 10 * 16 + 3 * block + 32 + 16 * 65
    assert parameters(build("char-transformer", (10,), 65, width=16, depth=3, heads=2)) == expected


# Shapes, gradients, layout.


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8), (2, 17, 24)], ids=str)
@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_output_shape(name, shape):
    if name == "lenet" and min(shape[1:]) < 16:
        with pytest.raises(ConfigError, match="at least 16x16 pixels, got 8x8"):
            build(name, shape)
        return
    model = build(name, shape, 7).eval()
    with torch.no_grad():
        assert model(sample(name, shape)).shape == (2, 7)


@pytest.mark.parametrize("shape", [(64,), (5, 3), (2, 2, 2, 2)], ids=str)
def test_mlp_takes_any_shape(shape):
    assert build("mlp", shape, 3)(sample("mlp", shape)).shape == (2, 3)


@pytest.mark.parametrize("name", models.names())
def test_every_parameter_gets_a_finite_gradient(name):
    model = build(name, shape_for(name))
    model(sample(name, shape_for(name), n=8)).logsumexp(-1).sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert parameter.grad.count_nonzero() or key.endswith("bias"), key  # a bias before batch norm has none


@pytest.mark.parametrize("name", CONV_MODELS)
def test_channels_last_gives_the_same_and_stays(name):
    shape = (3, 16, 16)
    model, x = build(name, shape).eval(), sample(name, shape)
    formats = []

    def look(module, args):
        formats.append(args[0].is_contiguous(memory_format=torch.channels_last))

    with torch.no_grad():
        expected = model(x)
        model = model.to(memory_format=torch.channels_last)
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_pre_hook(look)
        got = model(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert formats and all(formats)


# Initialisation.


@pytest.mark.parametrize("name", models.names())
def test_initialisation_follows_the_seed_alone(name):
    shape = shape_for(name)
    before = torch.get_rng_state()
    first = build(name, shape, seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    second, other = build(name, shape, seed=1).state_dict(), build(name, shape, seed=2).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_default_device_does_not_change_the_weights():
    with torch.device("meta"):
        model = build("mlp", (4,))
    assert torch.equal(next(model.parameters()), next(build("mlp", (4,)).parameters()))


def test_smiths_initialisation():
    model = build("resnet56")
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.weight[0].numel()
            assert module.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.15)
            assert module.bias.count_nonzero() == 0
        elif isinstance(module, nn.BatchNorm2d):
            assert module.momentum == 0.05
    assert model.head.weight.abs().max().item() == pytest.approx((3 / 64) ** 0.5, rel=0.02)
    assert model.head.bias.count_nonzero() == 0
    assert build("resnet20", bn_momentum=0.001).stem[1].momentum == 0.001


# What distinguishes single models.


def test_smiths_shortcut_is_caffes_mean_of_3x3_windows():
    from onecycle.models.resnet import _pool

    def slow(image):
        # The windows of the paper: corners at even pixels, cut at the border, averaged over the pixels inside.
        h, w = image.shape
        return torch.stack(
            [torch.stack([image[i : i + 3, j : j + 3].mean() for j in range(0, w, 2)]) for i in range(0, h, 2)]
        )

    for size in (32, 28, 8, 2):
        x = sample("", (3, size, size))
        expected = torch.stack([torch.stack([slow(channel) for channel in image]) for image in x])
        torch.testing.assert_close(_pool(x), expected)


def test_smiths_downsampling_block_appends_zero_channels_last():
    from onecycle.models.resnet import SmithBlock

    out = SmithBlock(4, down=True)(sample("", (4, 8, 8)))
    assert out.shape == (2, 8, 4, 4)
    assert out[:, 4:].count_nonzero() == 0
    assert (out[:, :4] >= 0).all() and out[:, :4].count_nonzero()


@pytest.mark.parametrize("sizes", [(32, 16, 8), (28, 14, 7), (9, 5, 3)], ids=str)
def test_smiths_sizes(sizes):
    seen = []
    model = build("resnet20", (3, sizes[0], sizes[0]))
    for block in (model.stages[0], model.stages[3], model.stages[6]):
        block.register_forward_hook(lambda module, args, out: seen.append((out.shape[1], out.shape[2])))
    model(sample("", (3, sizes[0], sizes[0])))
    assert seen == [(16, sizes[0]), (32, sizes[1]), (64, sizes[2])]


def test_resnet9_scales_its_output():
    model = build("resnet9", (1, 8, 8)).eval()
    x = sample("", (1, 8, 8))
    pooled = F.adaptive_max_pool2d(model.features(x), 1).flatten(1)
    torch.testing.assert_close(model(x), 0.125 * pooled @ model.head.weight.T)
    assert model.head.bias is None


def test_the_transformer_does_not_see_the_future():
    model = build("char-transformer", (16,), 11, width=32, depth=2).eval()
    x = sample("char-transformer", (16,))
    with torch.no_grad():
        before = model(x)
        for position in (0, 7, 15):
            changed = x.clone()
            changed[:, position] = (changed[:, position] + 1) % 11
            after = model(changed)
            torch.testing.assert_close(after[:, :position], before[:, :position])
            assert not torch.allclose(after[:, position:], before[:, position:])
        torch.testing.assert_close(model(x[:, :5]), before[:, :5])  # shorter than the context


def test_the_transformer_starts_near_uniform_and_refuses_longer_text():
    model = build("char-transformer", (16,), 50)
    loss = F.cross_entropy(model(sample("char-transformer", (16,))).flatten(0, 1), torch.zeros(32, dtype=torch.int64))
    assert loss.item() == pytest.approx(torch.tensor(50.0).log().item(), abs=0.3)
    with pytest.raises(ConfigError, match="17 characters is longer than the context of this model, 16"):
        model(torch.zeros(1, 17, dtype=torch.int64))


@pytest.mark.parametrize("name", models.names())
def test_dropout_acts_in_training_alone(name):
    shape = shape_for(name)
    model = build(name, shape, dropout=0.5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()  # leaves dropout as the only difference between two passes
    x = sample(name, shape)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


# Names and options that cannot be used.


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet65", {}, r"unknown model 'resnet65': did you mean resnet56\?.*timm:NAME"),
        ("mlp", {"hiden": 3}, r"mlp has no option 'hiden': did you mean hidden\? Known: dropout, hidden"),
        ("resnet20", {"blocks": 3}, "resnet20 has no option 'blocks': Known: bn_momentum, dropout"),
        ("mlp", {"hidden": "wide"}, "hidden is a width or several"),
        ("mlp", {"hidden": (8, 0)}, "hidden is a whole number of at least 1; received 0"),
        ("mlp", {"dropout": 1.0}, "dropout is a share of the activations, at least 0 and below 1; received 1.0"),
        ("mlp", {"classes": 0}, "classes is a whole number of at least 1; received 0"),
        ("mlp", {"input_shape": (3, 0, 4)}, "all sides >= 1; got"),
        ("mlp", {"input_shape": ()}, "the shape of one sample"),
        ("small-cnn", {"input_shape": (64,)}, r"takes images of shape \(channels, height, width\), got \(64,\)"),
        ("resnet56", {"input_shape": (28, 28)}, "resnet56 takes images"),
        ("resnet9", {"input_shape": (3, 7, 8)}, "at least 8x8 pixels, got 7x8"),
        ("char-transformer", {}, r"takes text, input_shape \(length,\)"),
        ("char-transformer", {"input_shape": (8,), "heads": 3}, "multiple of heads, got width=128 and heads=3"),
        ("char-transformer", {"input_shape": (8,), "depth": 0}, "depth is a whole number"),
    ],
)
def test_bad_names_and_options(name, options, message):
    with pytest.raises(ConfigError, match=message):
        build(name, **options)


# One's own models.

OWN = """
import torch
from torch import nn

class Plain(nn.Linear):
    def __init__(self):
        super().__init__(3, 2)

class Empty(nn.Module):
    pass

def full(input_shape, classes, bias=True):
    return nn.Linear(input_shape[0], classes, bias=bias)

def only_classes(*, classes):
    return nn.Linear(1, classes)

def anything(**arguments):
    model = nn.Identity()
    model.arguments = arguments
    return model

def needs_width(width):
    return nn.Linear(width, 1)

def not_a_model():
    return "model"

def lazy():
    import own_helper
    return own_helper.make()

instance = nn.Linear(1, 1)
number = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_model.py").write_text(OWN)
    (tmp_path / "own_helper.py").write_text("from torch import nn\n\ndef make():\n    return nn.Linear(5, 1)\n")
    (tmp_path / "own_broken.py").write_text("import nothing_of_this_name\n")
    (tmp_path / "own_exit.py").write_text("import sys\nsys.exit(3)\n")
    (tmp_path / "own_syntax.py").write_text("def\n")
    monkeypatch.chdir(tmp_path)
    yield
    for name in ("own_model", "own_helper"):
        sys.modules.pop(name, None)


def test_own_callables_get_what_they_take(own):
    path = list(sys.path)
    assert build("own_model:full", (4,), 3).weight.shape == (3, 4)
    assert build("own_model:full", (4,), 3, bias=False).bias is None
    assert build("own_model:only_classes", (4,), 3).weight.shape == (3, 1)
    assert build("own_model:Plain", (4,), 3).weight.shape == (2, 3)
    assert isinstance(build("own_model:Empty", (4,), 3), nn.Module)
    assert build("own_model:anything", (4,), 3, depth=2).arguments == {"input_shape": (4,), "classes": 3, "depth": 2}
    assert build("own_model:lazy", (4,), 3).weight.shape == (1, 5)
    assert sys.path == path


def test_own_callables_follow_the_seed(own):
    before = torch.get_rng_state()
    first, second = (build("own_model:full", (4,), 3, seed=5).weight for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("own_missing:make", {}, "importing own_missing failed with ModuleNotFoundError.*current directory"),
        ("own_broken:make", {}, "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("own_exit:make", {}, "SystemExit: 3"),
        ("own_syntax:make", {}, "SyntaxError"),
        ("own_model:ful", {}, r"no callable 'ful': did you mean full\?"),
        ("own_model:number", {}, "no callable 'number'"),
        ("own_model:instance", {}, "is a model already"),
        ("own_model:needs_width", {}, r"calling it with \(\) failed with TypeError.*'width'"),
        ("own_model:full", {"nope": 1}, "nope=1.*TypeError"),
        ("own_model:not_a_model", {}, r"must return a torch.nn.Module, it returned str"),
        ("own_model:", {}, "is named package.module:callable"),
        (":make", {}, "is named package.module:callable"),
        ("..own_model:full", {}, "importing ..own_model failed"),
    ],
)
def test_own_callables_that_fail(own, name, options, message):
    path, state = list(sys.path), torch.get_rng_state()
    with pytest.raises(ConfigError, match=message):
        build(name, (4,), 3, **options)
    assert sys.path == path
    assert torch.equal(torch.get_rng_state(), state)


# timm, with a stand-in: the package is optional.


@pytest.fixture
def timm(monkeypatch):
    def create_model(name, in_chans=3, num_classes=1000, **options):
        if options:
            raise TypeError(f"unexpected {options}")
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(in_chans, num_classes))

    module = ModuleType("timm")
    module.create_model, module.list_models = create_model, lambda: ["resnet18", "resnet18d", "resnet34"]
    monkeypatch.setitem(sys.modules, "timm", module)


def test_timm(timm):
    assert build("timm:resnet18", (1, 8, 8), 4)(torch.zeros(2, 1, 8, 8)).shape == (2, 4)
    assert isinstance(build("timm:resnet34.some_tag"), nn.Module)
    with pytest.raises(ConfigError, match=r"unknown timm model 'resnt18': did you mean resnet18\?.*all 3"):
        build("timm:resnt18")
    with pytest.raises(ConfigError, match="unknown timm model 'zzz': nothing is named like it"):
        build("timm:zzz")
    with pytest.raises(ConfigError, match=r"cannot make 'resnet18' with options {'img_size': 8}: TypeError"):
        build("timm:resnet18", img_size=8)
    with pytest.raises(ConfigError, match="timm:resnet18 takes images"):
        build("timm:resnet18", (64,))


def test_timm_missing_or_broken(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingDependency, match="pip install timm"):
        build("timm:resnet18")
    monkeypatch.delitem(sys.modules, "timm")
    (tmp_path / "timm.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingDependency, match=r"cannot be imported \(RuntimeError: operator"):
        build("timm:resnet18")
