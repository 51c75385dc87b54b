"""The peak of a candidate with another batch size is that of the optimizer which it comes to."""

import torch
from torch import nn

from onecycle import Learner
from onecycle.jobs.search import _Searching
from onecycle.search.balance import Candidate


def learner(batch_size: int) -> Learner:
    width, x = 112, torch.randn(512, 64, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(
        nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
    )  # fmt: skip
    return Learner(model, (x, torch.arange(512) % 10), batch_size=batch_size, verbose=False)


def test_where_the_default_optimizer_is_another_so_is_the_peak():
    small, large = learner(32), learner(256)
    assert (small.resolved["optimizer"], large.resolved["optimizer"]) == ("adamw", "muon")
    searching = object.__new__(_Searching)
    searching.learner, searching.build, searching._peaks = small, lambda settings: learner(**settings), {}
    assert searching._peak_for(0.007, Candidate("batch_size", 256)) == large.default_peak == 0.04
    assert searching._peak_for(0.014, Candidate("batch_size", 256)) == 0.08
    assert searching._peak_for(0.014, Candidate("weight_decay", 0.1)) == 0.014
