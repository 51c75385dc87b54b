"""Every preset against a table made by hand, and the four that have an original against that original."""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR

from onecycle.errors import ConfigError
from onecycle.schedules import presets
from onecycle.schedules.policy import Policy, position
from onecycle.schedules.presets import (
    PRESETS,
    author,
    clr,
    cosine,
    extension,
    fastai,
    linear,
    one_cycle,
    paper,
    preset,
    step,
    wsd,
)

ROOT3 = math.sqrt(3)


def values(policy, name, progress):
    return [policy(x)[name] for x in progress]


def by_update(policy, name, updates):
    return values(policy, name, [position(k, updates) for k in range(updates)])


# name: the policy, the progress values, the learning rates at them, the momenta at them (None: left alone)
TABLES = {
    "one_cycle": (
        one_cycle(1.0),
        (0, 0.225, 0.45, 0.675, 0.9, 0.95, 1),
        (0.1, 0.55, 1, 0.55, 0.1, 0.0505, 0.001),
        None,
    ),
    "one_cycle with everything chosen": (
        one_cycle(2.0, peak_at=0.4, lr_start=0.5, lr_end=0.2, momentum=(0.9, 0.8)),
        (0, 0.2, 0.4, 0.6, 0.8, 0.9, 1),
        (0.5, 1.25, 2, 1.25, 0.5, 0.35, 0.2),
        (0.9, 0.85, 0.8, 0.85, 0.9, 0.9, 0.9),
    ),
    "one_cycle with a late peak": (
        one_cycle(1.0, peak_at=0.6, momentum=(0.9, 0.8)),
        (0, 0.3, 0.6, 0.8, 1),
        (0.1, 0.55, 1, 0.5005, 0.001),
        (0.9, 0.85, 0.8, 0.85, 0.9),
    ),
    "paper": (
        paper(2.0),
        (0, 0.225, 0.45, 0.675, 0.9, 0.95, 1),
        (0.2, 1.1, 2, 1.1, 0.2, 0.101, 0.002),
        (0.95, 0.9, 0.85, 0.9, 0.95, 0.95, 0.95),
    ),
    "author": (  # S = 45 of the 100 steps between 101 updates; the line down meets 1/10000 a little before 90
        author(1.0, 101, stepsize=45, lr_start=0.1),
        (0, 0.09, 0.45, 0.54, 0.72, 0.89, 0.9, 0.99, 1),
        (0.1, 0.28, 1, 0.8, 0.4, 1 / 45, 1e-4, 1e-4, 1e-4),
        (0.95, 0.93, 0.85, 0.87, 0.91, 0.95 - 0.1 / 45, 0.95, 0.95 - 0.05 * 0.2, 0.95 - 0.05 * 10 / 45),
    ),
    "author in a share of the run": (
        author(1.0),
        (0, 0.225, 0.45, 0.675, 0.9, 1),
        (0.1, 0.55, 1, 0.5, 1e-4, 1e-4),
        (0.95, 0.9, 0.85, 0.9, 0.95, 0.95 - 0.05 / 4.5),
    ),
    "author with three momentum cycles": (
        author(1.0, 61, stepsize=10, momentum=(0.9, 0.5)),
        (0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1),
        (0.1, 1, 1e-4, 1e-4, 1e-4, 1e-4, 1e-4),
        (0.9, 0.5, 0.9, 0.7, 0.9, 0.8, 0.9),
    ),
    "fastai": (  # a third of a half cosine is a quarter of the way
        fastai(1.0),
        (0, 0.25 / 3, 0.125, 0.5 / 3, 0.25, 0.5, 0.625, 0.75, 1),
        (0.04, 0.28, 0.52, 0.76, 1, 1 - 0.99999 / 4, 0.500005, 0.250_007_5, 1e-5),
        (0.95, 0.925, 0.9, 0.875, 0.85, 0.875, 0.9, 0.925, 0.95),
    ),
    "torch": (  # T = 10: the peak is update 2 of 0...9, so updates 1 and 5.5 are half-way
        presets.torch(1.0, 10),
        (0, 1 / 9, 2 / 9, 5.5 / 9, 1),
        (0.04, 0.52, 1, 0.500_002, 4e-6),
        (0.95, 0.9, 0.85, 0.9, 0.95),
    ),
    "torch without T": (
        presets.torch(1.0),
        (0, 0.1, 0.2, 0.3, 0.65, 1),
        (0.04, 0.28, 0.76, 1, 0.500_002, 4e-6),
        (0.95, 0.925, 0.875, 0.85, 0.9, 0.95),
    ),
    "clr": (
        clr(0.4, cycles=2),
        (0, 0.125, 0.25, 0.375, 0.5, 0.75, 0.875, 1),
        (0.1, 0.25, 0.4, 0.25, 0.1, 0.4, 0.25, 0.1),
        None,
    ),
    "clr triangular2": (
        clr(0.8, lr_min=0.0, cycles=3, mode="triangular2", momentum=(0.95, 0.85)),
        (0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1),
        (0, 0.8, 0, 0.4, 0, 0.2, 0),
        (0.95, 0.85, 0.95, 0.9, 0.95, 0.925, 0.95),
    ),
    "wsd": (
        wsd(1.0),
        (0, 0.025, 0.05, 0.4, 0.8, 0.85, 0.95, 1),
        (0, 0.5, 1, 1, 1, 0.5, 1 - ROOT3 / 2, 0),
        None,
    ),
    "wsd without a stable part": (
        wsd(1.0, warmup=0, decay=1, lr_end=0.1, momentum=0.9),
        (0, 0.25, 1),
        (1, 0.55, 0.1),
        (0.9, 0.9, 0.9),
    ),
    "step": (
        step(1.0),
        (0, 0.4999, 0.5, 0.7499, 0.75, 1),
        (1, 1, 0.1, 0.1, 0.01, 0.01),
        None,
    ),
    "step after a warm-up": (
        step(0.8, at=(0.5,), factor=0.25, warmup=0.2, momentum=0.9),
        (0, 0.1, 0.2, 0.4, 0.5, 1),
        (0, 0.4, 0.8, 0.8, 0.2, 0.2),
        (0.9,) * 6,
    ),
    "step without a step": (step(0.3, at=()), (0, 1), (0.3, 0.3), None),
    "cosine": (cosine(1.0), (0, 1 / 3, 0.5, 2 / 3, 1), (1, 0.75, 0.5, 0.25, 0), None),
    "cosine after a warm-up": (
        cosine(1.0, warmup=0.1, lr_end=0.2),
        (0, 0.05, 0.1, 0.4, 0.55, 1),
        (0, 0.5, 1, 0.8, 0.6, 0.2),
        None,
    ),
    "linear": (linear(1.0), (0, 0.25, 0.5, 1), (1, 0.75, 0.5, 0), None),
    "linear after a warm-up": (
        linear(1.0, warmup=0.2, lr_end=0.2, momentum=0.8),
        (0, 0.1, 0.2, 0.6, 1),
        (0, 0.5, 1, 0.6, 0.2),
        (0.8,) * 5,
    ),
    "constant": (presets.constant(0.1), (0, 0.5, 1), (0.1, 0.1, 0.1), None),
    "extension": (
        extension(2.0),
        (0, 0.05, 0.1, 0.55, 0.775, 1),
        (0.1, 1.05, 2, 1.001, 0.5015, 0.002),
        None,
    ),
    "extension with everything chosen": (
        extension(1.0, warmup=0.5, lr_start=0.2, lr_end=0.1, momentum=(0.9, 0.8)),
        (0, 0.25, 0.5, 0.75, 1),
        (0.2, 0.6, 1, 0.55, 0.1),
        (0.9, 0.85, 0.8, 0.85, 0.9),
    ),
    "constant after a warm-up": (presets.constant(0.1, warmup=0.5), (0, 0.25, 0.5, 1), (0, 0.05, 0.1, 0.1), None),
}


