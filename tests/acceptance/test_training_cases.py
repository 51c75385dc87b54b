"""What users of other tools have run into, one test each, on the whole training loop of this one."""

from __future__ import annotations

import io
import itertools
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from onecycle import Learner, Piecewise, Policy, Runtime, Supervised, TrainState, Update, one_cycle, train
from onecycle.optim.driver import Driver
from onecycle.training.losses import cross_entropy

CYCLE = Policy(
    {"lr": Piecewise(((0, 0.04), (0.3, 1), (1, 0))), "momentum": Piecewise(((0, 0.95), (0.3, 0.85), (1, 0.95)))}
)
GENERATOR = torch.Generator().manual_seed(0)
X, Y = torch.randn(40, 4, generator=GENERATOR), torch.arange(40) % 3
BATCHES = [(X[i : i + 4], Y[i : i + 4]) for i in range(0, 40, 4)]


def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))


def momentum_of(group: dict) -> float:
    return group["momentum"] if "momentum" in group else group["betas"][0]


def new_state(make=None, precision: str = "fp32", loss=None, **options) -> TrainState:
    model = net()
    make = make or (lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9))
    task = loss or Supervised(cross_entropy)
    return TrainState(model, make(model.parameters()), task, Runtime.choose("cpu", precision), **options)


def used_values(state: TrainState) -> list[tuple[float, float]]:
    """Fills with the learning rate and momentum of each step, as the optimizer sees them."""
    used: list[tuple[float, float]] = []
    state.optimizer.register_step_pre_hook(
        lambda optimizer, *_: used.append(
            (float(optimizer.param_groups[0]["lr"]), momentum_of(optimizer.param_groups[0]))
        )
    )
    return used


def test_case_1_stepping_past_the_end_stays_at_lr_end_with_one_warning():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    Driver(CYCLE.with_(lr=Piecewise(((0, 0.04), (0.3, 1), (1, 4e-6)))), optimizer, updates=10)
    used = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for x, y in [*BATCHES, *BATCHES[:2]]:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            used.append(optimizer.param_groups[0]["lr"])
    assert used[9:] == [4e-6] * 3 and len(caught) == 1 and "stay" in str(caught[0].message)


@pytest.mark.parametrize("order", list(itertools.permutations(("model", "optimizer", "state"))))
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_case_2_a_checkpoint_in_the_middle_goes_on_in_any_load_order(name, order):
    def make(parameters):
        momentum = {"momentum": 0.9} if name == "SGD" else {}
        return getattr(torch.optim, name)(parameters, lr=0.1, **momentum)

    whole = new_state(make)
    expected = used_values(whole)
    list(train(whole, BATCHES, 1, CYCLE))
    begun = new_state(make)
    list(itertools.islice(train(begun, BATCHES, 1, CYCLE), 4))
    file = io.BytesIO()
    torch.save(begun.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    fresh = new_state(make)
    loads = {
        "model": lambda: fresh.model.load_state_dict(saved["model"]),
        "optimizer": lambda: fresh.optimizer.load_state_dict(saved["optimizer"]),
        "state": lambda: fresh.load_state_dict(saved),
    }
    for part in order:
        loads[part]()
    used = used_values(fresh)
    list(train(fresh, BATCHES, 1, CYCLE))
    assert used == expected[4:]
    assert all(torch.equal(a, b) for a, b in zip(fresh.model.parameters(), whole.model.parameters(), strict=True))


def test_case_3_overflows_do_not_move_the_position_and_lose_no_batch():
    attempts: list[int] = []

    def loss(model, batch):
        attempts.append(next(i for i, (x, _) in enumerate(BATCHES) if x is batch[0]))
        value = F.cross_entropy(model(batch[0]), batch[1])
        return value * float("inf") if len(attempts) in (1, 5, 6) else value

    state = new_state(precision="fp16", loss=loss, norm_statistics="running")
    used = used_values(state)
    scale = state.scaler.get_scale()
    positions = [state.step for event in train(state, BATCHES, "7 updates", CYCLE) if isinstance(event, Update)]
    assert len(attempts) == 10 and state.step == 7 and positions == [1, 2, 3, 4, 5, 6, 7]
    assert attempts == [0, 0, 1, 2, 3, 3, 3, 4, 5, 6], "a batch that overflowed is tried again"
    assert used == [(v["lr"], v["momentum"]) for v in (CYCLE(k / 6) for k in range(7))]
    assert state.scaler.get_scale() == scale / 8


@pytest.mark.parametrize(("batches", "epochs", "updates"), [(10, 3, 9), (8, 2, 4), (3, 5, 5), (9, 1.5, 4)])
def test_case_4_with_accumulation_and_a_ragged_last_group_the_length_is_inferred(batches, epochs, updates):
    state = new_state(accumulate=4)
    used = used_values(state)
    events = [e for e in train(state, BATCHES[:batches], epochs, CYCLE) if isinstance(e, Update)]
    assert {e.updates for e in events} == {len(used)} == {updates}
    assert used[-1] == (CYCLE(1)["lr"], CYCLE(1)["momentum"]) and used[0] == (0.04, 0.95)


def test_case_4_the_ragged_group_weighs_as_one_batch_of_its_samples():
    def plain(parameters):
        return torch.optim.SGD(parameters, lr=0.1)

    ragged = [(X[:16], Y[:16]), (X[16:20], Y[16:20]), (X[20:27], Y[20:27])]
    whole = (X[:27], Y[:27])
    models = []
    for data, accumulate in ((ragged, 4), ([whole], 1)):
        model = nn.Linear(4, 3)
        with torch.no_grad():
            model.weight.fill_(0.1)
            model.bias.zero_()
        state = TrainState(
            model, plain(model.parameters()), Supervised(cross_entropy), Runtime.choose("cpu"), accumulate=accumulate
        )
        list(train(state, data, 1, one_cycle(0.5)))
        models.append(model)
    torch.testing.assert_close(models[0].weight.grad, models[1].weight.grad)
    torch.testing.assert_close(models[0].weight, models[1].weight)


def test_case_10_adamw_with_a_tensor_lr_and_a_group_added_between_cycles():
    model, head = net(), nn.Linear(3, 3)
    rate = torch.tensor(0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
    learn = Learner(model, BATCHES, optimizer=optimizer, device="cpu", verbose=False)
    learn.fit_one_cycle(1, 0.01, momentum=(0.95, 0.85))
    assert optimizer.param_groups[0]["lr"] is rate and rate.item() == pytest.approx(one_cycle(0.01)(1)["lr"])
    assert optimizer.param_groups[0]["betas"] == (0.95, 0.95), "the second beta is the user's"
    optimizer.add_param_group({"params": head.parameters()})
    result = learn.fit_one_cycle(1, 0.01, momentum=(0.95, 0.85))
    assert result.updates == 10 and all(isinstance(g["lr"], torch.Tensor) for g in optimizer.param_groups)
    file = io.BytesIO()
    torch.save(learn.state.state_dict(), file)
    file.seek(0)
    learn.state.load_state_dict(torch.load(file, weights_only=True))
    learn.fit_one_cycle(1, slice(0.001, 0.01))
