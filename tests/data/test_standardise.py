"""Which values are not standardised, by hand, and the way there and back."""

from contextlib import nullcontext

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from onecycle.data import standardise
from onecycle.data.batches import ImageTransform
from onecycle.data.standardise import InputTransform, Scale, TransformedBatches, scale_of


def column(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None]


@pytest.mark.parametrize(
    ("values", "scaled"),
    [
        (column(1, -1), False),
        (column(9, -9), False),
        (column(11, -11), True),
        (column(0.02, -0.02), False),
        (column(0.005, -0.005), True),
        (column(0, 0), False),
        (column(0.005, 0.005), False),  # constant
        (column(12, 12), True),
        (torch.cat([column(1, -1), column(100, 300)], 1), True),
        (torch.tensor([100.0, 300.0]), True),
        (torch.full((2, 3, 4, 4), 200.0), True),
        (torch.rand(2, 3, 4, 4), False),
        (torch.tensor([[float("nan"), 1e9]]), False),
        (torch.tensor([[float("inf"), 1e9]]), False),
        (torch.zeros(0, 3), False),
    ],
)
def test_what_is_scaled(values, scaled):
    assert (scale_of(values, "inputs") is not None) == scaled


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64])
def test_what_is_told_in_rounded_numbers_is_what_exact_ones_say(dtype):
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([0, 1e-6, 9e-3, 9.9e-3, 9.999e-3, 1.0001e-2, 1.01e-2, 0.02, 1, 9.9, 9.999, 10.001, 10.2, 3e4])
    drawn = torch.randn(3000, len(sizes), generator=generator)
    drawn /= drawn.square().mean(0).sqrt()
    for values in (drawn * sizes, torch.ones(3000, 1) * sizes):  # of this size, and constant
        values = values.to(dtype)
        _, _, odd, _ = standardise._measured(values)
        assert not bool((odd & ~standardise._unclear(values)).any())
        for i in range(len(sizes)):
            pair = torch.stack([values[:, i], values[:, 8]], 1)
            exact = bool(standardise._measured(pair)[2].any())
            assert (scale_of(pair, "inputs") is not None) == exact, float(sizes[i])


def test_columns_in_standard_units_are_not_measured_exactly_beside_constant_ones(monkeypatch):
    shapes, measured = [], standardise._measured
    monkeypatch.setattr(standardise, "_measured", lambda x: shapes.append(list(x.shape)) or measured(x))
    values = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    assert scale_of(values, "inputs") is None and not shapes
    assert scale_of(torch.cat([values, torch.zeros(50, 2)], 1), "inputs") is None and shapes == [[50, 2]]
    assert scale_of(torch.cat([values, 100 * values], 1), "inputs")[0] is not None and shapes[1:] == [[50, 4], [50, 8]]


def test_columns_have_their_own_scale_and_constants_become_zero():
    values = torch.tensor([[100.0, 1.0, 7.0], [300.0, -1.0, 7.0]])
    scale, which = scale_of(values, "inputs")
    assert scale == Scale((200.0, 0.0, 7.0), (100.0, 1.0, 1.0)) and which == "1 of 3 columns of the inputs"
    assert scale(values).tolist() == [[-1, 1, 0], [1, -1, 0]]
    assert torch.equal(scale.inverse(scale(values)), values)
    assert Scale.of(scale.to_dict()) == scale


def test_its_numbers_are_brought_to_a_device_once(monkeypatch):
    scale, made = Scale((3.25, 0.5), (2.5, 8.0)), []
    pixels = ImageTransform((0.31, 0.5, 0.7), (0.21, 0.3, 0.4))
    make = torch.tensor
    monkeypatch.setattr(torch, "tensor", lambda *args, **keywords: made.append(args) or make(*args, **keywords))
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    with torch.inference_mode():
        scale(torch.ones(3, 2)), scale.inverse(torch.ones(3, 2)), pixels((images,), torch.Generator())
    assert len(made) == 4
    outputs = torch.ones(3, 2, requires_grad=True)
    scale.inverse(scale(outputs)).sum().backward()
    pixels((images,), torch.Generator())
    assert len(made) == 4 and outputs.grad is not None, "made in inference mode, they serve in training too"
    scale(torch.ones(3, 2, dtype=torch.float64))
    assert len(made) == 6


def test_of_more_dimensions_there_is_one_scale():
    images = torch.tensor([0.0, 200.0]).repeat(8).reshape(2, 1, 2, 4)
    scale, which = scale_of(images, "inputs")
    assert scale == Scale((100.0,), (100.0,)) and which == "the inputs"


def test_many_rows_of_a_large_mean_lose_nothing():
    values = (torch.arange(100_000) % 2).float()[:, None] + 1e6
    scale, _ = scale_of(values, "inputs")
    assert scale.mean == (1e6 + 0.5,) and scale.std == (0.5,)


def test_half_precision_is_brought_back_in_full():
    scale = Scale((3932.0,), (1.0,))
    assert scale.inverse(torch.ones(1, dtype=torch.bfloat16)).tolist() == [3933.0]


def test_batches_that_come_as_they_are_get_the_transform():
    class Given:
        def epoch(self, epoch, start=0):
            return iter([(torch.tensor([[5]]), torch.tensor([1])), torch.tensor([[7]])][start:])

        def __len__(self):
            return 2

    batches = TransformedBatches(Given(), InputTransform(torch.float32, Scale((5.0,), (2.0,))))
    (first, label), second = batches.epoch(0)
    assert len(batches) == 2 and first.tolist() == [[0.0]] and label.tolist() == [1] and second.tolist() == [[1.0]]


@pytest.mark.parametrize("fake_first", [True, False])
def test_a_trace_with_fake_tensors_leaves_none_for_real_ones(fake_first):
    scale, images = Scale((5.0 + fake_first,), (2.0,)), ImageTransform((0.5 + fake_first / 8,), (0.25,))
    for fake in (fake_first, not fake_first, fake_first):
        with FakeTensorMode() if fake else nullcontext():
            x = scale(torch.full((3,), 7.0))
            pixels = images((torch.zeros(2, 1, 2, 2, dtype=torch.uint8),), torch.Generator())[0]
        assert [type(values) is FakeTensor for values in (x, pixels)] == [fake] * 2
        assert fake or torch.equal(x, torch.full((3,), (2.0 - fake_first) / 2))
