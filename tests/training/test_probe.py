"""What is tried before a training is read once, and copies of it are tried: a model may write to what it gets."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from onecycle import Learner
from onecycle.training.probe import FEW, FirstBatch


class Counted:
    """Batches of an iterable, with the number of times that it was begun."""

    def __init__(self, *batches):
        self.batches, self.begun = batches, 0

    def __iter__(self):
        self.begun += 1
        return iter(self.batches)

    def __len__(self):
        return len(self.batches)


class CountedBatches(Counted):
    def epoch(self, epoch, start=0):
        return iter(self)


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


def test_a_batch_of_tensors_is_read_once_and_copied_each_time():
    batches = CountedBatches((torch.zeros(20, 2), torch.arange(20)))
    first = FirstBatch(batches)
    assert batches.begun == 0
    for _ in range(3):
        inputs, targets = first(FEW)
        assert inputs.tolist() == [[0.0, 0.0]] * FEW and targets.tolist() == list(range(FEW))
        inputs += 1
        targets += 1
    assert len(first()[0]) == 20 and batches.begun == 1
    assert torch.equal(batches.batches[0][0], torch.zeros(20, 2)), "what was read is the user's"
    first.forget()
    first()
    assert batches.begun == 2


@pytest.mark.parametrize(
    "batch", [{"x": [torch.ones(2), 3, "word", None]}, [torch.ones(2)], (torch.ones(2), {"y": torch.ones(2)})]
)
def test_structures_are_copied_whole(batch):
    first = FirstBatch(batches := CountedBatches(batch))
    copied = [first(), first()]
    assert batches.begun == 1 and str(copied[0]) == str(copied[1]) == str(batch) and type(copied[0]) is type(batch)
    assert copied[0] is not copied[1] and copied[0] is not batch


def test_what_cannot_be_copied_for_certain_is_read_again():
    batches = CountedBatches(Pair(torch.zeros(3, 2), torch.arange(3)))
    first = FirstBatch(batches)
    assert type(first()) is Pair and batches.begun == 1
    assert type(first()) is Pair and batches.begun == 2


@pytest.mark.parametrize("loss", [None, nn.CrossEntropyLoss(), lambda model, batch: model(batch[0]).square().mean()])
def test_a_loader_is_begun_once_before_a_training(loss):
    batches = Counted(*[(torch.randn(6, 1, 8, 8), torch.arange(6) % 3) for _ in range(3)])
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 3))
    Learner(model, batches, loss=loss, verbose=False)
    assert batches.begun == 1
    assert bool((batches.batches[0][0] < 0).any()), "the model wrote to a copy"
