"""Models of texts: a small transformer that makes a vector of a text, which any model of arrays can follow."""

from __future__ import annotations

from math import prod
from typing import Protocol

from torch import Tensor, nn
from torch.nn import functional as F

from .small import dropout_share

WIDTH, DEPTH, HEADS, DROPOUT = 128, 2, 4, 0.1


class Tokens(Protocol):
    """What a model needs to know of texts: `onecycle.load(...).columns`."""

    @property
    def vocabulary(self) -> int: ...
    @property
    def length(self) -> int: ...


class TextFront(nn.Module):
    """Tokens int64 [n, length], 0 where there is none, as float32 [n, width]: two transformer blocks and a mean."""

    def __init__(self, tokens: Tokens):
        super().__init__()
        self.width = WIDTH
        self.tokens = nn.Embedding(tokens.vocabulary, WIDTH)
        self.positions = nn.Embedding(tokens.length, WIDTH)
        for table in (self.tokens, self.positions):
            nn.init.normal_(table.weight, std=0.1)
        self.dropout = nn.Dropout(DROPOUT)
        self.blocks = nn.ModuleList(EncoderBlock(WIDTH, HEADS, DROPOUT) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        there = ids != 0
        x = self.dropout(self.tokens(ids) + self.positions.weight[: ids.shape[1]])
        for block in self.blocks:
            x = block(x, there[:, None, None])
        share = there.to(x.dtype)[..., None]
        return (self.norm(x) * share).sum(1) / share.sum(1).clamp(min=1)


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
