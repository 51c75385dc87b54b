"""The front of texts: by hand before it is trained, with tokens left out, and where their order matters."""

from dataclasses import dataclass

import torch

import onecycle
from onecycle.models import build
from onecycle.models.texts import TextFront


@dataclass(frozen=True)
class Made:
    vocabulary: int = 12
    length: int = 10


def front(length: int = 10) -> TextFront:
    torch.manual_seed(0)
    return TextFront(Made(length=length))


def test_before_training_it_is_the_sum_of_the_words_over_the_root_of_their_number():
    made = front().eval()
    words = made.bag.weight
    expected = (words[2] + 2 * words[5] + words[7]) / 2
    assert torch.allclose(made(torch.tensor([[2, 5, 7, 5, 0, 0]]))[0], expected, atol=1e-6)


def test_tokens_are_left_out_in_training_alone_and_never_all():
    made, ids = front().train(), torch.tensor([[2, 5, 7, 9], [2, 0, 0, 0]])
    trained = torch.stack([made(ids) for _ in range(400)])
    assert len(trained[:, 0].unique(dim=0)) == 8  # each of three tokens is there or not
    assert torch.equal(trained[0, 1], trained[-1, 1]) and trained.isfinite().all()
    made.eval()
    assert torch.equal(made(ids), made(ids))
    assert torch.allclose(trained.mean(0), made(ids), atol=0.03)


def test_weights_of_half_precision():
    made = front().bfloat16()
    assert made(torch.tensor([[2, 5, 7, 0]])).dtype == torch.bfloat16


def test_order_is_learned_where_the_words_are_the_same():
    """Which of two words comes first, among others: counted words cannot tell."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.stack([torch.randperm(8, generator=generator) + 4 for _ in range(1200)])
    ids = torch.cat([torch.full((len(ids), 1), 2), ids], 1)
    first = ((ids == 4).int().argmax(1) < (ids == 5).int().argmax(1)).long()
    model = build("text-classifier", input_shape=(9,), classes=2, columns=Made(length=9))
    learn = onecycle.Learner(
        model, (ids[:1000], first[:1000]), (ids[1000:], first[1000:]), batch_size=32, verbose=False
    )
    learn.fit_one_cycle(8)
    assert learn.evaluate()["accuracy"] > 0.9
