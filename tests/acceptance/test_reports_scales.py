"""Inputs and targets in their own units: prices, grams, years, whole numbers; and what is left as it is."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

import onecycle
from onecycle.commands.app import main


@pytest.fixture(autouse=True)
def at_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def houses(n: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Square metres, year and rooms, and the price."""
    rng = np.random.default_rng(seed)
    x = np.stack([rng.uniform(30, 200, n), rng.uniform(1900, 2020, n), rng.integers(1, 7, n)], 1)
    return x, 2000 * x[:, 0] + 1500 * (x[:, 1] - 1900) + 1e4 * x[:, 2]


def net(inputs: int = 3, outputs: int = 1) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, outputs))


def learner(train, valid=None, model=None, **options):
    return onecycle.Learner(model or net(), train, valid, verbose=False, batch_size=40, **options)


def r2(predictions, y) -> float:
    y = torch.as_tensor(y)
    return 1 - float(((predictions.squeeze(-1) - y) ** 2).sum() / ((y - y.mean()) ** 2).sum())


@pytest.mark.parametrize(
    "loss", [None, nn.HuberLoss(), nn.functional.mse_loss, "mae"], ids=["default", "huber", "function", "name"]
)
def test_prices_by_raw_columns_are_learned_and_predicted_in_their_units(loss):
    learn = learner(houses(), houses(100, 1), loss=loss, metrics=["r2", "mae"])
    result = learn.fit_one_cycle(20)
    x, y = houses(100, 2)
    assert result.valid["r2"] > 0.95 and result.valid["loss"] < 1
    assert r2(learn.predict(x), y) > 0.95
    assert 100 < result.valid["mae"] < 50_000
    assert learn.evaluate((x, y))["mae"] == pytest.approx(
        float((learn.predict(x).squeeze(1) - torch.as_tensor(y)).abs().mean()), rel=1e-4
    )
    assert [note.partition(":")[0] for note in learn.notes if "standardised by" in note] == [
        "2 of 3 columns of the inputs", "the targets",
    ]  # fmt: skip


def test_without_it_the_network_is_dead():
    learn = learner(houses(), houses(100, 1), metrics=["r2"], standardise=False)
    assert learn.fit_one_cycle(20).valid["r2"] < 0.5
    assert not any("standardised by" in note for note in learn.notes)


def test_the_training_data_alone_are_measured():
    learn, other = learner(houses()), learner(houses(), houses(50, 3))
    assert learn.resolved["scales"] == other.resolved["scales"]
    x, y = houses()
    assert learn.resolved["scales"]["inputs"]["mean"] == pytest.approx(x.mean(0).tolist())
    assert learn.resolved["scales"]["targets"]["std"] == pytest.approx([y.std()])


def test_batches_of_a_loader_are_standardised_as_the_training_data():
    x, y = (torch.as_tensor(part, dtype=torch.float32) for part in houses(100, 1))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=33)
    learn = learner(houses(), loader)
    assert learn.evaluate()["loss"] == pytest.approx(learn.evaluate((x, y))["loss"], rel=1e-5)
    assert torch.allclose(learn.predict(loader), learn.predict(x))


def test_data_in_usual_units_are_left_to_the_bit():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(80, 3, generator=generator), torch.randn(80, generator=generator)
    weights = []
    for standardise in (True, False):
        learn = learner((x, y), standardise=standardise)
        assert torch.equal(learn.predict(x), learn.model(x).detach())
        learn.fit_one_cycle(2, 0.01)
        weights.append(learn.model[0].weight)
        assert "scales" not in learn.resolved
    assert torch.equal(*weights)


def test_a_loss_of_your_own_gets_what_you_gave():
    x, y = houses()
    seen = []

    def loss(model, batch):
        seen.append(batch)
        return nn.functional.mse_loss(model(batch[0] / 1000).squeeze(1), batch[1] / 1e5)

    learner((x, y), loss=loss).fit_one_cycle(1, 0.01)
    assert all(inputs[:, 1].min() >= 1900 and targets.max() > 1e4 for inputs, targets in seen)


