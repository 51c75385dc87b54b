"""What users of other schedulers ran into, on a policy attached to a loop of their own, and on the library's."""

from __future__ import annotations

import io
import itertools
import warnings

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

import onecycle
from onecycle import Piecewise, Policy
from onecycle.optim.driver import Driver
from onecycle.schedules import presets

POLICY = presets.fastai(0.05)


def rows(optimizer: Optimizer) -> list[tuple[float, ...]]:
    """Learning rate and momentum of every group, as the last step used them."""
    groups = optimizer.param_groups
    return [(float(g["lr"]), *map(float, g["betas"] if "betas" in g else (g["momentum"],))) for g in groups]


def small_model(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


def sgd(model: nn.Sequential) -> Optimizer:
    groups = [{"params": model[0].parameters(), "lr": 0.01}, {"params": model[2].parameters(), "lr": 0.1}]
    return SGD(groups, momentum=0.9)


def adamw(model: nn.Sequential) -> Optimizer:
    groups = [{"params": model[0].parameters(), "lr": 0.01}, {"params": model[2].parameters(), "lr": 0.1}]
    return AdamW(groups, betas=(0.9, 0.99))


def adamw_with_tensors(model: nn.Sequential) -> Optimizer:
    return AdamW(model.parameters(), lr=torch.tensor(0.1), betas=(torch.tensor(0.9), torch.tensor(0.99)))


def one_step(model: nn.Module, optimizer: Optimizer, k: int) -> list[tuple[float, ...]]:
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(k))
    optimizer.zero_grad()
    (model(x) - x.sum(1, keepdim=True)).square().mean().backward()
    optimizer.step()
    return rows(optimizer)


# 1. T=10, stepped 12 times: the learning rate stays at lr_end, one warning, no rebound.


def test_case_1_past_the_end_the_values_stay_with_one_warning():
    policy = presets.paper(1.0)
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    driver = Driver(policy, optimizer, 10)
    used = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for k in range(12):
            optimizer.step()
            used += rows(optimizer)
            assert len(caught) == (k >= 10)
    assert [lr for lr, _ in used[:10]] == [policy(k / 9)["lr"] for k in range(10)]
    assert used[9:] == [(0.001, 0.95)] * 3 and driver.values == {"lr": 0.001, "momentum": 0.95}
    text = str(caught[0].message)
    assert text.startswith("update 11 of a policy over 10: the values stay at their last")
    assert "Attach the policy with the true number of updates" in text
    assert caught[0].filename == __file__  # it points at the user's own step


# 2. A checkpoint at step 4 of 10, restored in any load order: the next learning rate and momentum used equal the
#    uninterrupted run's.

# a driver's state can only be loaded into a driver: three of the six orders
ORDERS = [
    order
    for order in itertools.permutations(("load", "attach", "load driver"))
    if order.index("attach") < order.index("load driver")
]


@pytest.mark.parametrize("make", [sgd, adamw, adamw_with_tensors])
@pytest.mark.parametrize("order", ORDERS, ids=" then ".join)
@pytest.mark.parametrize("stop", [0, 4, 9, 10])
def test_case_2_a_checkpoint_restores_the_cycle_in_any_load_order(make, order, stop):
    model = small_model()
    optimizer = make(model)
    driver = Driver(POLICY, optimizer, 10)
    saved, uninterrupted = io.BytesIO(), []
    for k in range(10):
        if k == stop:
            torch.save([model.state_dict(), optimizer.state_dict(), driver.state_dict()], saved)
        uninterrupted.append(one_step(model, optimizer, k))
    if stop == 10:
        torch.save([model.state_dict(), optimizer.state_dict(), driver.state_dict()], saved)

    saved.seek(0)
    of_model, of_optimizer, of_driver = torch.load(saved, weights_only=True)
    assert of_driver == {"position": stop}
    again = small_model(seed=1)
    again.load_state_dict(of_model)
    optimizer = make(again)
    for what in order:
        if what == "attach":
            driver = Driver(POLICY, optimizer, 10)
        elif what == "load":
            optimizer.load_state_dict(of_optimizer)
        else:
            driver.load_state_dict(of_driver)
    if stop < 10:
        ahead = driver.values
        last_group = one_step(again, optimizer, stop)
        assert last_group[-1][:2] == pytest.approx((ahead["lr"], ahead["momentum"]), rel=1e-6)
        assert last_group == uninterrupted[stop]
    assert [one_step(again, optimizer, k) for k in range(stop + 1, 10)] == uninterrupted[stop + 1 :]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


# 3. fp16 with 3 overflows in 10 iterations: position 7.


@pytest.mark.parametrize("fused", [False, True], ids=["skipped by the scaler", "skipped inside the fused step"])
@pytest.mark.parametrize("make", [SGD, AdamW])
def test_case_3_overflows_in_fp16_do_not_move_the_position(make, fused):
    """The gradient of a sum is the scale: in fp16, at most 65504, so 2^18, 2^17 and 2^16 overflow and 2^15 does not."""
    layer = nn.Linear(1, 1)
    optimizer = make(layer.parameters(), lr=1.0, fused=fused)
    driver = Driver(presets.linear(0.1), optimizer, 7)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**18)
    positions, used = [], []
    for _ in range(10):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.float16):
            loss = layer(torch.ones(1, 1)).sum()
        before = layer.weight.item()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        if driver.position > (positions[-1] if positions else 0):
            used.append(optimizer.param_groups[0]["lr"])
        else:
            assert layer.weight.item() == before
        positions.append(driver.position)
    assert positions == [0, 0, 0, 1, 2, 3, 4, 5, 6, 7]
    assert used == [presets.linear(0.1)(k / 6)["lr"] for k in range(7)]


