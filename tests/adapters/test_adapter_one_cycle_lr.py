"""`OneCycleLR`: torch's values at every step for every argument, and none of its traps."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
import warnings

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import OneCycleLR as TorchOneCycleLR
from torch.optim.lr_scheduler import SequentialLR

from onecycle.adapters.torch import OneCycleLR, PolicyScheduler
from onecycle.errors import ConfigError


@pytest.fixture(autouse=True)
def _no_ends_are_told(monkeypatch):
    monkeypatch.setattr("onecycle.adapters.place.ENDED", 0.0)


def parameter() -> nn.Parameter:
    p = nn.Parameter(torch.zeros(2))
    p.grad = torch.full_like(p, 0.1)
    return p


def groups(n: int) -> list[dict]:
    return [{"params": [parameter()]} for _ in range(n)]


MAKERS = {
    "sgd": lambda n: SGD(groups(n), lr=1.0, momentum=0.9),
    "sgd without momentum": lambda n: SGD(groups(n), lr=1.0),
    "rmsprop": lambda n: RMSprop(groups(n), lr=1.0),
    "adam": lambda n: Adam(groups(n), lr=1.0),
    # one for each group: torch writes one that all share, and leaves the last one's value in it
    "adam with tensors": lambda n: Adam([g | {"lr": torch.tensor(1.0, dtype=torch.float64)} for g in groups(n)]),
}


def values(optimizer: Optimizer) -> list[tuple[float, ...]]:
    return [
        (float(g["lr"]), *map(float, g["betas"] if "betas" in g else (g.get("momentum", 0.0),)))
        for g in optimizer.param_groups
    ]


def run(optimizer: Optimizer, scheduler, updates: int) -> list[list[tuple[float, ...]]]:
    """What each update used: as people write the loop."""
    used = []
    for _ in range(updates):
        optimizer.step()
        used.append(values(optimizer))
        scheduler.step()
    return used


def momenta(below: float = 0.99):
    return st.floats(0.01, below).map(lambda x: round(x, 3))  # at 0 RMSprop has no buffer, which it misses later


@st.composite
def arguments(draw):
    """Optimizer, number of groups and arguments of torch's OneCycleLR."""
    n = draw(st.integers(1, 3))

    def each(of):
        return draw(st.one_of(of, st.lists(of, min_size=n, max_size=n)))

    total = draw(st.integers(1, 40))
    given = {
        "max_lr": each(st.sampled_from([0.01, 0.1, 1.0, 3.0])),
        "pct_start": draw(st.one_of(st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.45, 0.5, 0.7]), st.floats(0, 1))),
        "anneal_strategy": draw(st.sampled_from(["cos", "linear"])),
        "cycle_momentum": draw(st.booleans()),
        "base_momentum": each(momenta()),
        "max_momentum": each(momenta()),
        "div_factor": draw(st.sampled_from([1.0, 2.5, 25.0, 1e3])),
        "final_div_factor": draw(st.sampled_from([1.0, 10.0, 1e4])),
        "three_phase": draw(st.booleans()),
    }
    if draw(st.booleans()):
        given["total_steps"] = total
    else:
        per = draw(st.sampled_from([k for k in range(1, total + 1) if total % k == 0]))
        given |= {"epochs": total // per, "steps_per_epoch": per}
    left_out = draw(st.sets(st.sampled_from(sorted({*given} - {"max_lr", "total_steps", "epochs", "steps_per_epoch"}))))
    return draw(st.sampled_from(sorted(MAKERS))), n, total, {k: v for k, v in given.items() if k not in left_out}


@settings(max_examples=150, deadline=None)
@given(arguments())
@example(("sgd", 1, 10, {"max_lr": 1.0, "total_steps": 10, "three_phase": True, "pct_start": 0.55}))
@example(("adam", 2, 10, {"max_lr": [1.0, 0.1], "total_steps": 10, "pct_start": 1.0}))
@example(("sgd", 2, 12, {"max_lr": 1.0, "total_steps": 12, "base_momentum": [0.5, 0.8], "max_momentum": [0.9, 0.95]}))
def test_it_is_torch_at_every_step(case):
    kind, n, total, given = case
    theirs, ours = MAKERS[kind](n), MAKERS[kind](n)
    expected = []
    try:  # stepped once less than updates: the last step would rebound
        scheduler = TorchOneCycleLR(theirs, **given)
        for k in range(total):
            expected.append(values(theirs))
            theirs.step()
            if k < total - 1:
                scheduler.step()
    except ZeroDivisionError:  # where a phase has no length
        assume(False)
    assert run(ours, OneCycleLR(ours, **given), total) == [
        [pytest.approx(group, rel=1e-7, abs=1e-14) for group in groups] for groups in expected
    ]


def test_torch_rebounds_where_it_holds():
    """Case 1; torch's own extra step is what this is about."""
    theirs, ours = (SGD([parameter()], lr=1.0, momentum=0.9) for _ in range(2))
    torch_scheduler = TorchOneCycleLR(theirs, 1.0, 10)
    assert run(theirs, torch_scheduler, 10)[9][0][0] == pytest.approx(4e-6)
    assert theirs.param_groups[0]["lr"] == pytest.approx(0.0495, abs=1e-4)
    with pytest.raises(ValueError, match="Tried to step 11 times"):
        torch_scheduler.step()
    scheduler = OneCycleLR(ours, 1.0, 10)
    with pytest.warns(UserWarning, match="past the end of a schedule over 10") as caught:
        used = run(ours, scheduler, 12)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert used[9:] == [[(pytest.approx(4e-6), 0.95)]] * 3 and values(ours) == used[9]


def test_torch_has_the_traps_that_the_page_says():
    """docs/migrate.md; where one of these fails, torch has mended it."""
    first = SGD([parameter()], lr=1.0, momentum=0.9)
    scheduler = TorchOneCycleLR(first, 1.0, 10)
    run(first, scheduler, 4)
    again = SGD([parameter()], lr=1.0, momentum=0.9)
    again.load_state_dict(first.state_dict())
    late = TorchOneCycleLR(again, 1.0, 30)
    late.load_state_dict(scheduler.state_dict())
    assert again.param_groups[0]["lr"] == pytest.approx(0.04) and late.get_last_lr()[0] == pytest.approx(0.81, abs=0.01)
    assert late.total_steps == 10
    first.add_param_group({"params": [parameter()]})
    with pytest.raises(KeyError, match="max_lr"):
        run(first, scheduler, 1)
    shared = AdamW(groups(2), lr=torch.tensor(0.1))
    TorchOneCycleLR(shared, [1.0, 0.1], 10)
    assert [float(g["lr"]) for g in shared.param_groups] == pytest.approx([0.004, 0.004])
    ours = AdamW(groups(2), lr=torch.tensor(0.1))
    OneCycleLR(ours, [1.0, 0.1], 10)
    assert [float(g["lr"]) for g in ours.param_groups] == pytest.approx([0.04, 0.004])
    chained = SGD([parameter()], lr=1.0, momentum=0.9)
    both = SequentialLR(chained, [TorchOneCycleLR(chained, peak, 10) for peak in (1.0, 0.5)], [10])
    rates = [lr for ((lr, _),) in run(chained, both, 20)]
    assert max(rates[:10]) == max(rates[10:]) == 0.5


ORDERS = [
    order
    for order in itertools.permutations(("optimizer", "make", "scheduler"))
    if order.index("make") < order.index("scheduler")
]
ARGUMENTS = {"max_lr": [1.0, 0.1], "total_steps": 10, "base_momentum": [0.8, 0.85], "three_phase": True}


@pytest.mark.parametrize("kind", sorted(MAKERS))
@pytest.mark.parametrize("order", ORDERS, ids=" then ".join)
@pytest.mark.parametrize("stop", [0, 4, 10])
def test_it_resumes_in_any_load_order(kind, order, stop):
    """Case 2; the checkpoint is loaded by weights alone."""
    optimizer = MAKERS[kind](2)
    scheduler = OneCycleLR(optimizer, **ARGUMENTS)
    run(optimizer, scheduler, stop)
    saved = io.BytesIO()
    torch.save([optimizer.state_dict(), scheduler.state_dict()], saved)
    uninterrupted = run(optimizer, scheduler, 10 - stop)
    saved.seek(0)
    of_optimizer, of_scheduler = torch.load(saved, weights_only=True)
    again = MAKERS[kind](2)
    for what in order:
        if what == "make":
            scheduler = OneCycleLR(again, **ARGUMENTS)
        elif what == "optimizer":
            again.load_state_dict(of_optimizer)
        else:
            scheduler.load_state_dict(of_scheduler)
    assert scheduler.get_last_lr() == [g["lr"] for g in again.param_groups]
    assert run(again, scheduler, 10 - stop) == uninterrupted


@pytest.mark.parametrize("order", ORDERS, ids=" then ".join)
@pytest.mark.parametrize("kind", ["sgd", "adam", "adam with tensors"])
def test_a_checkpoint_of_torch_s_own_goes_on(kind, order):
    theirs = MAKERS[kind](2)
    scheduler = TorchOneCycleLR(theirs, [1.0, 0.1], 10)
    run(theirs, scheduler, 4)
    states = copy.deepcopy((theirs.state_dict(), scheduler.state_dict()))
    expected = run(theirs, scheduler, 6)
    ours = MAKERS[kind](2)
    for what in order:
        if what == "make":
            scheduler = OneCycleLR(ours, [1.0, 0.1], 10)
        elif what == "optimizer":
            ours.load_state_dict(states[0])
        else:
            scheduler.load_state_dict(states[1])
    assert scheduler.position == 4
    assert run(ours, scheduler, 6) == [[pytest.approx(g, rel=1e-7) for g in groups] for groups in expected]


def test_that_a_checkpoint_of_torch_s_own_had_another_curve_is_said():
    theirs = SGD(groups(2), lr=1.0)
    scheduler = TorchOneCycleLR(theirs, 1.0, 10, cycle_momentum=False)
    run(theirs, scheduler, 4)
    ours = OneCycleLR(SGD(groups(2), lr=1.0), [0.5, 1.0], 10)
    with pytest.warns(
        UserWarning, match=r"torch that was at \[0\.81.*\] there, after 4 of 10 updates: .*same"
    ) as caught:
        ours.load_state_dict(scheduler.state_dict())
    assert caught[0].filename == __file__ and ours.position == 4


@pytest.mark.parametrize("k", [-1, 0, 3, 8])
def test_last_epoch_begins_where_torch_does(k):
    theirs, ours = (SGD([parameter()], lr=1.0, momentum=0.9) for _ in range(2))
    TorchOneCycleLR(theirs, 1.0, 10)
    scheduler = TorchOneCycleLR(theirs, 1.0, 10, last_epoch=k)
    assert OneCycleLR(ours, 1.0, 10, last_epoch=k).last_epoch == scheduler.last_epoch == k + 1
    assert values(ours) == [pytest.approx(group) for group in values(theirs)]


def test_a_group_added_in_the_middle_takes_part():
    """Case 10: torch has a KeyError here."""
    optimizer = AdamW([parameter()], lr=torch.tensor(0.5), betas=(torch.tensor(0.5), torch.tensor(0.99)))
    (first,) = optimizer.param_groups
    rate, second = first["lr"], first["betas"][1]
    scheduler = OneCycleLR(optimizer, 1.0, 10)
    run(optimizer, scheduler, 4)
    optimizer.add_param_group({"params": [parameter()]})
    optimizer.add_param_group({"params": [parameter()], "lr": 0.3, "lr_ratio": 0.1})
    run(optimizer, scheduler, 3)
    lrs = [float(lr) for lr in scheduler.get_last_lr()]
    assert lrs == pytest.approx([lrs[0], lrs[0], lrs[0] / 10]) and 0 < lrs[0] < 1
    assert [b for _, b, _ in values(optimizer)] == pytest.approx([values(optimizer)[0][1]] * 3)
    assert first["lr"] is rate and first["betas"][1] is second and second == torch.tensor(0.99)


def test_a_group_added_to_one_of_several_pairs_of_momenta_takes_the_first():
    optimizer = MAKERS["sgd"](2)
    scheduler = OneCycleLR(optimizer, 1.0, 10, base_momentum=[0.5, 0.8])
    run(optimizer, scheduler, 2)
    optimizer.add_param_group({"params": [parameter()]})
    assert [m for _, m in run(optimizer, scheduler, 1)[0]] == pytest.approx([0.5, 0.8, 0.5])


def test_betas_that_are_one_tensor_for_all_groups_follow_each_its_own_range():
    beta = torch.tensor(0.9)
    optimizer = AdamW(groups(2), lr=torch.tensor(0.1), betas=(beta, torch.tensor(0.99)))
    OneCycleLR(optimizer, 1.0, 10, max_momentum=[0.9, 0.7])
    assert [float(g["betas"][0]) for g in optimizer.param_groups] == pytest.approx([0.9, 0.7])


def test_without_momentum_it_is_left_out():
    optimizer = Adagrad([parameter()], lr=0.1)
    scheduler = OneCycleLR(optimizer, 1.0, 10)
    assert run(optimizer, scheduler, 10)[2] == [(1.0, 0.0)]
    with pytest.raises(ValueError, match="must support momentum"):
        TorchOneCycleLR(Adagrad([parameter()], lr=0.1), 1.0, 10)
    for momenta in ({"base_momentum": 0.8}, {"max_momentum": [0.9]}):
        other = Adagrad([parameter()], lr=0.1)
        with pytest.raises(ConfigError, match=r"Adagrad has no momentum to cycle; received .* leave them out"):
            OneCycleLR(other, 1.0, 10, **momenta)
        assert other.param_groups[0]["lr"] == 0.1
        OneCycleLR(other, 1.0, 10, cycle_momentum=False, **momenta)


def test_two_cycles_one_after_the_other():
    """Torch runs both at the second's peak."""
    optimizer = SGD([parameter()], lr=1.0, momentum=0.9)
    used = []
    for peak in (1.0, 0.5):
        scheduler = OneCycleLR(optimizer, peak, 10)
        used += [lr for ((lr, _),) in run(optimizer, scheduler, 10)]
    assert used[2] == 1.0 and max(used[10:]) == used[12] == 0.5
    assert [lr / 2 for lr in used[:10]] == pytest.approx(used[10:])


def test_the_rest_is_stretched():
    optimizer = SGD([parameter()], lr=1.0, momentum=0.9)
    scheduler = OneCycleLR(optimizer, 1.0, 10, anneal_strategy="linear", final_div_factor=1.0)
    run(optimizer, scheduler, 5)
    before = values(optimizer)
    scheduler.extend(20)
    assert scheduler.total_steps == 20 and values(optimizer) == before
    (((lr, _),), *rest) = run(optimizer, scheduler, 15)
    assert lr == before[0][0] and rest[-1] == [(pytest.approx(0.04), pytest.approx(0.95))]
    steps = [a[0][0] - b[0][0] for a, b in itertools.pairwise(rest)]
    assert steps == pytest.approx([(lr - 0.04) / 14] * 13)
    with pytest.raises(ConfigError, match=r'onecycle.preset\("extension"'):
        scheduler.extend(40)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))], ids=["copy", "pickle"])
