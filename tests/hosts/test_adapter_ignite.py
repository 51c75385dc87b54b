"""Policies in Ignite's own engines."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from onecycle import Driver, Piecewise, Policy, one_cycle, preset, range_test
from onecycle.errors import CheckpointError, ConfigError
from onecycle.optim import driver
from onecycle.schedules.policy import position

pytest.importorskip("ignite.engine")
from ignite.engine import Engine, Events, create_supervised_trainer, supervised_training_step
from ignite.handlers import Checkpoint, DiskSaver, LinearCyclicalScheduler

from onecycle.adapters.ignite import PolicyHandler

BATCHES = [(torch.ones(2, 3), torch.ones(2, 1))] * 5
UP_AND_DOWN = Policy({"lr": Piecewise(((0, 0.5), (0.5, 1.0), (1, 0.0)))})


def made(optimizer=torch.optim.SGD, **more):
    """A trainer, its optimizer, and the values that each step of it uses."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    settings = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
    optimizer = optimizer(model.parameters(), lr=1.0, **settings)
    seen = []

    def note(optimizer, args, kwargs):
        group = optimizer.param_groups[0]
        seen.append((group["lr"], group["betas"][0] if "betas" in group else group.get("momentum")))

    optimizer.register_step_post_hook(note)
    return create_supervised_trainer(model, optimizer, nn.MSELoss(), **more), model, optimizer, seen


def values(updates):
    policy = preset("fastai", 0.1)
    return [(v["lr"], v["momentum"]) for v in (policy(position(k, updates)) for k in range(updates))]


def attached(trainer, optimizer, **more):
    handler = PolicyHandler(preset("fastai", 0.1), optimizer, **more)
    handler.attach(trainer)
    return handler


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_each_update_uses_the_values_of_its_position(optimizer):
    trainer, _, optimizer, seen = made(optimizer)
    handler = attached(trainer, optimizer)
    trainer.run(BATCHES, max_epochs=3)
    assert seen == values(15) and handler.state_dict() == {"position": 15}
    assert driver.attached(optimizer) is None  # a run that is over lets go of the optimizer
    trainer.state.max_epochs = None
    trainer.run(BATCHES, max_epochs=2)
    assert seen[15:] == values(10)  # a new run is a new cycle


def test_an_optimizer_without_momentum_stays_without():
    trainer, _, optimizer, seen = made(torch.optim.Adagrad)
    attached(trainer, optimizer)
    trainer.run(BATCHES, max_epochs=1)
    assert [(lr, None) for lr, _ in values(5)] == seen


def test_accumulated_iterations_do_not_count():
    trainer, _, optimizer, seen = made(gradient_accumulation_steps=4)
    attached(trainer, optimizer, accumulate=4)
    trainer.run(BATCHES, max_epochs=4)
    assert seen == values(5)


def test_a_number_of_iterations():
    trainer, _, optimizer, seen = made()
    attached(trainer, optimizer)
    trainer.run(BATCHES, max_iters=7)
    assert seen == values(7)


@pytest.mark.parametrize("with_policy", [True, False])
@pytest.mark.parametrize("epochs", [1, 2])
def test_a_checkpoint_goes_on_exactly(tmp_path, with_policy, epochs):
    """Ignite's own Checkpoint, with the handler in it, and with the trainer alone."""

    def parts(trainer, model, optimizer, handler):
        more = {"policy": handler} if with_policy else {}
        return {"trainer": trainer, "model": model, "optimizer": optimizer, **more}

    trainer, model, optimizer, _ = made()
    handler = attached(trainer, optimizer)
    saver = Checkpoint(parts(trainer, model, optimizer, handler), DiskSaver(tmp_path, create_dir=False))
    trainer.add_event_handler(Events.EPOCH_COMPLETED(once=epochs), saver)
    trainer.run(BATCHES, max_epochs=3)

    trainer, resumed, optimizer, seen = made()
    handler = attached(trainer, optimizer)
    saved = torch.load(next(tmp_path.glob("*.pt")), weights_only=True)
    Checkpoint.load_objects(parts(trainer, resumed, optimizer, handler), saved)
    trainer.run(BATCHES)
    assert seen == values(15)[5 * epochs :]
    assert resumed.weight.equal(model.weight)


def test_a_terminated_run_goes_on():
    trainer, _, optimizer, seen = made()
    attached(trainer, optimizer)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=10), trainer.terminate)
    trainer.run(BATCHES, max_epochs=3)
    assert seen == values(15)[:10]
    trainer.run(BATCHES)
    assert seen == values(15)


def test_a_run_that_ends_in_the_middle_is_said(recwarn):
    trainer, _, optimizer, seen = made()
    attached(trainer, optimizer)
    trainer.add_event_handler(Events.ITERATION_COMPLETED(once=7), trainer.terminate)
    trainer.run(BATCHES, max_epochs=3)
    assert len(seen) == 7 and not recwarn  # it was meant
    with pytest.warns(UserWarning, match="the run ended after 12 of 15 updates of its policy"):
        trainer.run(BATCHES)  # Ignite begins the next epoch
    assert seen == values(15)[:12]
    trainer, _, optimizer, seen = made(gradient_accumulation_steps=5)
    attached(trainer, optimizer)
    with pytest.warns(UserWarning, match="the run ended after 3 of 15 updates .* or the accumulate of the trainer"):
        trainer.run(BATCHES, max_epochs=3)


