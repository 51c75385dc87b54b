"""The front of tables: widths by hand, bins between quantiles, embeddings that start at zero for what is not known."""

from dataclasses import dataclass

import pytest
import torch

from onecycle import build_model
from onecycle.errors import ConfigError
from onecycle.models.tabular import TableFront


@dataclass(frozen=True)
class Made:
    flags: int = 1
    cardinalities: tuple[int, ...] = (4, 40)
    edges: tuple[tuple[float, ...], ...] = ((0.0, 1.0, 3.0), (2.0,))


def test_front_by_hand():
    front = TableFront(Made())
    assert front.width == 2 + 1 + 2 + 3 + 16
    out = front(torch.tensor([[2.0, 5.0, 1.0, 2.0, 0.0], [-1.0, 2.0, 0.0, 1.0, 39.0]]))
    assert out.shape == (2, front.width)
    assert out[:, :3].tolist() == [[2, 5, 1], [-1, 2, 0]]
    assert out[:, 3:5].tolist() == [[1, 0], [-1, -1]]  # through the first bin and half the second; before both
    assert (out[1, 5:8] == 0).all() and (out[0, 8:] == 0).all()
    assert torch.equal(out[0, 5:8], front.embeddings[0].weight[2]) and (out[1, 8:] != 0).all()


def test_columns_without_categories_or_numbers():
    assert TableFront(Made(0, (), ((0.0, 1.0),))).width == 2
    assert TableFront(Made(0, (3,), ())).width == 3
    assert TableFront(Made(0, (), (tuple(range(3000)),))).width == 1  # more bins than are worth it


def test_any_model_follows_the_front():
    x = torch.zeros(5, 5)
    for name, options in (("tabular", {"depth": 1, "width": 8}), ("mlp", {"hidden": 7})):
        model = build_model(name, input_shape=(5,), classes=3, columns=Made(), **options)
        assert model(x).shape == (5, 3)
        again = build_model(name, input_shape=(5,), classes=3, columns=Made(), **options)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    width = 8
    residual = 2 * width + width * width + width
    front = 2 * 0 + 4 * 3 + 40 * 16
    model = build_model("tabular", input_shape=(5,), classes=3, columns=Made(), depth=2, width=width)
    expected = front + 24 * width + width + 2 * residual + 2 * width + 3 * width + 3
    assert sum(p.numel() for p in model.parameters()) == expected


def test_rows_of_another_width_are_refused():
    with pytest.raises(ConfigError, match=r"rows of 5 numbers, \[n, 5\]; received \[2, 4\]"):
        TableFront(Made())(torch.zeros(2, 4))
