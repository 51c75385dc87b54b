"""Models of texts: a bag of tokens and a small transformer make a vector of a text, which any model can follow."""

from __future__ import annotations

from math import prod
from typing import Protocol

from torch import Tensor, nn
from torch.nn import functional as F

from .small import dropout_share

WIDTH, DEPTH, HEADS, DROPOUT = 128, 1, 4, 0.1
LEFT_OUT = 0.3  # of the tokens of a text, others at each update: of few texts a model learns the words by heart


class Tokens(Protocol):
    """What a model needs to know of texts: `onecycle.load(...).columns`."""

    @property
    def vocabulary(self) -> int: ...
    @property
    def length(self) -> int: ...


class TextFront(nn.Module):
    """Tokens int64 [n, length], 0 where there is none, as float32 [n, width]: which they are, and in what order.

    That is the sum of the tokens' embeddings over the root of their number, and the mean of a transformer's outputs,
    which starts at zero: what few texts tell is learned from the words alone, and more of them bring in the rest.

    Source: a wide path beside a deep one, as in Cheng et al., "Wide & Deep Learning", 1606.07792; tokens left out as in
    Iyyer et al., "Deep Unordered Composition Rivals Syntactic Methods for Text Classification", 2015, section 3.2.
    """

    def __init__(self, tokens: Tokens):
        super().__init__()
        self.width = WIDTH
        self.bag = nn.Embedding(tokens.vocabulary, WIDTH)
        self.tokens = nn.Embedding(tokens.vocabulary, WIDTH)
        self.positions = nn.Embedding(tokens.length, WIDTH)
        for table in (self.bag, self.tokens, self.positions):
            nn.init.normal_(table.weight, std=0.1)
        self.dropout = nn.Dropout(DROPOUT)
        self.blocks = nn.ModuleList(EncoderBlock(WIDTH, HEADS, DROPOUT) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH)
        nn.init.zeros_(self.norm.weight)

    def forward(self, ids: Tensor) -> Tensor:
        there = (ids != 0).to(self.bag.weight.dtype)
        kept = F.dropout(there, LEFT_OUT, self.training)
        kept[:, 0] = there[:, 0]  # the token that begins a text, so that something is left of each
        x = self.dropout(self.tokens(ids) + self.positions.weight[: ids.shape[1]])
        for block in self.blocks:
            x = block(x, (kept > 0)[:, None, None])
        counted, kept = there.sum(1, keepdim=True).clamp(min=1), kept[..., None]
        return (self.bag(ids) * kept).sum(1) / counted.sqrt() + (self.norm(x) * kept).sum(1) / counted


class EncoderBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); each position sees all that `there` [n, 1, 1, length] says are."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        q, k, v = self.qkv(self.attention_norm(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=there)
        x = x + self.dropout(self.out(mixed.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


def text_classifier(*, input_shape: tuple[int, ...], classes: int, dropout: float = 0.1) -> nn.Sequential:
    """The model of texts, behind a `TextFront`: dropout and one linear layer."""
    return nn.Sequential(nn.Flatten(), nn.Dropout(dropout_share(dropout)), nn.Linear(prod(input_shape), classes))