@pytest.mark.parametrize("fused", [False, True])
def test_case_3_overflows_in_the_middle_of_the_cycle(fused):
    weight = nn.Parameter(torch.ones(2))
    optimizer = SGD([weight], lr=1.0, fused=fused)
    driver = Driver(presets.linear(0.1), optimizer, 7)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    used = []
    for k in range(10):
        optimizer.zero_grad()
        scaler.scale(weight.sum() * (float("inf") if k in (2, 5, 6) else 1.0)).backward()
        scaler.unscale_(optimizer)  # as before clipping
        applied = driver.position
        scaler.step(optimizer)
        scaler.update()
        used += [optimizer.param_groups[0]["lr"]] * (driver.position - applied)
    assert driver.position == 7
    assert used == [presets.linear(0.1)(k / 6)["lr"] for k in range(7)]
    assert weight.tolist() == pytest.approx([1 - sum(used)] * 2)


# 4. Accumulation 4, ragged last batch: the inferred T equals the real number of updates (one rank).


def test_case_4_the_inferred_length_is_the_number_of_updates():
    data = torch.utils.data.TensorDataset(torch.randn(43, 3), torch.randn(43, 1))
    loader = torch.utils.data.DataLoader(data, batch_size=4)  # 11 batches, the last of 3: 4 + 4 + 3 an epoch
    model = small_model()
    optimizer, loss = SGD(model.parameters(), lr=0.1), onecycle.Supervised(nn.functional.mse_loss)
    state = onecycle.TrainState(model, optimizer, loss, accumulate=4)
    steps = []
    optimizer.register_step_post_hook(lambda *_: steps.append(optimizer.param_groups[0]["lr"]))
    told: list[int | None] = []

    def policy(updates: int | None) -> Policy:
        told.append(updates)
        return presets.linear(0.1)

    events = [e for e in onecycle.train(state, loader, 2, policy) if isinstance(e, onecycle.Update)]
    assert told == [6] and len(events) == len(steps) == 6 and {e.updates for e in events} == {6}
    assert [e.samples for e in events] == [16, 16, 11] * 2
    assert steps == [e.lr for e in events] == [presets.linear(0.1)(k / 5)["lr"] for k in range(6)]


# 10. AdamW with tensor lr, three betas, and a group added mid-cycle: no KeyError, other betas unchanged, the tensor
#     written in place, the state loads with weights_only=True.


class ThreeBetas(AdamW):
    """As Adan and others have them: a third beta after AdamW's two."""

    def __init__(self, params, lr, betas):
        super().__init__(params, lr=lr, betas=betas[:2])
        for group in (self.defaults, *self.param_groups):
            group["betas"] = betas

    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.data -= group["lr"] * p.grad * group["betas"][2]


@pytest.mark.parametrize("tensors", [False, True], ids=["float betas", "tensor betas"])
@pytest.mark.parametrize("make", [AdamW, ThreeBetas])
def test_case_10_tensor_lr_more_betas_and_a_group_added_mid_cycle(make, tensors):
    betas = (0.9, 0.99, 0.999)[: 3 if make is ThreeBetas else 2]
    betas = tuple(map(torch.tensor, betas)) if tensors else betas
    weight, late, lr = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2)), torch.tensor(0.5)
    weight.grad, late.grad = torch.ones(2), torch.ones(2)
    policy = Policy({"lr": Piecewise(((0, 1.0), (1, 0.0))), "momentum": Piecewise(((0, 0.75), (1, 0.5)))})
    optimizer = make([weight], lr=lr, betas=betas)
    driver = Driver(policy, optimizer, 9)
    for k in range(9):
        if k == 4:
            optimizer.add_param_group({"params": [late]})
        optimizer.step()
        assert optimizer.param_groups[0]["lr"] is lr and lr == 1 - k / 8
        for group in optimizer.param_groups:
            assert float(group["lr"]) == 1 - k / 8
            assert float(group["betas"][0]) == 0.75 - k / 32
            assert [float(b) for b in group["betas"][1:]] == [float(b) for b in betas[1:]]
            assert len(group["betas"]) == len(betas)
            assert not tensors or (group["betas"][0] is betas[0]) == (group is optimizer.param_groups[0])
        if k == 3:
            assert late.tolist() == [1, 1]
    assert driver.position == 9 and not torch.equal(late, torch.ones(2))

    saved = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "driver": driver.state_dict()}, saved)
    saved.seek(0)
    state = torch.load(saved, weights_only=True)
    again = make([weight], lr=torch.tensor(0.5), betas=betas)
    again.add_param_group({"params": [late]})
    again.load_state_dict(state["optimizer"])
    driver = Driver(policy, again, 17)
    driver.load_state_dict(state["driver"])
    again.step()
    assert [float(group["lr"]) for group in again.param_groups] == [1 - 9 / 16] * 2
