"""A policy and the range test in Lightning's Trainer: of `lightning.pytorch` and of `pytorch_lightning`."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
import signal
import warnings

import pytest
import torch

L = pytest.importorskip("lightning.pytorch")
PL = pytest.importorskip("pytorch_lightning")

from lightning.pytorch.plugins import MixedPrecision  # noqa: E402
from torch import nn  # noqa: E402
from torch.optim import SGD, AdamW  # noqa: E402
from torch.utils.data import DataLoader, IterableDataset, TensorDataset  # noqa: E402

from onecycle import Interrupted, Policy, preset, range_test  # noqa: E402
from onecycle.adapters.lightning import LightningPolicy, lr_find, lr_search  # noqa: E402
from onecycle.adapters.torch import PolicyScheduler  # noqa: E402
from onecycle.errors import ConfigError  # noqa: E402
from onecycle.optim.muon import Muon  # noqa: E402

QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
POLICY = preset("fastai", 0.05)  # the learning rate and the momentum move


class Recorded:
    """Notes the learning rate and the momentum of each step of an optimizer."""

    used: list[tuple[float, float]]

    def record(self, optimizer, used=None):
        used = self.used if used is None else used
        optimizer.register_step_post_hook(lambda one, *_: used.append(settings(one)))
        return optimizer


def settings(optimizer) -> tuple[float, float]:
    group = optimizer.param_groups[0]
    return group["lr"], group["momentum"] if "momentum" in group else group["betas"][0]


class Net(L.LightningModule, Recorded):
    def __init__(self, scheduler=None, poisoned=()):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))
        self.scheduler, self.poisoned, self.used, self.seen = scheduler, poisoned, [], []

    def training_step(self, batch, batch_idx):
        loss = (self.net(batch[0]) - batch[0].sum(1, keepdim=True)).square().mean()
        self.seen.append(batch_idx)
        self.log("train_loss", loss, prog_bar=True)
        return loss * torch.inf if self.global_step in self.poisoned else loss

    def configure_optimizers(self):
        optimizer = self.record(SGD(self.parameters(), lr=0.1, momentum=0.9))
        return optimizer if self.scheduler is None else ([optimizer], [self.scheduler(optimizer)])


class Validated(Net):
    def validation_step(self, batch, batch_idx):
        self.log("val_loss", (self.net(batch[0]) - batch[0].sum(1, keepdim=True)).square().mean())


class Pair(L.LightningModule, Recorded):
    """Two optimizers, each stepped in the batches that `when` has for it."""

    def __init__(self, optimizers=None, when=(1, 1)):
        super().__init__()
        torch.manual_seed(0)
        self.automatic_optimization = False
        self.first, self.second, self.when = nn.Linear(4, 4), nn.Linear(4, 1), when
        self.make = optimizers or (lambda a, b: (SGD(a, lr=0.2, momentum=0.9), SGD(b, lr=0.02, momentum=0.9)))
        self.used, self.others = [], []

    def training_step(self, batch, batch_idx):
        for optimizer, every in zip(self.optimizers(), self.when, strict=True):
            if (batch_idx + 1) % every == 0:
                loss = (self.second(self.first(batch[0])) - 1).square().mean()
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()

    def configure_optimizers(self):
        first, second = self.make(self.first.parameters(), self.second.parameters())
        return [self.record(first), self.record(second, self.others)]


class Endless(IterableDataset):
    def __iter__(self):
        return (((torch.arange(4.0) * i).sin(),) for i in range(1000))


class SteppedTimer(L.callbacks.Timer):
    """A clock that goes on by a second with each batch."""

    now = 0.0

    def on_train_batch_end(self, *args):
        self.now += 1
        super().on_train_batch_end(*args)

    def time_elapsed(self, stage="train"):
        return self.now

    def load_state_dict(self, state):
        self.now = state["time_elapsed"]["train"]


def data(samples=23, size=3, alike=False, **options):
    """Batches, the last of which is smaller; or 8 `alike`, since Lightning begins an epoch anew where it goes on."""
    x = torch.randn(samples, 4, generator=torch.Generator().manual_seed(0))
    x = x[:3].repeat(8, 1) if alike else x
    return DataLoader(TensorDataset(x), batch_size=size, **options)


def fit(module, loader=None, policy=None, package=L, ckpt_path=None, callbacks=(), **options):
    policy = LightningPolicy(POLICY) if policy is None else policy
    trainer = package.Trainer(
        callbacks=[policy, *callbacks], **{**QUIET, "enable_checkpointing": False, "max_epochs": 2, **options}
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        trainer.fit(module, data() if loader is None else loader, ckpt_path=ckpt_path)
    return trainer


def curve(updates, policy=POLICY):
    return [tuple(policy(k / (updates - 1)).values()) for k in range(updates)]


@pytest.mark.parametrize(
    ("options", "updates"),
    [
        ({}, 16),
        ({"accumulate_grad_batches": 3}, 6),
        ({"max_steps": 5}, 5),
        ({"max_steps": 100}, 16),
        ({"max_steps": 11, "max_epochs": -1}, 11),
        ({"limit_train_batches": 5, "accumulate_grad_batches": 2}, 6),
        ({"limit_train_batches": 0.5}, 8),
        ({"callbacks": [L.callbacks.GradientAccumulationScheduler({0: 4, 1: 2})]}, 6),
        ({"overfit_batches": 2, "max_epochs": 3}, 6),
        ({"precision": "bf16-mixed"}, 16),
    ],
)
def test_each_update_has_the_value_of_its_place_among_those_that_the_trainer_makes(options, updates):
    module = Net()
    fit(module, **options)
    assert module.used == curve(updates)


def test_both_packages_take_it():
    class Other(PL.LightningModule, Recorded):
        training_step, configure_optimizers, __init__ = Net.training_step, Net.configure_optimizers, init

    module = Other()
    fit(module, package=PL)
    assert module.used == curve(16)


def init(self):
    PL.LightningModule.__init__(self)
    self.net, self.scheduler, self.poisoned, self.used, self.seen = nn.Linear(4, 1), None, (), [], []


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (LightningPolicy("torch", 0.05, momentum=(0.9, 0.8)), preset("torch", 0.05, 16, momentum=(0.9, 0.8))),
        (LightningPolicy(lambda updates: preset("torch", 1 / updates, updates)), preset("torch", 1 / 16, 16)),
    ],
)
def test_a_policy_may_depend_on_the_number_of_updates(policy, expected):
    module = Net()
    fit(module, policy=policy)
    assert module.used == curve(16, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy": "onecycle", "lr_max": 0.1}, "did you mean one_cycle"),
        ({"lr_max": None}, "lr_max is the peak learning rate"),
        ({"policy": "one_cycle", "lr_max": 0.1, "div": 3}, "no option 'div'"),
        ({"policy": POLICY, "lr_max": 0.1}, "name of a preset with its lr_max; received .* with .*0.1"),
        ({"policy": 3}, "policy is a Policy, a function from the number of updates to one, or the name"),
        ({"policy": POLICY, "updates": 0}, "updates is the number of updates of the whole run"),
    ],
)
def test_bad_arguments_are_refused_at_once(arguments, message):
    with pytest.raises(ConfigError, match=message):
        LightningPolicy(**arguments)


def test_a_function_that_makes_no_policy_is_refused_before_the_first_update():
    module = Net()
    with pytest.raises(ConfigError, match="policy returns a Policy for 16 updates; received None"):
        fit(module, policy=LightningPolicy(lambda updates: None))
    assert module.used == []


@pytest.mark.parametrize(("automatic", "loader"), [(True, "endless"), (False, "endless"), (True, "endless epochs")])
def test_an_unknown_number_of_updates_is_asked_for_before_the_first(automatic, loader):
    module = Net() if automatic else Pair()
    loader, options = (data(), {"max_epochs": -1}) if "epochs" in loader else (DataLoader(Endless(), 5), {})
    with pytest.raises(ConfigError, match=r"not known: .*max_steps=-1.*max_steps=1000 or max_time=.*updates=1000"):
        fit(module, loader, **options)
    assert module.used == []


@pytest.mark.parametrize("options", [{"max_steps": 7}, {"limit_train_batches": 7, "max_epochs": 1}])
def test_of_data_without_a_length_a_limit_tells_the_number_of_updates(options):
    module = Net()
    fit(module, DataLoader(Endless(), 5), **options)
    assert module.used == curve(7)


def test_a_number_of_updates_may_be_given():
    module = Net()
    fit(module, DataLoader(Endless(), 5), LightningPolicy(POLICY, updates=9), limit_train_batches=9, max_epochs=1)
    assert module.used == curve(9)
    with pytest.warns(UserWarning, match="update 6 of a policy over 5: the values stay at their last"):
        fit(module, policy=LightningPolicy(POLICY, updates=5), max_epochs=1)
    assert module.used[9:] == [*curve(5), *curve(5)[-1:] * 3]


# Several optimizers, in manual optimization


@pytest.mark.parametrize(("options", "updates"), [({}, 16), ({"max_steps": 10}, 5), ({"max_steps": 2000}, 16)])
def test_in_manual_optimization_a_batch_has_its_place_and_optimizers_their_proportions(options, updates):
    """Of two optimizers each step counts in `global_step`, and so in `max_steps`."""
    module = Pair()
    fit(module, **options)
    assert module.used == curve(updates)
    assert [lr for lr, _ in module.others] == pytest.approx([lr / 10 for lr, _ in module.used])
    assert [m for _, m in module.others] == [m for _, m in module.used]


def test_muon_and_adamw_keep_their_proportion():
    def optimizers(first, second):
        weight, bias = first
        return Muon([{"params": [weight], "momentum": 0.95}], lr=0.02), AdamW([bias, *second], lr=3e-4)

    module = Pair(optimizers)
    fit(module, policy=LightningPolicy("one_cycle", 0.02))
    expected = [lr for lr, _ in curve(16, Policy({"lr": preset("one_cycle", 0.02).schedules["lr"], "momentum": 0}))]
    assert [lr for lr, _ in module.used] == pytest.approx(expected)
    assert [lr for lr, _ in module.others] == pytest.approx([lr * 3e-4 / 0.02 for lr in expected])


@pytest.mark.parametrize("when", [(4, 1), (4, 4)])
def test_a_module_that_steps_when_it_likes_goes_through_the_whole_policy(when):
    """As a critic that steps more often than a generator, or with accumulation of its own."""
    module = Pair(when=when)
    fit(module, policy=LightningPolicy("linear", 1.0))
    assert [lr for lr, _ in module.used] == pytest.approx([1 - k / 15 for k in range(3, 16, 4)])


def test_updates_that_are_given_are_those_of_the_optimizer_that_steps_most():
    module = Pair(when=(4, 1))
    fit(module, policy=LightningPolicy("linear", 1.0, updates=16))
    assert [lr for lr, _ in module.others] == pytest.approx([0.1 * (1 - k / 15) for k in range(16)])


# Time


def test_under_a_limit_of_time_progress_is_its_elapsed_share():
    module = Net()
    fit(module, policy=LightningPolicy("linear", 1.0), max_epochs=-1, callbacks=[SteppedTimer({"seconds": 10})])
    assert [lr for lr, _ in module.used] == pytest.approx([1 - k / 10 for k in range(10)])


@pytest.mark.parametrize(("seconds", "used"), [(10, [k / 10 for k in range(10)]), (100, [k / 15 for k in range(16)])])
@pytest.mark.parametrize("kind", [Net, Pair])
def test_of_time_and_updates_what_ends_first_counts(kind, seconds, used):
    module = kind()
    fit(module, policy=LightningPolicy("linear", 1.0), callbacks=[SteppedTimer({"seconds": seconds})])
    assert [lr for lr, _ in module.used] == pytest.approx([1 - share for share in used])


def test_a_trainer_with_max_time_needs_no_other_limit():
    module = Net()
    fit(module, max_epochs=None, max_time={"seconds": 0.3})
    assert module.used[0][0] < 0.01 and max(lr for lr, _ in module.used) <= 0.05


# fp16


def half() -> MixedPrecision:
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1.0))


def test_steps_that_fp16_skips_are_no_updates():
    """T = 10 with three overflows: seven updates, at the first seven places."""
    module, policy = Net(poisoned=(2, 3, 7)), LightningPolicy(POLICY)
    trainer = fit(module, policy=policy, plugins=[half()], max_steps=10)
    assert trainer.global_step == 10 and module.used == curve(10)[:7] and policy.state_dict()["position"] == 7


# Checkpoints


def checkpoints(folder):
    return L.callbacks.ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)


@pytest.mark.parametrize("done", [1, 3, 4, 6])
def test_a_run_goes_on_from_a_checkpoint_in_mid_epoch_as_if_unbroken(tmp_path, done):
    options = {"accumulate_grad_batches": 2, "enable_checkpointing": True}
    module = Net()
    fit(module, data(alike=True), callbacks=[checkpoints(tmp_path)], **options)
    assert module.used == curve(8)
    path = tmp_path / f"step={done}.ckpt"
    saved = torch.load(path, weights_only=True)["callbacks"]["LightningPolicy"]
    assert saved == {"position": done, "updates": 8, "progress": done / 7, "stretched": [0, 0]}
    resumed = Net()
    fit(resumed, data(alike=True), ckpt_path=path, callbacks=[checkpoints(tmp_path / "again")], **options)
    assert resumed.used == module.used[done:]
    assert all(map(torch.equal, resumed.state_dict().values(), module.state_dict().values()))


def test_several_optimizers_go_on_too(tmp_path):
    module, resumed = Pair(), Pair()
    fit(module, callbacks=[checkpoints(tmp_path)], enable_checkpointing=True)
    fit(resumed, ckpt_path=tmp_path / "step=10.ckpt")
    assert resumed.used == module.used[5:] and resumed.others == module.others[5:]
    saved = torch.load(tmp_path / "step=10.ckpt", weights_only=True)["callbacks"]["LightningPolicy"]
    place = {"position": 5, "updates": 16, "progress": 4 / 15, "stretched": [0, 0]}  # that of the batch before
    assert saved == {"scales": pytest.approx([1, 0.1]), "stepped": [], **place}


def test_a_limit_of_time_goes_on_at_what_was_left_of_it(tmp_path):
    module, resumed, options = Net(), Net(), {"max_epochs": -1, "enable_checkpointing": True}
    fit(module, callbacks=[SteppedTimer({"seconds": 12}), checkpoints(tmp_path)], **options)
    fit(resumed, ckpt_path=tmp_path / "step=5.ckpt", callbacks=[SteppedTimer({"seconds": 12})], max_epochs=-1)
    assert len(module.used) == 12 and resumed.used == module.used[5:]


def test_fp16_goes_on_at_the_updates_applied(tmp_path):
    module, resumed = Net(poisoned=(1, 2)), Net()
    options = {"plugins": [half()], "max_steps": 10}
    fit(module, callbacks=[checkpoints(tmp_path)], enable_checkpointing=True, **options)
    fit(resumed, ckpt_path=tmp_path / "step=6.ckpt", **options)
    assert resumed.used == module.used[4:] == curve(10)[4:8]


def test_a_checkpoint_without_the_policy_is_gone_on_from_at_its_step(tmp_path):
    fit(Net(), policy=L.Callback(), callbacks=[checkpoints(tmp_path)], enable_checkpointing=True)
    module = Net()
    fit(module, ckpt_path=tmp_path / "step=5.ckpt")
    assert module.used == curve(16)[5:]


def stretched(at, total, progress):
    """The learning rates from `at` on, where the progress was `progress`, to the end of the curve at `total`."""
    left = total - 1 - at
    return [POLICY(progress + k / left * (1 - progress))["lr"] for k in range(left + 1)]


@pytest.mark.parametrize("epochs", [1, 3])
def test_over_another_length_the_rest_of_the_curve_is_stretched_and_said_once(tmp_path, epochs):
    """It goes on where it was, without a jump, and so does a run from a checkpoint of that one, over any length."""
    module, resumed, again, third = Net(), Net(), Net(), Net()
    saving = {"enable_checkpointing": True}
    fit(module, callbacks=[checkpoints(tmp_path)], **saving)
    said = f"goes on after update 5 and has {8 * epochs} in all; before it had 16 in all: the rest of the schedule is"
    options = {"callbacks": [checkpoints(tmp_path / "other")], "max_epochs": epochs, **saving}
    with pytest.warns(UserWarning, match=said) as warned:
        fit(resumed, ckpt_path=tmp_path / "step=5.ckpt", **options)
    assert len([w for w in warned if "goes on" in str(w.message)]) == 1
    rates = [lr for lr, _ in resumed.used]
    assert rates == pytest.approx(stretched(5, 8 * epochs, 5 / 15)) and rates[0] == module.used[5][0]
    fit(again, ckpt_path=tmp_path / "other" / "step=6.ckpt", max_epochs=epochs)
    assert again.used == resumed.used[1:]
    with pytest.warns(UserWarning, match=f"after update 6 and has 32 in all; before it had {8 * epochs} in all"):
        fit(third, ckpt_path=tmp_path / "other" / "step=6.ckpt", max_epochs=4)
    progress = 5 / 15 + 1 / (8 * epochs - 6) * 10 / 15
    assert [lr for lr, _ in third.used] == pytest.approx(stretched(6, 32, progress))


@pytest.mark.parametrize("epochs", [1, 3])
def test_over_another_number_of_batches_too(tmp_path, epochs):
    """In manual optimization, where the last batch before a checkpoint tells how far it is."""
    module, resumed = Pair(), Pair()
    fit(module, callbacks=[checkpoints(tmp_path)], enable_checkpointing=True)
    with pytest.warns(UserWarning, match="after update 5 and has .* stretched"):
        fit(resumed, ckpt_path=tmp_path / "step=10.ckpt", max_epochs=epochs)
    assert resumed.used[0] == module.used[4] and resumed.used[-1] == pytest.approx(module.used[-1])
    assert [lr for lr, _ in resumed.used] == pytest.approx(stretched(5, 8 * epochs, 4 / 15))


def test_from_a_count_to_a_limit_of_time_the_rest_is_stretched(tmp_path):
    module, policy = Net(), preset("linear", 1.0)
    fit(Net(), policy=LightningPolicy(policy), callbacks=[checkpoints(tmp_path)], enable_checkpointing=True)
    with pytest.warns(UserWarning, match="after update 6 and has a limit of time alone; before it had 16 in all"):
        timer = SteppedTimer({"seconds": 10})
        timer.load_state_dict = lambda state: None
        fit(module, None, LightningPolicy(policy), L, tmp_path / "step=6.ckpt", [timer], max_epochs=-1)
    assert [lr for lr, _ in module.used] == pytest.approx([(1 - 6 / 15) * (1 - k / 10) for k in range(10)])


def test_a_policy_at_its_end_is_not_stretched():
    module, policy = Net(), LightningPolicy(POLICY)
    trainer = fit(module, policy=policy, max_epochs=1)
    trainer.fit_loop.max_epochs = 2
    with pytest.raises(ConfigError, match=r'left to stretch after 8 of 8 updates: .* LightningPolicy\("extension", lr'):
        trainer.fit(module, data())
    fit(module, policy=LightningPolicy("extension", 0.02), max_epochs=1)
    assert module.used[:8] == curve(8) and [lr for lr, _ in module.used[8:]][-1] < 0.002 and len(module.used) == 16


def test_a_new_trainer_begins_anew():
    module, policy = Net(), LightningPolicy(POLICY)
    fit(module, policy=policy)
    fit(module, policy=policy, max_epochs=1)
    assert module.used == [*curve(16), *curve(8)]


def test_updates_of_the_rest_alone_are_refused(tmp_path):
    fit(Net(), callbacks=[checkpoints(tmp_path)], enable_checkpointing=True)
    with pytest.raises(ConfigError, match="after update 9, and updates=7 are those of the whole run"):
        fit(Net(), policy=LightningPolicy(POLICY, updates=7), ckpt_path=tmp_path / "step=9.ckpt")


# A training that ends early


class Stopping(L.Callback):
    """Ends a training after so many batches, as EarlyStopping does, or by an exception."""

    def __init__(self, after, error=None):
        self.after, self.error = after, error

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        trainer.should_stop = batch_idx + 1 == self.after
        if trainer.should_stop and self.error is not None:
            raise self.error


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        (Net, {}, "after 3 of 16 updates of its policy"),
        (Net, {"callbacks": [SteppedTimer({"seconds": 10})]}, r"after 30\.00 % of its policy"),
        (Pair, {}, r"after 13\.33 % of its policy"),
    ],
)
def test_an_end_in_the_middle_is_said_once(kind, options, said):
    with pytest.warns(UserWarning, match=said) as warned:
        fit(kind(), **{**options, "callbacks": [*options.get("callbacks", []), Stopping(3)]})
    assert len([w for w in warned if "training ended" in str(w.message)]) == 1


@pytest.mark.parametrize("error", [RuntimeError("of the user"), None])
def test_an_end_that_is_said_otherwise_or_near_enough_is_not(error):
    module, stopping = Net(), Stopping(3, error) if error else Stopping(23)
    with warnings.catch_warnings(), contextlib.suppress(RuntimeError):
        warnings.filterwarnings("error", message="training ended")
        fit(module, data(48, 2), callbacks=[stopping], max_epochs=1)
    assert len(module.used) == (3 if error else 23)


def test_a_state_of_another_trainer_is_not_that_of_a_checkpoint(tmp_path):
    fit(Net(), policy=L.Callback(), callbacks=[checkpoints(tmp_path)], enable_checkpointing=True)
    policy, module = LightningPolicy(POLICY), Net()
    fit(Net(), policy=policy)
    fit(module, policy=policy, ckpt_path=tmp_path / "step=5.ckpt")
    assert module.used == curve(16)[5:]


# Others on the same optimizer


def test_the_policy_wins_over_a_scheduler_of_the_module_and_says_so_once():
    module = Net(
        lambda optimizer: {"scheduler": torch.optim.lr_scheduler.OneCycleLR(optimizer, 3.0, 16), "interval": "step"}
    )
    with pytest.warns(UserWarning, match="policy wins over OneCycleLR of configure_optimizers") as said:
        fit(module)
    assert module.used == curve(16) and len([w for w in said if "wins" in str(w.message)]) == 1


@pytest.mark.parametrize("package", [L, PL])
def test_averaging_with_learning_rates_of_its_own_is_refused(package):
    policy, averaging = LightningPolicy(POLICY), package.callbacks.StochasticWeightAveraging(swa_lrs=0.05)
    trainer = package.Trainer(callbacks=[policy, averaging], **QUIET, enable_checkpointing=False, max_epochs=3)
    with pytest.raises(ConfigError, match=r"StochasticWeightAveraging has learning rates .* leave one of the two out"):
        policy.setup(trainer, None, "fit")
    module = Net()
    if package is L:
        with pytest.raises(ConfigError, match="StochasticWeightAveraging"):
            trainer.fit(module, data())
    assert module.used == [] and trainer.max_epochs == 3


def test_averaging_alone_leaves_the_policy_as_it_is():
    module = Net()
    fit(module, callbacks=[L.callbacks.WeightAveraging()])
    assert module.used == curve(16)


def test_a_second_policy_on_an_optimizer_is_refused():
    module = Net(lambda optimizer: PolicyScheduler(optimizer, POLICY, 16))
    with pytest.raises(ConfigError, match="already has a policy attached, by a PolicyScheduler"):
        fit(module)
    assert module.used == []


def test_after_an_error_the_optimizer_is_free():
    class Broken(Net):
        def on_train_epoch_start(self):
            raise RuntimeError("of the user")

    module, policy = Broken(), LightningPolicy(POLICY)
    with pytest.raises(RuntimeError, match="of the user"):
        fit(module, policy=policy)
    assert policy.driver is None


def test_an_optimizer_without_momentum_is_left_without():
    class Plain(Net):
        def configure_optimizers(self):
            return self.record(SGD(self.parameters(), lr=0.1))

    module = Plain()
    fit(module)
    assert module.used == [(lr, 0) for lr, _ in curve(16)]


def test_monitors_see_the_values_of_the_update_to_come():
    module, monitor = Net(), L.callbacks.LearningRateMonitor("step")
    logged = []
    logger = L.loggers.CSVLogger("unused")
    logger.log_metrics = lambda metrics, step: logged.append(metrics.get("lr-SGD"))
    logger.save = logger.log_hyperparams = logger.finalize = lambda *args: None
    fit(module, callbacks=[monitor], logger=logger, log_every_n_steps=1)
    assert [lr for lr in logged if lr is not None] == [lr for lr, _ in module.used]


# Ranks


class Ranked(LightningPolicy):
    """Notes what each rank finds and uses, and has a policy of its own there where there are several."""

    def __init__(self, folder, *policies):
        super().__init__(policies[0])
        self.folder, self.policies = folder, policies

    def on_train_start(self, trainer, module):
        test = lr_find(trainer, module, train_dataloaders=data(1000, 100), updates=60, repeats=1)
        self.peak = test.lr_max
        assert "an update of the Trainer takes 2 of them" in test.notes[-1]
        self.policy = self.policies[trainer.global_rank % len(self.policies)]
        super().on_train_start(trainer, module)

    def on_train_end(self, trainer, module):
        super().on_train_end(trainer, module)
        (self.folder / f"{trainer.global_rank}.json").write_text(json.dumps([self.peak, module.used]))


RANKS = {"strategy": "ddp_fork", "devices": 2}


def test_ranks_have_the_same_values_over_the_updates_that_they_make_together(tmp_path):
    """23 samples on two ranks, 3 a batch: 4 batches a rank and epoch."""
    fit(Net(), policy=Ranked(tmp_path, POLICY), **RANKS)
    (peak, used), other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert [peak, used] == other and 0.1 < peak < 0.3
    assert [tuple(each) for each in used] == curve(8)


def test_ranks_with_policies_of_their_own_are_refused(tmp_path):
    with pytest.raises(Exception, match="the ranks have different policies"):
        fit(Net(), policy=Ranked(tmp_path, POLICY, preset("fastai", 0.06)), **RANKS)


# The range test


class Data(L.LightningDataModule):
    def setup(self, stage):
        self.order = random.random()

    def train_dataloader(self):
        return data(200, 8, shuffle=True, generator=torch.Generator().manual_seed(3))

    def val_dataloader(self):
        return data(100, 50)


def trainer_of(**options):
    return L.Trainer(**QUIET, **{"max_epochs": 2, "enable_checkpointing": False, **options})


def bits(*things):
    """Everything of modules, and what their attributes are."""
    kept = []
    for thing in things:
        kept.append({k: v if not isinstance(v, dict | list) else copy.copy(v) for k, v in vars(thing).items()})
        if isinstance(thing, nn.Module):
            kept.append([(k, v.clone(), v.grad) for k, v in thing.state_dict(keep_vars=True).items()])
            kept.append([module.training for module in thing.modules()])
    return kept


def test_the_range_test_leaves_no_trace(tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.chdir(tmp_path)
    module, datamodule, trainer = Validated(), Data(), trainer_of(default_root_dir=tmp_path)
    module.net[3].weight.grad = torch.ones(1, 8)
    things = module, datamodule, trainer, trainer.fit_loop, trainer.strategy
    capsys.readouterr()
    caplog.clear()
    before, generators = bits(*things), (torch.get_rng_state(), random.getstate())
    test = lr_find(trainer, module, datamodule, updates=80, repeats=1)
    assert 0.001 < test.lr_max < 10 and test.cost["evaluations"] > 5
    for old, new in zip(before, bits(*things), strict=True):
        assert equal(old, new)
    assert torch.equal(generators[0], torch.get_rng_state()) and generators[1] == random.getstate()
    assert list(tmp_path.iterdir()) == [] and module.seen == []
    assert capsys.readouterr() == ("", "") and not [r for r in caplog.records if r.levelname == "INFO"]


def equal(old, new) -> bool:
    if isinstance(old, torch.Tensor):
        return torch.equal(old, new)
    if isinstance(old, dict):
        return old.keys() == new.keys() and all(equal(old[k], new[k]) for k in old)
    if isinstance(old, list | tuple):
        return len(old) == len(new) and all(map(equal, old, new))
    return old is new or old == new


def test_it_is_the_range_test_of_a_loop_by_hand():
    module, loader = Net(), data(200, 8, shuffle=True)
    test = lr_find(trainer_of(), module, train_dataloaders=loader, updates=60, repeats=1)
    optimizer = module.configure_optimizers()

    def step(batch):
        loss = (module.net(batch[0]) - batch[0].sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    by_hand = range_test(step, optimizer, loader, updates=60, repeats=1)
    assert test.curve == by_hand.curve and test.lr_max == by_hand.lr_max and test.batch_norm


@pytest.mark.parametrize(
    "options", [{"accumulate_grad_batches": 4}, {"gradient_clip_val": 0.1}, {"precision": "bf16-mixed"}]
)
def test_updates_are_made_as_the_trainer_makes_them(options):
    module, loader = Net(), data(1000, 100)
    plain = lr_find(trainer_of(), module, train_dataloaders=loader, updates=60, repeats=1)
    test = lr_find(trainer_of(**options), module, train_dataloaders=loader, updates=60, repeats=1)
    assert test.curve != plain.curve and test.lr_max is not None
    assert test.curve.sweeps[0].loss[0] == pytest.approx(plain.curve.sweeps[0].loss[0], rel=0.3)


def test_fp16_and_several_optimizers_are_tested_too():
    loader = data(1000, 100)
    assert lr_find(trainer_of(plugins=[half()]), Net(), train_dataloaders=loader, updates=60, repeats=1).lr_max
    assert lr_find(trainer_of(), Pair(), train_dataloaders=loader, updates=60, repeats=1).lr_max


def test_schedulers_of_the_module_do_not_take_part():
    def cycle(optimizer):
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3.0, 16, cycle_momentum=False)
        return {"scheduler": scheduler, "interval": "step"}

    loader = data(1000, 100)
    plain, cycled, other = (
        lr_find(trainer_of(), Net(scheduler), train_dataloaders=loader, updates=60, repeats=1).lr_max
        for scheduler in (None, cycle, lambda optimizer: PolicyScheduler(optimizer, preset("linear", 1.0), 16))
    )
    assert plain == cycled == other


def test_schedulers_that_a_module_steps_itself_are_there():
    class Stepped(Pair):
        def training_step(self, batch, batch_idx):
            super().training_step(batch, batch_idx)
            self.lr_schedulers().step()

        def configure_optimizers(self):
            optimizers = super().configure_optimizers()
            return optimizers, [torch.optim.lr_scheduler.OneCycleLR(optimizers[0], 3.0, 16)]

    assert lr_find(trainer_of(), Stepped(), train_dataloaders=data(1000, 100), updates=60, repeats=1).lr_max


def test_a_compiled_module_is_tested_uncompiled():
    loader = data(1000, 100)
    tests = [
        lr_find(trainer_of(), module, train_dataloaders=loader, updates=60, repeats=1)
        for module in (Net(), torch.compile(Net()))
    ]
    assert tests[0].curve == tests[1].curve


def test_a_loader_with_a_generator_of_its_own_is_left_as_it_was():
    generator = torch.Generator().manual_seed(3)
    before = generator.get_state()
    loader = data(1000, 100, shuffle=True, generator=generator)
    lr_find(trainer_of(), Validated(), train_dataloaders=loader, val_dataloaders=loader, updates=60, repeats=1)
    assert torch.equal(generator.get_state(), before)


DATAMODULE = [((), {"datamodule": Data()}), ((Data(),), {})]


def test_data_have_the_places_that_they_have_in_fit():
    loader, options = data(1000, 100), {"updates": 60, "repeats": 1}
    named = lr_find(trainer_of(), Validated(), train_dataloaders=loader, val_dataloaders=loader, **options)
    placed = lr_find(trainer_of(), Validated(), loader, loader, **options)
    assert placed.curve == named.curve and placed.lr_max == named.lr_max
    assert lr_search(trainer_of(), Validated(), loader, loader, updates=1000).pilots
    named, placed = (lr_find(trainer_of(), Net(), *at, **by, **options) for at, by in DATAMODULE)
    assert placed.curve == named.curve


def test_pilots_search_the_peak():
    module = Validated()
    found = lr_search(trainer_of(), module, Data(), updates=1000)
    assert found.pilots and found.lr_max > 0 and module.seen == []


def test_what_cannot_be_tested_is_refused():
    class Silent(Net):
        def training_step(self, batch):
            return None

    for train, message in ((data(), "returned no loss"), ({"a": data()}, "train_dataloader has one loader")):
        with pytest.raises(ConfigError, match=message):
            lr_find(trainer_of(), Silent(), train_dataloaders=train)
    with pytest.raises(ConfigError, match="trains nothing: max_epochs=0"):
        lr_find(trainer_of(max_epochs=0), Net(), train_dataloaders=data())
    with pytest.raises(ConfigError, match="the datamodule or loaders"):
        lr_find(trainer_of(), Net(), data(), datamodule=Data())
    with pytest.raises(ConfigError, match="the datamodule or loaders"):
        lr_find(trainer_of(), Net(), Data(), data())
    uncopied = Net()
    uncopied.file = open(os.devnull)  # noqa: SIM115
    with uncopied.file, pytest.raises(ConfigError, match="a copy of the module, which cannot be made"):
        lr_find(trainer_of(), uncopied, train_dataloaders=data())


def test_ctrl_c_ends_it_with_an_error_of_ours():
    class Stopped(Net):
        def training_step(self, batch, batch_idx):
            os.kill(os.getpid(), signal.SIGINT)
            return super().training_step(batch, batch_idx)

    with pytest.raises(Interrupted, match="range test was stopped by SIGINT"):
        lr_find(trainer_of(), Stopped(), train_dataloaders=data())
