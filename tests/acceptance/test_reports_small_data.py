"""Small data and short runs: all samples are used, enough updates are made, and what is left out is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from onecycle import Learner
from onecycle.commands.app import main
from onecycle.data.batches import DatasetBatches, as_batches
from onecycle.errors import ConfigError


def samples(n: int, classes: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 4, generator=generator), torch.arange(n) % classes


def learner(n: int, **options) -> Learner:
    torch.manual_seed(0)
    return Learner(nn.Linear(4, 2), samples(n), verbose=False, **options)


def numbers_seen(batches, epoch: int) -> list[int]:
    return sorted(int(i) for batch in batches.epoch(epoch) for i in batch[0])


class Numbers(torch.utils.data.Dataset):
    def __init__(self, n: int):
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int):
        return (torch.tensor(i),)


@pytest.mark.parametrize(("n", "size"), [(20_000, 64), (1_024, 64), (600, 32), (109, 8), (45, 8), (5, 5), (1, 1)])
def test_the_batch_size_fits_the_data(n, size):
    learn = learner(n)
    assert learn.resolved["batch_size"] == size
    assert any(note.startswith(f"batch_size {size}, for {n} training sample") for note in learn.notes) == (size < 64)


def test_a_batch_size_that_is_given_is_kept_and_must_fit():
    assert learner(109, batch_size=50).resolved["batch_size"] == 50
    with pytest.raises(ConfigError, match="batch_size 64 is larger than the data, 45 samples: at most 45"):
        learner(45, batch_size=64)


def test_small_data_make_many_updates_of_all_samples():
    learn = learner(109)
    assert learn.fit(2, lr_max=0.01).updates == 28
    assert [row["samples"] for row in learn.history.epochs] == [109, 109]


@pytest.mark.parametrize("data", [lambda n: (torch.arange(n),), Numbers])
def test_spread_batches_hold_all_samples_and_differ_by_one(data):
    for n, size in ((109, 8), (10, 4), (90, 64), (7, 7), (8, 7), (1, 1), (3, 1)):
        batches = as_batches(data(n), size, spread=True)
        sizes = [len(batch[0]) for batch in batches.epoch(3)]
        assert len(sizes) == len(batches) == -(-n // size) and max(sizes) - min(sizes) <= 1 and max(sizes) <= size
        assert numbers_seen(batches, 3) == list(range(n))
        rest = [batch[0].tolist() for batch in batches.epoch(3, len(batches) - 1)]
        assert rest == [[*batches.epoch(3)][-1][0].tolist()], "a restart in mid-epoch changes nothing"


def test_no_batch_of_one_sample_is_made():
    for n in (3, 5, 21):
        assert min(len(batch[0]) for batch in as_batches((torch.arange(n),), 2, spread=True).epoch(0)) >= 2
    torch.manual_seed(0)
    norm = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    assert Learner(norm, samples(5), batch_size=2, verbose=False).fit(2, lr_max=0.01).updates == 4


def test_workers_give_the_same_batches():
    alone, helped = (DatasetBatches(Numbers(29), 8, workers=workers, spread=True) for workers in (0, 2))
    assert [b[0].tolist() for b in alone.epoch(1, 1)] == [b[0].tolist() for b in helped.epoch(1, 1)]


def test_what_an_epoch_leaves_out_is_small_and_said_and_another_one_each_time():
    learn = learner(1_294)
    assert "each epoch leaves out 14 of 1,294 training samples, others every time: the batches are of one size" in (
        learn.notes
    )
    learn.fit(1, lr_max=0.01)
    assert learn.history.epochs[0]["samples"] == 1_280
    batches = learner(1_294, batch_size=64)._setup.batching.batches((torch.arange(1_294),), training=True)
    assert len({i for epoch in range(3) for i in numbers_seen(batches, epoch)}) == 1_294
    assert not any("leaves out" in note for note in learner(1_300, batch_size=50).notes)
    assert not any("leaves out" in note for note in learner(90, batch_size=64).notes)


def test_a_run_of_few_updates_says_so():
    learn = learner(109)
    learn.fit(2, lr_max=0.01)
    assert "28 updates are few: more epochs or a smaller batch_size would train it further" in learn.notes
    learn = learner(109)
    learn.fit(8, lr_max=0.01)
    assert not any("are few" in note for note in learn.notes)


def test_a_run_on_few_samples_records_the_batch_size_that_it_came_to(tmp_path: Path, capsys):
    x, y = samples(60)
    np.savez(tmp_path / "few.npz", x=x.numpy(), y=y.numpy())
    main(["train", str(tmp_path / "few.npz"), "--model", "mlp", "--epochs", "1", "--out", str(tmp_path / "run")])
    capsys.readouterr()
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["config"]["batch_size"] is None and record["resolved"]["batch_size"] == 8
    assert any("are few" in note for note in record["notes"])


def uneven(n: int = 200, rare: int = 20, noise: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """A rare class that is easily told apart, or of which the inputs tell nothing."""
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(1))
    y = (torch.arange(n) < rare).long()
    x[:, 0] += 0 if noise else 3 * y
    return x, y


def fitted(train, valid, outputs: int = 2, epochs: float = 3, **options) -> tuple[Learner, dict]:
    torch.manual_seed(0)
    learn = Learner(nn.Linear(4, outputs), train, valid, verbose=False, **options)
    return learn, learn.fit(epochs, lr_max=0.05).to_dict()


def said(learn: Learner, words: str) -> list[str]:
    return [note for note in learn.notes if words in note]


def test_a_result_stands_beside_always_saying_the_largest_class():
    learn, result = fitted(uneven(noise=True), uneven(60, 3, noise=True))
    assert result["baseline"] == {"measure": "accuracy", "value": 0.95, "by": "always saying class 0"}
    accuracy = f"{100 * result['valid']['accuracy']:.2f} %"
    beside = f"validation accuracy {accuracy}; always saying class 0 gives 95.00 %"
    assert said(learn, "always") == [f"{beside}: not better by more than the standard error"]
    learn, result = fitted(samples(200), samples(200), epochs=1)
    assert result["baseline"]["value"] == 0.5


def test_a_result_that_is_better_is_not_remarked_on():
    x, y = samples(200)
    x[:, 0] += 8 * y
    learn, result = fitted((x, y), (x, y), epochs=10)
    assert result["valid"]["accuracy"] > 0.9 and result["baseline"]["value"] == 0.5 and not said(learn, "not better")


def test_numbers_stand_beside_their_mean():
    x = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    y = torch.randn(100, 1, generator=torch.Generator().manual_seed(1))
    learn, result = fitted((x[:50], y[:50]), (x[50:], y[50:]), 1, optimizer="sgd")
    expected = float((y[50:] - y[:50].mean()).square().mean())
    assert result["baseline"]["value"] == pytest.approx(expected) and result["baseline"]["measure"] == "loss"
    assert said(learn, "the mean of the training targets gives")


def test_what_has_no_baseline():
    x, y = samples(40)
    loader = torch.utils.data.DataLoader(list(zip(x, y, strict=True)), 8)
    assert fitted(loader, loader)[1]["baseline"] is None
    assert fitted((x, y), None)[1]["baseline"] is None
    own = fitted((x, y), (x, y), loss=lambda model, batch: model(batch[0]).square().mean())
    assert own[1]["baseline"] is None


def test_uneven_classes_are_said_and_measured_in_balance():
    learn, result = fitted(uneven(), uneven())
    note = "the classes are uneven: class 0 90.00 %, class 1 10.00 % of the training targets"
    assert f'{note}; class_weights="balanced" evens them out' in learn.notes
    assert list(result["valid"]) == ["loss", "accuracy", "balanced_accuracy"]
    learn, result = fitted(samples(40), samples(40))
    assert not said(learn, "uneven") and "balanced_accuracy" not in result["valid"]
    assert "balanced_accuracy" not in fitted(uneven(), uneven(), metrics="accuracy")[1]["valid"]
    tokens = torch.zeros(20, 3, dtype=torch.long)
    tokens[0, 0] = 1
    model = nn.Sequential(nn.Embedding(2, 4), nn.Linear(4, 2))
    assert not said(Learner(model, (tokens, tokens), verbose=False), "uneven")


def test_class_weights_are_those_of_the_training_split_in_loss_and_denominator():
    x, y = uneven()
    torch.manual_seed(0)
    learn = Learner(nn.Linear(4, 2), (x, y), (x[:50], y[:50]), class_weights="balanced", smoothing=0, verbose=False)
    weights = torch.tensor([200 / (2 * 180), 200 / (2 * 20)])
    assert said(learn, "class_weights: from 0.556 to 5, n / (classes x count)")
    expected = nn.CrossEntropyLoss(weight=weights)(learn.model(x[:50]), y[:50])
    assert learn.evaluate()["loss"] == pytest.approx(float(expected.detach()), rel=1e-5)
    means = learn.state.loss(learn.model, (x[:50], y[:50]))
    assert float(means.weights["loss"]) == pytest.approx(float(weights[y[:50]].sum()))
    assert learn.resolved["loss"] == "cross_entropy" and learn.resolved["class_weights"] == "balanced"


def test_a_class_that_has_an_output_and_no_training_target_weighs_1():
    x, y = torch.randn(60, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0] * 40 + [1] * 20)
    of_valid = torch.tensor([2] * 10)  # a class that training has none of
    learn = Learner(nn.Linear(4, 4), (x, y), (x[:10], of_valid), class_weights="balanced", verbose=False)
    assert learn.state.loss.criterion.keywords["weight"].tolist() == [0.75, 1.5, 1.0, 1.0]
    assert learn.fit("2 updates", lr_max=0.01).valid["loss"] > 0


@pytest.mark.parametrize("only", [0.0, 1.0])
def test_ones_without_zeros_and_zeros_without_ones_weigh_1(only):
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    learn = Learner(nn.Linear(4, 1), (x, torch.full((60, 1), only)), class_weights="balanced", verbose=False)
    assert said(learn, "class_weights: ones weigh 1") and learn.evaluate((x, torch.ones(60, 1)))["loss"] > 0.1


def test_class_weights_find_a_rare_class():
    train, valid = uneven(rare=10), uneven(100, 10)
    options = {"epochs": 10, "optimizer": "adamw"}
    plain, weighed = (fitted(train, valid, class_weights=w, **options)[1] for w in (None, "balanced"))
    assert weighed["valid"]["balanced_accuracy"] > plain["valid"]["balanced_accuracy"] + 0.05
    assert weighed["baseline"] == {"measure": "balanced_accuracy", "value": 0.5, "by": "always saying one class"}


def test_class_weights_of_zeros_and_ones():
    x, y = uneven()
    learn, _ = fitted((x, y.float()[:, None]), None, 1, class_weights="balanced")
    assert said(learn, "class_weights: ones weigh 9")
    expected = nn.BCEWithLogitsLoss(pos_weight=torch.tensor(9.0))(learn.model(x), y.float()[:, None])
    assert learn.evaluate((x, y.float()[:, None]))["loss"] == pytest.approx(float(expected.detach()), rel=1e-5)


def test_class_weights_of_pixels_are_smoothed_as_those_of_samples():
    """A pixel weighs what its own class does, smoothed or not, and in every layout of the classes."""
    images = torch.randn(12, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    masks = (images.mean(1) > 0.8).long()
    masks[0, 0] = -100
    learn = Learner(
        nn.Conv2d(3, 2, 1), (images, masks), class_weights="balanced", smoothing=0.2, verbose=False, batch_size=12
    )
    counts = masks[masks >= 0].bincount()
    weights = counts.sum() / (2 * counts)
    learn.model.train()
    loss = learn.state.loss(learn.model, (images, masks)).loss.detach()
    outputs = learn.model(images).detach()
    logits, labels = outputs.movedim(1, -1)[masks >= 0], masks[masks >= 0]
    each = nn.functional.cross_entropy(logits, labels, label_smoothing=0.2, reduction="none")
    assert float(loss) == pytest.approx(float((each * weights[labels]).sum() / weights[labels].sum()), rel=1e-5)
    plain = learn.evaluate((images, masks))["loss"]
    expected = nn.functional.cross_entropy(outputs, masks, weights)
    assert plain == pytest.approx(float(expected), rel=1e-5)
    assert learn.predict(images).shape == (12, 2, 5, 5)
    learn.fit_one_cycle(2, 0.01)


def test_where_class_weights_are_refused():
    x, y = samples(40)
    loader = torch.utils.data.DataLoader(list(zip(x, y, strict=True)), 8)
    for data, outputs, options, words in (
        (loader, 2, {}, "those that are read batch by batch cannot be counted"),
        ((x, torch.randn(40, 1)), 1, {}, r"these targets are none: float32 \[40, 1\]"),
        ((x, y), 2, {"loss": "cross_entropy"}, "give your own the weights of its classes"),
        ((x, y), 2, {"class_weights": "even"}, "unknown class_weights 'even'"),
    ):
        with pytest.raises(ConfigError, match=words):
            Learner(nn.Linear(4, outputs), data, verbose=False, **{"class_weights": "balanced", **options})


def test_a_run_in_the_shell_says_and_keeps_all_of_it(tmp_path: Path, capsys):
    x, y = uneven(noise=True)
    np.savez(tmp_path / "uneven.npz", x=x.numpy(), y=y.numpy())
    options = ["--model", "mlp", "--epochs", "1", "--class-weights", "balanced", "--out", str(tmp_path / "run")]
    options += ["--optimizer", "muon"]
    main(["train", str(tmp_path / "uneven.npz"), *options])
    shown = capsys.readouterr()
    assert "always saying one class gives balanced accuracy 50.00 %" in shown.out
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["result"]["baseline"]["value"] == 0.5 and record["resolved"]["class_weights"] == "balanced"
    assert any("the classes are uneven: '0' 90.00 %, '1' 10.00 %" in note for note in record["notes"])
    assert any("not better by more than the standard error" in note for note in record["notes"])
    assert "always saying one class gives" in (tmp_path / "run/report.html").read_text()