def test_a_copy_goes_on(how):
    optimizer = MAKERS["adam with tensors"](2)
    scheduler = OneCycleLR(optimizer, **ARGUMENTS)
    run(optimizer, scheduler, 4)
    again = how(scheduler)
    assert run(again.optimizer, again, 6) == run(optimizer, scheduler, 6)


def compiled_frames(optimizer: Optimizer, scheduler, every: int) -> int:
    """How many times a compiled step was compiled in 12 updates."""
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    counter = CompileCounter()
    step = torch.compile(optimizer.step, backend=counter)
    for k in range(12):
        step()
        if k % every == every - 1:
            scheduler.step()
    return counter.frame_count


@pytest.mark.filterwarnings("ignore:::torch")
@pytest.mark.parametrize("make", [OneCycleLR, TorchOneCycleLR])
def test_a_compiled_step_is_compiled_once(make):
    def adamw() -> Optimizer:
        return AdamW([parameter()], lr=torch.tensor(0.1), betas=(torch.tensor(0.9), torch.tensor(0.99)))

    optimizer = adamw()
    scheduler = make(optimizer, 0.1, 100)
    frames = compiled_frames(optimizer, scheduler, 1)
    assert scheduler.last_epoch == 12 and float(optimizer.param_groups[0]["lr"]) == pytest.approx(
        float(TorchOneCycleLR(SGD([parameter()], 1.0), 0.1, 100, last_epoch=-1).get_last_lr()[0]), abs=0.1
    )
    assert frames == (1 if make is OneCycleLR else 2), "torch's makes floats of tensor betas"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_step_is_compiled_at_most_twice_where_steps_stand_for_several_updates():
    optimizer = AdamW([parameter()], lr=torch.tensor(0.1))
    scheduler = OneCycleLR(optimizer, 0.1, 100, cycle_momentum=False)
    with pytest.warns(UserWarning, match="stepped once after 6 updates"):
        assert compiled_frames(optimizer, scheduler, 6) <= 2
    assert scheduler.position == 2