def test_a_model_that_predicts_already_keeps_its_units():
    x, y = houses()
    model = nn.Linear(3, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2000.0, 1500.0, 1e4]]))
        model.bias.fill_(-1500 * 1900.0)
    learn = learner((x, y), model=model)
    assert "scales" not in learn.resolved
    assert torch.equal(learn.model(torch.ones(1, 3)), learn.predict(torch.ones(1, 3)))


def test_targets_that_begin_with_small_ones_are_scaled_too():
    """As a table sorted by its prices: the first are near a new network's outputs, seen from their spread."""
    x, y = houses()
    order = y.argsort()
    assert "targets" in learner((x[order], y[order])).resolved["scales"]


def test_classes_have_no_scale_and_their_inputs_have():
    x, y = houses()
    labels = (y > np.median(y)).astype(int)
    learn = learner((x, labels), model=net(outputs=2))
    learn.fit_one_cycle(10)
    assert list(learn.resolved["scales"]) == ["inputs", "dtype"]
    assert (learn.predict(x).argmax(1).numpy() == labels).mean() > 0.9


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool", "float64", "float16"])
def test_inputs_of_another_type_are_cast_where_the_model_needs_it(dtype):
    x = torch.randint(0, 2, (80, 3), generator=torch.Generator().manual_seed(0))
    y = x.sum(1).float()
    given, usual = x.to(getattr(torch, dtype)), learner((x.float(), y))
    learn = learner((given, y))
    assert f"inputs: {dtype} becomes float32, the model's type" in learn.notes
    for each in (learn, usual):
        each.fit_one_cycle(2)
    assert torch.equal(learn.predict(given), usual.predict(x.float()))


def test_ids_of_an_embedding_stay_whole():
    x, y = torch.randint(0, 50, (80, 3)), torch.randn(80)
    model = nn.Sequential(nn.Embedding(50, 4), nn.Flatten(), nn.Linear(12, 1))
    learn = learner((x, y), model=model)
    assert learn.train.transform is None and not any("becomes" in note for note in learn.notes)


def test_a_run_of_raw_arrays_predicts_in_their_units(capsys):
    x, y = houses()
    np.savez("houses.npz", x=x, y=y)
    np.savez("new.npz", x=x[:5])
    main(["train", "houses.npz", "--epochs", "20", "--out", "run", "--no-report", "--json"])
    assert json.loads(capsys.readouterr().out)["valid"]["r2"] > 0.95
    main(["predict", "run", "new.npz", "--json"])
    outputs = [p["output"][0] for p in json.loads(capsys.readouterr().out)["predictions"]]
    assert outputs == pytest.approx(y[:5].tolist(), rel=0.3)
    main(["train", "houses.npz", "--epochs", "2", "--no-standardise", "--out", "raw", "--no-report", "--json"])
    assert json.loads(capsys.readouterr().out)["valid"]["r2"] < 0.5
    job = onecycle.Job("houses.npz", standardise=False)
    assert job.command() == "onecycle train houses.npz --epochs 10 --lr-max auto --no-standardise"


def test_a_table_of_prices(capsys):
    x, y = houses()
    lines = [",".join(map(str, [*row, price])) for row, price in zip(x.tolist(), y.tolist(), strict=True)]
    with open("houses.csv", "w") as file:
        file.write("\n".join(["area,year,rooms,price", *lines]))
    main(["train", "houses.csv", "--target", "price", "--epochs", "20", "--out", "run", "--no-report", "--json"])
    assert json.loads(capsys.readouterr().out)["valid"]["r2"] > 0.95
    main(["predict", "run", "houses.csv", "--json"])
    outputs = torch.tensor([p["output"] for p in json.loads(capsys.readouterr().out)["predictions"]])
    assert r2(outputs, y) > 0.95


def test_a_run_begun_in_python_predicts_the_same():
    x, y = houses()
    learn = learner((x.astype(int), y), model=onecycle.build_model("mlp", input_shape=(3,), classes=1))
    learn.fit(2, out="run")
    again = onecycle.load_run("run")
    assert torch.allclose(again.predict(x.astype(int)), learn.predict(x.astype(int)))
    assert torch.allclose(again.predict(x.astype(np.float32)), learn.predict(x.astype(np.float32)))
