from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "bench"))
    import peers

    return peers


@pytest.fixture
def steps() -> Iterator[list[int]]:
    """A list that grows by one with every step of an optimizer."""
    taken: list[int] = []
    handle = register_optimizer_step_post_hook(lambda *_: taken.append(1))
    yield taken
    handle.remove()


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Classes that show as one bright pixel each."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(200, 1, 28, 28, generator=generator), torch.arange(200) % 10
    x[torch.arange(200), 0, y, y] += 8
    return x, y


@pytest.mark.parametrize("name", ["raw loop", "Learner", "onecycle.train()"])
@pytest.mark.parametrize("given", ["batches in memory", "DataLoader"])
def test_our_rows_make_the_updates_that_they_are_measured_by(peers, steps, data, name, given):
    losses: list[float] = []
    assert peers.speed(peers.TOOLS[name], "mlp", peers.Task(*data, size=16, updates=12, given=given), losses) > 0
    assert len(steps) == 12
    assert losses[0] < 1.8  # ln 10, 2.3, before


@pytest.mark.parametrize("given", ["batches in memory", "DataLoader"])
def test_batches_are_shuffled_samples_each_at_most_once(peers, given):
    x = torch.arange(20)
    batches = peers.Task(x, 10 * x, size=3, updates=5, given=given).batches()
    seen = [sample for inputs, targets in batches for sample in zip(inputs.tolist(), targets.tolist(), strict=True)]
    assert len(batches) == 5
    assert len(set(seen)) == 15
    assert all(target == 10 * sample for sample, target in seen)
    assert seen != sorted(seen)


def test_a_tool_that_is_not_installed_is_named(peers, data):
    def absent(model: nn.Module, task: object) -> None:
        import no_such_library  # type: ignore  # noqa: F401

    assert peers.measured(absent, "mlp", peers.Task(*data, size=16, updates=2), 1) == "not installed: no_such_library"


def test_a_cell_has_the_ratio_its_range_and_the_loss_of_a_run(peers, data):
    task = peers.Task(*data, size=16, updates=2)
    number = r"\d+\.\d{3}"
    cell = peers.measured(peers.raw, "mlp", task, 2)
    assert re.fullmatch(rf"{number} \({number} to {number}\), loss \d\.\d\d", cell)