def test_every_preset_has_a_table():
    assert {name.split()[0] for name in TABLES} == set(PRESETS)


@pytest.mark.parametrize("name", TABLES)
def test_preset_goes_through_its_hand_computed_table(name):
    policy, progress, lrs, momenta = TABLES[name]
    assert values(policy, "lr", progress) == pytest.approx(lrs, rel=1e-9, abs=1e-12)
    assert ("momentum" in policy(0)) == (momenta is not None)
    if momenta is not None:
        assert values(policy, "momentum", progress) == pytest.approx(momenta, rel=1e-9)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("updates", [1, 2, 3, 4, 10, 101, None])
def test_preset_is_finite_for_any_number_of_updates_and_peaks_at_the_peak(name, updates):
    policy = preset(name, 0.3, updates)
    rows = [policy(position(k, updates or 7)) for k in range(updates or 7)]
    assert all(math.isfinite(row["lr"]) and 0 <= row["lr"] <= 0.3 for row in rows)
    assert all(0.85 <= row.get("momentum", 0.9) <= 0.95 for row in rows)
    assert policy.schedules["lr"].peak == 0.3 or (name, updates) == ("torch", 1)
    assert Policy.from_dict(policy.to_dict()) == policy == pickle.loads(pickle.dumps(policy))


@pytest.mark.parametrize("name", PRESETS)
def test_preset_is_in_proportion_to_its_peak(name):
    small, large = preset(name, 0.25, 40), preset(name, 1.0, 40)
    assert by_update(small, "lr", 40) == pytest.approx([v / 4 for v in by_update(large, "lr", 40)])


