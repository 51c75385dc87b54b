"""A small GPT for character text."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..checks import whole
from ..errors import ConfigError
from .small import dropout_share


def char_transformer(
    *,
    input_shape: tuple[int, ...],
    classes: int,
    width: int = 128,
    depth: int = 4,
    heads: int = 4,
    dropout: float = 0.0,
) -> CharTransformer:
    """A decoder-only transformer over a vocabulary of `classes` characters, with a context of input_shape[0].

    Maps int64 [n, length] to logits [n, length, classes] of the next character; length may be below the context.

    >>> model = char_transformer(input_shape=(64,), classes=65)
    >>> model(torch.zeros(2, 64, dtype=torch.int64)).shape
    torch.Size([2, 64, 65])
    """
    if len(input_shape) != 1:
        raise ConfigError(f"model char-transformer takes text, input_shape (length,), got {input_shape}")
    if whole("width", width) % whole("heads", heads):
        raise ConfigError(f"width must be a multiple of heads, got width={width} and heads={heads}")
    return CharTransformer(input_shape[0], classes, width, whole("depth", depth), heads, dropout_share(dropout))


class CharTransformer(nn.Module):
    """GPT-2 in small (Radford et al. 2019): pre-norm blocks, learned positions, GELU; its initialisation too."""

    def __init__(self, context: int, classes: int, width: int, depth: int, heads: int, dropout: float):
        super().__init__()
        self.characters = nn.Embedding(classes, width)
        self.positions = nn.Embedding(context, width)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes, bias=False)
        self._initialise(depth)

    def _initialise(self, depth: int) -> None:
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                # 2 * depth branches add up in the residual stream: their last layers start smaller.
                branch = name.endswith(("attention.out.weight", "mlp.2.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * depth) if branch else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        length, context = x.shape[1], self.positions.num_embeddings
        if length > context:
            raise ConfigError(
                f"text of {length} characters is longer than the context of this model, {context}; "
                f"cut it, or build the model with input_shape=({length},)"
            )
        positions = self.positions(torch.arange(length, device=x.device))
        return self.head(self.norm(self.blocks(self.dropout(self.characters(x) + positions))))


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = CausalAttention(width, heads, dropout)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class CausalAttention(nn.Module):
    """Multi-head self-attention in which a position sees itself and those before it."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each [n, heads, length, d]
        p = self.dropout.p if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)
        return self.dropout(self.out(mixed.transpose(1, 2).flatten(2)))