BAD = [
    ({"max_lr": 0.1}, "give total_steps, or epochs and steps_per_epoch; received total_steps=None"),
    ({"max_lr": 0.1, "total_steps": 10, "epochs": 2, "steps_per_epoch": 5}, "give total_steps, or epochs and"),
    ({"max_lr": 0.1, "epochs": 2}, "give total_steps, or epochs and .* epochs=2, steps_per_epoch=None"),
    ({"max_lr": 0.1, "total_steps": 0}, "total_steps is the number of updates of the whole run, .* received 0"),
    ({"max_lr": 0.1, "total_steps": 10.0}, "received 10.0"),
    ({"max_lr": 0.1, "epochs": 2.5, "steps_per_epoch": 5}, "epochs is a whole number of at least 1; received 2.5"),
    ({"max_lr": 0.1, "epochs": 2, "steps_per_epoch": 0}, "steps_per_epoch is the updates of an epoch, .* received 0"),
    ({"max_lr": [0.1], "total_steps": 9}, r"max_lr is one number, or one for each of the 2 .* \[0.1\]"),
    ({"max_lr": -0.1, "total_steps": 9}, "max_lr is a finite number of at least 0; received -0.1"),
    ({"max_lr": 0.0, "total_steps": 9}, "max_lr is the peak learning rate, a finite number above 0"),
    ({"max_lr": "0.1", "total_steps": 9}, "received '0.1': leave out the quotes"),
    ({"max_lr": float("nan"), "total_steps": 9}, "received nan"),
    ({"max_lr": 0.1, "total_steps": 9, "pct_start": 1.5}, "pct_start is a share of the run, .* received 1.5"),
    ({"max_lr": 0.1, "total_steps": 9, "pct_start": 30}, "pct_start is a share of the run, .* received 30"),
    ({"max_lr": 0.1, "total_steps": 9, "anneal_strategy": "cosine"}, "anneal_strategy 'cosine': did you mean cos"),
    ({"max_lr": 0.1, "total_steps": 9, "base_momentum": [0.8] * 3}, "base_momentum is one number, or one for"),
    ({"max_lr": 0.1, "total_steps": 9, "max_momentum": 1.0}, "max_momentum is .* below 1; received 1.0"),
    ({"max_lr": 0.1, "total_steps": 9, "div_factor": 0}, "div_factor is a finite number above 0; received 0"),
    ({"max_lr": 0.1, "total_steps": 9, "final_div_factor": -1}, "final_div_factor is .* received -1"),
    ({"max_lr": 0.1, "total_steps": 9, "three_phase": "no"}, "three_phase is true or false; received 'no'"),
    ({"max_lr": 0.1, "total_steps": 9, "cycle_momentum": 1}, "cycle_momentum is true or false; received 1"),
    ({"max_lr": 0.1, "total_steps": 9, "last_epoch": 1.5}, "last_epoch is .* received 1.5"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "match"), BAD, ids=[str(number) for number in range(len(BAD))])
def test_bad_input_is_refused_before_anything_is_changed(given, match):
    optimizer = MAKERS["sgd"](2)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ConfigError, match=match):
        OneCycleLR(optimizer, **given)
    assert optimizer.state_dict()["param_groups"] == before["param_groups"]
    with pytest.raises(ConfigError, match=r"an optimizer of torch, .* received 3"):
        OneCycleLR(3, 0.1, 10)  # type: ignore[arg-type]


def test_two_on_one_optimizer_are_refused():
    optimizer = MAKERS["sgd"](1)
    scheduler = OneCycleLR(optimizer, 1.0, 10)
    with pytest.raises(ConfigError, match="by a OneCycleLR"):
        OneCycleLR(optimizer, 0.5, 10)
    assert scheduler.get_last_lr() == [0.04] and isinstance(scheduler, PolicyScheduler)


def test_plotting_it_says_nothing():
    optimizer = MAKERS["sgd"](1)
    scheduler = OneCycleLR(optimizer, 1.0, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(15):
            scheduler.step()
    assert scheduler.get_last_lr() == [pytest.approx(4e-6)]
