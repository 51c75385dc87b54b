"""Batched augmentation equals a slow reference that treats one pixel of one image at a time."""

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from onecycle.data.augment import NAMES, Augmenter, Draws, augmenter
from onecycle.errors import ConfigError


def reflected(i: int, side: int) -> int:
    """Walk from pixel 0 to i, turning at the first and the last pixel."""
    if i < 0:
        return -i
    return i if i < side else side - 1 - (i - (side - 1))


def slow(x: torch.Tensor, draws: Draws, padding: int, size: int) -> torch.Tensor:
    out = x.clone()
    n, _, h, w = x.shape
    for k in range(n):
        image = x[k]
        if draws.flip is not None and draws.flip[k]:
            image = torch.stack([image[:, :, w - 1 - j] for j in range(w)], dim=2)
        if draws.crop is not None:
            top, left = (int(offset[k]) for offset in draws.crop)
            padded = [
                [image[:, reflected(i, h), reflected(j, w)] for j in range(-padding, w + padding)]
                for i in range(-padding, h + padding)
            ]
            window = [row[left : left + w] for row in padded[top : top + h]]
            image = torch.stack([torch.stack(row, dim=1) for row in window], dim=1)
        if draws.cutout is not None:
            top, left = (int(offset[k]) for offset in draws.cutout)
            image = image.clone()
            for i in range(top, top + size):
                for j in range(left, left + size):
                    image[:, i, j] = 0
        out[k] = image
    return out