@pytest.mark.parametrize("name", ["one_cycle", "paper", "author", "fastai", "torch", "clr", "extension"])
def test_momentum_is_cycled_held_or_left_alone(name):
    assert by_update(preset(name, 1.0, 21, momentum=0.9), "momentum", 21) == [0.9] * 21
    assert "momentum" not in preset(name, 1.0, 21, momentum=None).schedules
    cycled = by_update(preset(name, 1.0, 21, momentum=[0.9, 0.7]), "momentum", 21)
    assert cycled[0] == 0.9 and min(cycled) < 0.75 and max(cycled) == 0.9


# torch


def torch_rows(updates, peak_at, optimizer):
    """What OneCycleLR has the optimizer use at each of its steps."""
    scheduler = OneCycleLR(optimizer, max_lr=0.7, total_steps=updates, pct_start=peak_at)
    rows = []
    for k in range(updates):
        group = optimizer.param_groups[0]
        rows.append((group["lr"], group["betas"][0] if "betas" in group else group["momentum"]))
        optimizer.step()
        if k < updates - 1:
            scheduler.step()
    return rows


# torch divides by zero where the peak is the first update
DIVIDES_BY_ZERO = [(2, 0.5), (4, 0.25), (1, 1.0)]
LENGTHS = [
    (updates, peak_at)
    for updates in (1, 2, 3, 4, 10, 11, 100, 1000)
    for peak_at in (0.3, 0.5, 0.25, 0.05)
    if (updates, peak_at) not in DIVIDES_BY_ZERO
]


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize(("updates", "peak_at"), LENGTHS)
def test_torch_is_torch_at_every_step(updates, peak_at, kind):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], 1, momentum=0.9) if kind == "sgd" else torch.optim.AdamW([parameter], 1)
    parameter.grad = torch.zeros(1)
    rows = torch_rows(updates, peak_at, optimizer)
    ours = presets.torch(0.7, updates, peak_at=peak_at)
    assert by_update(ours, "lr", updates) == pytest.approx([lr for lr, _ in rows], rel=1e-9)
    assert by_update(ours, "momentum", updates) == pytest.approx([m for _, m in rows], rel=1e-9)


@pytest.mark.parametrize(
    ("updates", "peak_at", "lrs", "momenta"),
    [
        (2, 0.5, [0.7, 0.7 / 25e4], [0.85, 0.95]),  # the peak is the first update
        (4, 0.25, [0.7, None, None, 0.7 / 25e4], [0.85, None, None, 0.95]),
        (1, 0.3, [0.7 / 25e4], [0.95]),
        (1, 0.0, [0.7 / 25e4], [0.95]),
    ],
)
def test_torch_holds_where_the_warm_up_has_no_length(updates, peak_at, lrs, momenta):
    ours = presets.torch(0.7, updates, peak_at=peak_at)
    for name, expected in (("lr", lrs), ("momentum", momenta)):
        found = by_update(ours, name, updates)
        assert all(math.isfinite(v) for v in found)
        assert [v for v, e in zip(found, expected, strict=True) if e is not None] == pytest.approx(
            [e for e in expected if e is not None]
        )