def two_optimizers(lrs, begin=0):
    """An engine that steps two optimizers in turn, a handler of both, and the learning rates that the steps use."""
    optimizers = [torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr) for lr in lrs]
    used = []

    def step(engine, batch):
        optimizer = optimizers[(begin + len(used)) % 2]
        optimizer.step()
        used.append(optimizer.param_groups[0]["lr"])

    handler = PolicyHandler(UP_AND_DOWN, optimizers, updates=5)
    handler.attach(engine := Engine(step))
    return engine, handler, used


@pytest.mark.parametrize("done", [1, 5, 6])
def test_several_optimizers_go_on_even_within_an_update(done):
    engine, handler, used = two_optimizers([1.0, 0.1])
    at_first, saved = handler.state_dict(), {}
    engine.add_event_handler(Events.ITERATION_COMPLETED(once=done), lambda: saved.update(handler.state_dict()))
    engine.run([0] * 10, max_epochs=1)
    shares = [share * UP_AND_DOWN(k / 4)["lr"] for k in range(5) for share in (1, 0.1)]
    assert used == pytest.approx(shares) and handler.state_dict()["position"] == 5
    engine.state.max_epochs = None
    engine.run([0] * 10, max_epochs=1)
    assert used[10:] == pytest.approx(shares)  # a new run is a new cycle, though the learning rates ended at 0

    engine, handler, used = two_optimizers([7.0, 7.0], begin=done)
    handler.load_state_dict(at_first)
    handler.load_state_dict(saved)
    assert handler.state_dict() == saved
    engine.run([0] * (10 - done), max_epochs=1)
    assert used == pytest.approx(shares[done:])


def test_a_terminated_run_of_several_optimizers_goes_on():
    engine, _, used = two_optimizers([1.0, 0.1])
    engine.add_event_handler(Events.ITERATION_COMPLETED(once=5), engine.terminate)
    engine.run([0] * 5, max_epochs=2)
    engine.run([0] * 5)
    assert used[5:] == pytest.approx([share * UP_AND_DOWN(k / 4)["lr"] for k in range(5) for share in (1, 0.1)][5:])


def test_layers_that_are_unfrozen_take_part():
    """pytorch/ignite#2703: a parameter group that is added in the middle of a run."""
    trainer, model, _, _ = made()
    optimizer = torch.optim.SGD([model.weight], lr=1.0)
    trainer = create_supervised_trainer(model, optimizer, nn.MSELoss())
    attached(trainer, optimizer)
    seen = []
    optimizer.register_step_post_hook(lambda *_: seen.append([g["lr"] for g in optimizer.param_groups]))
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED(once=2), lambda: optimizer.add_param_group({"params": [model.bias], "lr": 0.3})
    )
    trainer.run(BATCHES, max_epochs=3)
    lrs = [lr for lr, _ in values(15)]
    assert seen == [[lr] for lr in lrs[:10]] + [[lr, lr] for lr in lrs[10:]]


def test_one_policy_for_an_optimizer():
    trainer, _, optimizer, _ = made()
    attached(trainer, optimizer)
    attached(trainer, optimizer)
    with pytest.raises(ConfigError, match="already has a policy attached, by a Driver"):
        trainer.run(BATCHES, max_epochs=1)
    trainer, _, optimizer, _ = made()
    attached(trainer, optimizer)
    other = Driver(one_cycle(0.1), optimizer, updates=5)
    with pytest.raises(ConfigError, match="already has a policy attached, by a Driver"):
        trainer.run(BATCHES, max_epochs=1)
    other.detach()


def test_a_scheduler_of_ignite_is_written_over():
    trainer, _, optimizer, seen = made()
    attached(trainer, optimizer)
    LinearCyclicalScheduler(optimizer, "lr", 7.0, 8.0, cycle_size=4).attach(trainer)
    trainer.run(BATCHES, max_epochs=1)
    assert seen == values(5)


def test_an_unknown_number_of_updates_is_asked_for():
    trainer, _, optimizer, seen = made()
    handler = attached(trainer, optimizer)
    with pytest.raises(ConfigError, match="give run its epoch_length, or PolicyHandler"):
        trainer.run(iter(BATCHES), max_epochs=1)
    handler.detach()
    trainer, _, optimizer, seen = made()
    attached(trainer, optimizer, updates=5)
    trainer.run(iter(BATCHES), max_epochs=1)
    assert seen == values(5)
    with pytest.raises(ConfigError, match="max_epochs x epoch_length / accumulate"):
        trainer, _, optimizer, seen = made()
        attached(trainer, optimizer, accumulate=64)
        trainer.run(BATCHES, max_epochs=1)
    with pytest.raises(CheckpointError, match=r'saved as \{"position": updates applied\}'):
        handler.load_state_dict({"event_index": 3})


def test_a_range_test_of_an_engines_step():
    """pytorch/ignite#1482: a loss that becomes NaN ends the sweep, and everything is as it was."""
    torch.manual_seed(0)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def breaking(outputs, targets):
        loss = nn.functional.mse_loss(outputs, targets)
        return loss * float("nan") if loss > 100 else loss

    step = supervised_training_step(model, optimizer, breaking)
    trainer = create_supervised_trainer(model, optimizer, breaking)
    batches = [(x := torch.randn(256, 3), x.sum(1, keepdim=True)) for _ in range(20)]
    before = model.weight.clone()
    test = range_test(lambda batch: step(trainer, batch), optimizer, batches, model=model)
    assert {sweep.stopped for sweep in test.curve.sweeps} == {"nan"} and model.weight.equal(before)
    assert test.lr_max is not None and test.edge is not None and test.lr_max < test.edge, test.line()
