"""Weights come back with the units that they were trained in."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from training_makers import differing, weights

from onecycle import CheckpointError, Learner, load_run

GENERATOR = torch.Generator().manual_seed(0)
AREA = torch.rand(200, 1, generator=GENERATOR) * 170 + 30
PRICE = 2000 * AREA[:, 0] + 5000
IMAGES = torch.randint(0, 120, (60, 1, 4, 4), generator=GENERATOR, dtype=torch.uint8)
LABELS = (IMAGES.float().mean((1, 2, 3)) > 60).long()


def net(inputs: int = 1, outputs: int = 1) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, outputs))


def learner(*data, model=None, **options) -> Learner:
    return Learner(model or net(), *data, verbose=False, batch_size=20, **{"optimizer": "adamw", **options})


@pytest.fixture(scope="module")
def priced(tmp_path_factory):
    learn = learner((AREA, PRICE))
    return learn, learn.fit_one_cycle(10, 0.03, out=tmp_path_factory.mktemp("priced") / "run").folder


@pytest.mark.parametrize(
    "other",
    [
        lambda: ((AREA / 100 + 4) / 3, PRICE / 1e5 - 1),
        lambda: (AREA * 7 + 1000, PRICE * 3),
        lambda: DataLoader(TensorDataset(AREA / 100, PRICE[:, None] / 1e5), 20),
    ],
    ids=["standard", "other units", "loader"],
)
def test_predictions_are_in_the_units_of_before_whatever_the_data_here(priced, other):
    learn, folder = priced
    here = learner(other(), (AREA[:30], PRICE[:30]))
    here.load(folder / "model.safetensors")
    expected = learn.predict(AREA)
    assert torch.equal(here.predict(AREA), expected)
    assert torch.equal(load_run(folder, model=net()).predict(AREA), expected)
    assert expected.mean() > 50_000
    assert here.evaluate() == learn.evaluate((AREA[:30], PRICE[:30]))
    assert here.notes[-1].startswith(f"{folder / 'model.safetensors'}: inputs and targets in the units that")
    assert here.resolved["scales"]["targets"] == learn.resolved["scales"]["targets"]


def test_a_model_in_float64_with_data_in_batches_takes_them(priced):
    learn, folder = priced
    here = learner(DataLoader(TensorDataset(AREA.double(), PRICE[:, None].double()), 20), model=net().double())
    here.load(folder / "model.safetensors")
    assert torch.allclose(here.predict(AREA.double()).float(), learn.predict(AREA), rtol=1e-4)
    assert here.evaluate((AREA, PRICE))["loss"] == pytest.approx(learn.evaluate((AREA, PRICE))["loss"], rel=1e-3)


def test_training_goes_on_in_these_units(priced):
    _, folder = priced
    here = learner((AREA * 7 + 1000, PRICE))
    here.load(folder / "model.safetensors")
    same = learner((AREA, PRICE))
    same.load(folder / "model.safetensors")
    here.train = here.train.__class__(**{**vars(here.train), "tensors": same.train.tensors})
    assert here.fit_one_cycle(1, 1e-3).train == same.fit_one_cycle(1, 1e-3).train
    assert "these weights" not in str(same.notes)


def test_batches_that_come_once_are_all_trained_on_in_these_units(priced):
    """What pilots and a range test read of them stays for the training, in the units of the weights."""
    _, folder = priced
    batches = [(AREA[i % 7 :: 7], PRICE[i % 7 :: 7]) for i in range(1100)]

    def trained(train, tested: bool = False):
        here = learner(train, (AREA[:50], PRICE[:50]), optimizer="sgd")
        here.load(folder / "model.safetensors")
        test = here.range_test(updates=100) if tested else None
        result = here.fit(budget="1100 updates")
        assert result.updates < 1100, "after pilots"
        return result.updates, result.train, result.valid, test and test.curve.valid_loss.mean[0] < 1

    assert trained(iter(batches)) == trained(batches)
    assert trained(iter(batches), tested=True) == (*trained(batches)[:3], True)


def test_weights_of_values_as_they_are_take_them_so(tmp_path):
    plain = learner((AREA, PRICE), standardise=False)
    path = plain.save(tmp_path / "plain.safetensors")
    here = learner((AREA, PRICE))
    here.load(path)
    assert torch.equal(here.predict(AREA), plain.predict(AREA))


def test_images_are_normalised_as_in_training(tmp_path):
    learn = learner((IMAGES, LABELS), model=net(16, 2))
    path = learn.save(tmp_path / "images.safetensors")
    here = learner((255 - IMAGES, LABELS), (255 - IMAGES, LABELS), model=net(16, 2), augment="flip")
    assert not torch.equal(here.predict(IMAGES), learn.predict(IMAGES))
    here.load(path)
    assert torch.equal(here.predict(IMAGES), learn.predict(IMAGES))
    assert here.train.transform.mean == learn.train.transform.mean and here.train.transform.augment is not None
    assert here.evaluate((IMAGES, LABELS)) == learn.evaluate((IMAGES, LABELS))


def test_a_loss_of_ones_own_has_no_units_and_nothing_is_loaded(priced):
    _, folder = priced

    def loss(model, batch):
        return (model(batch[0]) - batch[1]).square().mean()

    here = learner((AREA, PRICE), loss=loss)
    before = weights(here.model)
    with pytest.raises(CheckpointError, match=r"trained on standardised targets.*give the loss as a criterion"):
        here.load(folder / "model.safetensors")
    assert differing(before, weights(here.model)) == []


def test_units_that_cannot_be_read_and_files_without_any(tmp_path, priced):
    from safetensors.torch import save_model

    learn, _ = priced
    here = learner((AREA, PRICE * 2))
    save_model(learn.model, str(tmp_path / "none.safetensors"))
    here.load(tmp_path / "none.safetensors")
    assert torch.allclose(here.predict(AREA), 2 * learn.predict(AREA), rtol=1e-4)
    save_model(learn.model, str(tmp_path / "odd.safetensors"), {"onecycle.units": '{"metres": null}'})
    with pytest.raises(
        CheckpointError, match=r"units that the weights were trained in cannot be read.*save them again"
    ):
        here.load(tmp_path / "odd.safetensors")