@pytest.mark.parametrize(("updates", "peak_at"), DIVIDES_BY_ZERO)
def test_torch_itself_divides_by_zero_there(updates, peak_at):
    """Why the preset cannot be compared with it at these lengths; where this fails, compare."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1, momentum=0.9)
    with pytest.raises(ZeroDivisionError):
        OneCycleLR(optimizer, max_lr=0.7, total_steps=updates, pct_start=peak_at)


# fastai: `fit_one_cycle` of 2.8 as it is written there, at its own progress k / T


def sched_cos(start, end, pos):
    return start + (1 + math.cos(math.pi * (1 - pos))) * (end - start) / 2


def combine_scheds(pcts, scheds):
    bounds = [0.0]
    for pct in pcts:
        bounds.append(bounds[-1] + pct)

    def inner(pos):
        idx = max(i for i, bound in enumerate(bounds) if pos >= bound)
        idx = min(idx, len(scheds) - 1)
        return scheds[idx]((pos - bounds[idx]) / (bounds[idx + 1] - bounds[idx]))

    return inner


def combined_cos(pct, start, middle, end):
    first, second = (lambda pos: sched_cos(start, middle, pos)), (lambda pos: sched_cos(middle, end, pos))
    return combine_scheds([pct, 1 - pct], [first, second])


@pytest.mark.parametrize("peak_at", [0.25, 0.4])
@pytest.mark.parametrize("updates", [1, 4, 10, 97])
def test_fastai_is_fastai_at_its_own_progress(updates, peak_at):
    lr = combined_cos(peak_at, 0.3 / 25.0, 0.3, 0.3 / 1e5)
    momentum = combined_cos(peak_at, 0.95, 0.85, 0.95)
    ours = fastai(0.3, updates, peak_at=peak_at)
    progress = [k / updates for k in range(updates)]
    assert values(ours, "lr", progress) == pytest.approx([lr(x) for x in progress], rel=1e-12)
    assert values(ours, "momentum", progress) == pytest.approx([momentum(x) for x in progress], rel=1e-12)


# The author's own logs: github.com/lnsmith54/hyperParam1 at c5dd3de, Cifar/results and Imagenet/results.
# name: (stepsize, lr_start, lr_max, (momentum high, low), rows of (iteration, lr, momentum) as logged)
INCEPTION = [
    (0, 0.05, 0.95),
    (500, 0.0543981, 0.949954),
    (54000, 0.525, 0.945),
    (107500, 0.995602, 0.940046),
    (108000, 1, 0.94),
    (108500, 0.99537, 0.939954),
    (162000, 0.5, 0.935),
    (215500, 0.00462961, 0.930046),
    (216000, 5e-05, 0.93),
    (219500, 5e-05, 0.929676),
]
LOGS = {
    "c100Resnet56_C100Res1CycLR.1001.2CM0.95.85WD1e-4Epoch145BS256g_1": (
        3417, 0.1, 1.2, (0.95, 0.85),
        [(0, 0.1, 0.95), (100, 0.132192, 0.947073), (1700, 0.647264, 0.900249), (3300, 1.16234, 0.853424),
         (3400, 1.19453, 0.850498), (3500, 1.17085, 0.852429), (5100, 0.608955, 0.899254),
         (6800, 0.0119403, 0.949005), (6900, 0.0001, 0.949034), (7000, 0.0001, 0.947571)],
    ),
    "cifar100_C100CycLR.0020.02CM0.95.8WD6e-4Epoch50BS128l_1": (
        2246, 0.002, 0.02, (0.95, 0.8),
        [(0, 0.002, 0.95), (200, 0.00360285, 0.936643), (1000, 0.0100142, 0.883215), (2000, 0.0180285, 0.816429),
         (2200, 0.0196313, 0.803072), (2400, 0.0186287, 0.810285), (3400, 0.00972395, 0.87707),
         (4400, 0.000819235, 0.943856), (4600, 2e-06, 0.946394), (4800, 2e-06, 0.939715)],
    ),
    "gResnet56_ResTBS512LR.0800.8M.95WD1e-4Epoch95BS128b_1": (
        4003, 0.08, 0.8, (0.95, 0.95),
        [(0, 0.08, 0.95), (200, 0.115973, 0.95), (2000, 0.43973, 0.95), (3800, 0.763487, 0.95), (4000, 0.79946, 0.95),
         (4200, 0.76063, 0.95), (6000, 0.400899, 0.95), (8000, 0.00119905, 0.95), (8200, 8e-05, 0.95),
         (9200, 8e-05, 0.95)],
    ),
    "genDensenet40_Den1CycLR.1004M0.9WD1e-6Epoch50BS128c_1": (
        2148, 0.1, 4, (0.9, 0.8),
        [(0, 0.1, 0.9), (200, 0.463129, 0.890689), (1000, 1.91564, 0.853445), (2000, 3.73129, 0.80689),
         (2200, 3.90317, 0.802421), (2400, 3.53073, 0.811732), (3200, 2.04097, 0.848976),
         (4200, 0.178771, 0.895531), (4400, 0.0001, 0.897579), (4800, 0.0001, 0.888268)],
    ),
    # The momentum of these five has its own stepsize, ten times too long: see MOMENTUM_STEPSIZE.
    "inception-resnetCM9585CLR.051WD1e-5BS28_20Epochs_1": (
        108000, 0.05, 1, (0.95, 0.85),
        [*INCEPTION[:6], (118500, 0.902778, 0.939028), (129000, 0.805556, 0.938056), (129500, 0.800926, 0.938009)],
    ),
    "inception-resnetCM9585CLR.051WD1e-6BS28_20Epochs_1": (108000, 0.05, 1, (0.95, 0.85), INCEPTION),
    "inception-resnetCM9585CLR.051WD1e-6BS28_20Epochs_2": (108000, 0.05, 1, (0.95, 0.85), INCEPTION),
    "inception-resnetCM9585CLR.051WD3e-6BS28_20Epochs_1": (108000, 0.05, 1, (0.95, 0.85), INCEPTION),
    "inception-resnetCM9585CLR.051WD3e-6BS28_20Epochs_2": (108000, 0.05, 1, (0.95, 0.85), INCEPTION),
    "resnetCM9585CLR.051WD1e-6BS32_20Epochs_1": (
        75000, 0.05, 1, (0.95, 0.85),
        [(0, 0.05, 0.95), (500, 0.0563333, 0.949333), (37500, 0.525, 0.9), (74500, 0.993667, 0.850667),
         (75000, 1, 0.85), (75500, 0.993333, 0.850667), (112500, 0.5, 0.9), (149500, 0.00666666, 0.949333),
         (150000, 5e-05, 0.95), (199500, 5e-05, 0.917)],
    ),
    "resnetCM9585CLR.051WD3e-6BS32_20Epochs_1": (
        95000, 0.05, 1, (0.95, 0.85),
        [(0, 0.05, 0.95), (500, 0.055, 0.949474), (47500, 0.525, 0.9), (94500, 0.995, 0.850526), (95000, 1, 0.85),
         (95500, 0.994737, 0.850526), (142500, 0.5, 0.9), (189500, 0.00526321, 0.949474), (190000, 5e-05, 0.95),
         (199500, 5e-05, 0.945)],
    ),
    "wide32cifar_Wide1CycLR.1001CM0.95.85WD1e-4Epoch50BS128a_1": (
        2246, 0.1, 1, (0.95, 0.85),
        [(0, 0.1, 0.95), (200, 0.180142, 0.941095), (1000, 0.500712, 0.905476), (2000, 0.901425, 0.860953),
         (2200, 0.981567, 0.852048), (2400, 0.931434, 0.856857), (3400, 0.486198, 0.90138),
         (4400, 0.0409617, 0.945904), (4600, 0.0001, 0.947596), (4800, 0.0001, 0.943143)],
    ),
    "wide32cifar_Wide1CycLR.1001M0.95WD1e-5Epoch100BS128j_1": (
        4394, 0.1, 1, (0.95, 0.85),
        [(0, 0.1, 0.95), (200, 0.140965, 0.945448), (2200, 0.550614, 0.899932), (4200, 0.960264, 0.854415),
         (4400, 0.998634, 0.850137), (4600, 0.953118, 0.854688), (6600, 0.497952, 0.900205),
         (8600, 0.0427856, 0.945721), (8800, 0.0001, 0.949863), (9600, 0.0001, 0.94076)],
    ),
}  # fmt: skip
MOMENTUM_STEPSIZE = {name: 1_080_000 for name in LOGS if name.startswith("inception")}


@pytest.mark.parametrize("log", LOGS)
def test_author_is_what_the_author_logged(log):
    stepsize, lr_start, lr_max, momentum, rows = LOGS[log]
    updates = rows[-1][0] + 501
    ours = author(lr_max, updates, stepsize=stepsize, lr_start=lr_start, momentum=momentum)
    slow = author(lr_max, updates, stepsize=MOMENTUM_STEPSIZE.get(log, stepsize), momentum=momentum)
    at = [position(iteration, updates) for iteration, _, _ in rows]
    assert values(ours, "lr", at) == pytest.approx([lr for _, lr, _ in rows], rel=1e-4)
    assert values(slow, "momentum", at) == pytest.approx([m for _, _, m in rows], rel=1e-4)


# Bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: preset("onecycle", 0.1), "unknown preset 'onecycle': did you mean one_cycle? Known: author, clr,"),
        (lambda: preset("paper", 0.1, momentun=3), "preset paper has no option 'momentun': did you mean momentum? "),
        (lambda: one_cycle(0.1, peak_at=0.0), "peak_at is a share of the run, above 0 and below 1; received 0.0"),
        (lambda: one_cycle(0.1, peak_at=1), "peak_at is a share"),
        (lambda: one_cycle(0.1, lr_end=-1), "lr_end is a finite number of at least 0; received -1"),
        (lambda: one_cycle(0.1, lr_start=math.nan), "lr_start is a finite number of at least 0; received nan"),
        (lambda: one_cycle(0.1, momentum=95), "momentum is a number, or two (high, low), at least 0 and below 1"),
        (lambda: one_cycle(0.1, momentum=(0.95, 0.9, 0.85)), "received (0.95, 0.9, 0.85)"),
        (lambda: one_cycle(0.1, momentum=(0.95, 1)), "below 1, such as (0.95, 0.85); received (0.95, 1)"),
        (lambda: one_cycle(0.1, momentum=()), "received ()"),
        (lambda: fastai(0.1, peak_at=2), "peak_at is a share"),
        (
            lambda: presets.torch(0.1, peak_at=-0.1),
            "peak_at is a share of the run, at least 0 and at most 1; received -0.1",
        ),
        (lambda: presets.torch(0.1, 1, peak_at=1.5), "received 1.5"),
        (lambda: author(0.1, stepsize=5), "stepsize=5 counts updates (at least 1): the number of updates is needed"),
        (lambda: author(0.1, 10, stepsize=0), "stepsize=0 counts updates"),
        (lambda: clr(0.1, mode="triangle"), "unknown mode 'triangle': did you mean triangular?"),
        (lambda: clr(0.1, cycles=0), "cycles is a whole number of at least 1; received 0"),
        (lambda: clr(0.1, cycles=1.5), "cycles is a whole number"),
        (lambda: wsd(0.1, warmup=0.5, decay=0.6), "together at most 1; received 0.5 and 0.6"),
        (lambda: wsd(0.1, decay=0), "warmup and decay are shares"),
        (lambda: step(0.1, at=(0.7, 0.5)), "progress must increase"),
        (lambda: step(0.1, factor=-0.1), "factor is a finite number of at least 0; received -0.1"),
        (lambda: extension(0.1, warmup=0), "warmup is a share of the run, above 0 and below 1; received 0"),
        (lambda: linear(0.1, warmup=1), "warmup is a share of the run, at least 0 and below 1; received 1"),
        (lambda: cosine(0.1, lr_end=math.inf), "lr_end is a finite number"),
        (lambda: cosine(0.1, momentum=(0.95, 0.85)), "no cycle for momentum to follow: give one number"),
    ],
)
def test_bad_options_are_named(make, message):
    with pytest.raises(ConfigError) as error:
        make()
    assert message in str(error.value)


@pytest.mark.parametrize("name", PRESETS)
def test_a_peak_is_a_finite_number_above_zero_and_updates_a_count(name):
    for bad in (0, -0.1, math.nan, math.inf, True, "0.1", None):
        with pytest.raises(ConfigError, match=r"lr_max is the peak learning rate, .* received"):
            preset(name, bad)  # type: ignore[arg-type]
    for bad in (0, -1, 2.5, True, "10"):
        with pytest.raises(
            ConfigError,
            match="updates is the number of updates of the whole run, a whole number of at least 1; received",
        ):
            preset(name, 0.1, bad)  # type: ignore[arg-type]


def test_a_short_stepsize_in_a_long_run_is_no_overflow():
    policy = preset("author", 0.1, 10**6, stepsize=97)
    assert policy(0.9)["momentum"] == 0.95