def images(n: int, c: int, h: int, w: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    # Distinct positive values, so that a wrong pixel and an unfilled one both show.
    values = 1 + torch.randperm(n * c * h * w, generator=seeded(seed))
    return (values % 255 + 1 if dtype == torch.uint8 else values).to(dtype).view(n, c, h, w)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_equals_the_slow_reference_for_any_shape(data):
    n, c = data.draw(st.integers(0, 4)), data.draw(st.integers(1, 4))
    h, w = data.draw(st.integers(2, 12)), data.draw(st.integers(2, 12))
    names = data.draw(st.sets(st.sampled_from(NAMES), min_size=1))
    padding = data.draw(st.none() | st.integers(1, min(h, w) - 1)) if "crop" in names else None
    size = data.draw(st.none() | st.integers(1, min(h, w))) if "cutout" in names else None
    seed = data.draw(st.integers(0, 1000))
    x = images(n, c, h, w, data.draw(st.sampled_from([torch.uint8, torch.float32, torch.float64])))
    if data.draw(st.booleans()):
        x = x.to(memory_format=torch.channels_last)
    before = x.clone()

    augment = augmenter(sorted(names), padding=padding, size=size)
    got = augment(x, seeded(seed))
    expected = slow(x, augment.draw(x, seeded(seed)), padding or max(1, min(h, w) // 8), size or max(1, min(h, w) // 4))

    assert torch.equal(got, expected)
    assert got.dtype == x.dtype and got.device == x.device
    assert torch.equal(x, before)


@pytest.mark.parametrize("names", [["flip"], ["crop"], ["cutout"], ["flip", "crop", "cutout"]], ids="-".join)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_real_sizes(names, dtype):
    for shape, padding, size in [((6, 1, 28, 28), 3, 7), ((5, 3, 32, 32), 4, 8), ((7, 1, 8, 8), 1, 2)]:
        x, augment = images(*shape, dtype=dtype), augmenter(names)
        assert torch.equal(augment(x, seeded(3)), slow(x, augment.draw(x, seeded(3)), padding, size))


@pytest.mark.parametrize("names", [["flip"], ["crop"], ["cutout"]], ids="-".join)
def test_memory_format_is_kept_also_of_strange_strides(names):
    x, augment = images(4, 3, 8, 8), augmenter(names)
    expected = augment(x, seeded(0))
    for y in (x.to(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().transpose(2, 3)):
        assert torch.equal(augment(y, seeded(0)), expected)
    wide = torch.cat([x, x], dim=3)
    assert torch.equal(augment(wide[..., 8:], seeded(0)), expected)
    last = augment(x.to(memory_format=torch.channels_last), seeded(0))
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert expected.is_contiguous()


def test_by_hand():
    x = torch.arange(1, 10).view(1, 1, 3, 3)
    augment = Augmenter(("flip", "crop", "cutout"), padding=1, size=1)
    one = torch.tensor
    flipped = augment.apply(x, Draws(flip=one([True])))
    assert flipped[0, 0].tolist() == [[3, 2, 1], [6, 5, 4], [9, 8, 7]]
    cropped = augment.apply(x, Draws(crop=(one([0]), one([2]))))  # one row up, one column to the right
    assert cropped[0, 0].tolist() == [[5, 6, 5], [2, 3, 2], [5, 6, 5]]
    both = augment.apply(x, Draws(flip=one([True]), crop=(one([0]), one([2]))))  # flip first, then crop
    assert both[0, 0].tolist() == [[5, 4, 5], [2, 1, 2], [5, 4, 5]]
    cut = augment.apply(x, Draws(cutout=(one([1]), one([2]))))
    assert cut[0, 0].tolist() == [[1, 2, 3], [4, 5, 0], [7, 8, 9]]


def test_draws_are_uniform_and_reach_every_value():
    x = torch.zeros(20_000, 1, 8, 8)
    draws = augmenter(["flip", "crop", "cutout"]).draw(x, seeded(0))
    assert abs(draws.flip.float().mean() - 0.5) < 0.02
    for values, allowed in [(draws.crop, 3), (draws.cutout, 7)]:  # padding 1 -> 0..2; 8 - 2 -> 0..6
        for offsets in values:
            counts = torch.bincount(offsets)
            assert len(counts) == allowed
            assert (counts / len(x) - 1 / allowed).abs().max() < 0.02


def test_only_the_given_generator_is_used():
    x, augment = images(8, 1, 8, 8), augmenter(NAMES)
    state = torch.get_rng_state()
    first = augment(x, seeded(1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, augment(x, seeded(1)))
    assert not torch.equal(first, augment(x, seeded(2)))
    generator = seeded(1)
    augment(x, generator)
    assert not torch.equal(first, augment(x, generator))


def test_order_of_names_does_not_matter():
    x = images(8, 3, 8, 8)
    assert augmenter(["cutout", "crop", "flip"]) == augmenter(["flip", "crop", "cutout"])
    assert torch.equal(augmenter(["crop", "flip"])(x, seeded(0)), augmenter(["flip", "crop"])(x, seeded(0)))


def test_none_and_a_plain_name():
    assert augmenter(["none"]) is None
    assert augmenter([]) is None
    assert augmenter("none") is None
    assert augmenter("flip") == augmenter(["flip"])


def test_pickles():
    augment = augmenter(["flip", "cutout"], size=3)
    assert pickle.loads(pickle.dumps(augment)) == augment


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["flop"], {}, "did you mean flip"),
        (["flip", "flip"], {}, "twice"),
        (["none", "flip"], {}, "stands alone"),
        (["crop"], {"padding": 0}, "padding is a number of pixels, a whole number of at least 1; received 0"),
        (["crop"], {"padding": 1.5}, "received 1.5"),
        (["cutout"], {"size": True}, "received True"),
        (["flip"], {"padding": 2}, "belongs to 'crop'"),
        (["none"], {"size": 2}, "belongs to 'cutout'"),
    ],
)
def test_bad_options(names, options, message):
    with pytest.raises(ConfigError, match=message):
        augmenter(names, **options)


@pytest.mark.parametrize(
    ("augment", "shape", "message"),
    [
        (augmenter(["flip"]), (4, 64), r"needs images of shape \[n, c, h, w\], got \[4, 64\]"),
        (augmenter(["crop"], padding=8), (4, 1, 8, 9), "padding <= 7"),
        (augmenter(["crop"]), (4, 1, 1, 9), "leave 'crop' out"),
        (augmenter(["cutout"], size=9), (4, 1, 8, 9), "use <= 8"),
    ],
)
def test_images_that_do_not_fit(augment, shape, message):
    with pytest.raises(ConfigError, match=message):
        augment(torch.zeros(shape), seeded(0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_generator_on_either_device_works_for_images_on_the_gpu():
    x, augment = images(8, 3, 8, 8).cuda(), augmenter(NAMES)
    assert torch.equal(augment(x, seeded(0)).cpu(), augment(x.cpu(), seeded(0)))
    generator = torch.Generator("cuda").manual_seed(0)
    draws = augment.draw(x, generator)
    assert draws.flip.device == x.device
    assert augment.apply(x, draws).device == x.device
