"""Texts with a class or a number each: split into tokens that are learned from the training texts alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, MissingDependency
from ..text import count, listed
from .table_cells import Notation, compute
from .table_columns import LONG_TEXT, plain_column, plain_target, target_names

VOCABULARY = 8000
LONGEST = 256
COVERED = 0.95  # of the training texts are not cut off, up to `LONGEST`
SPECIAL = ("[PAD]", "[UNK]", "[START]")


@dataclass(frozen=True)
class GivenTokenizer:
    """The tokenizer of a pretrained model, the JSON of the `tokenizers` library, which adds its special tokens itself.

    `pad` is the token after the end of a text; the model takes at most the first `longest` tokens of one.
    """

    tokenizer: str
    pad: int
    longest: int


@dataclass(frozen=True)
class TextTokens:
    """What a column of texts becomes: int64 [n, length], beginning with 2 and padded with 0.

    `tokenizer` is the JSON of a byte-pair encoding of the `tokenizers` library, in lower case.
    """

    target: tuple[str, ...]
    column: str
    length: int
    tokenizer: str

    @classmethod
    def fit(cls, table: Any, target: tuple[str, ...], column: str) -> tuple[Self, tuple[str, ...]]:
        """The tokens of a pyarrow table of training rows, and notes that say what they are.

        Source: Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", 1508.07909.
        """
        library = _library()
        texts = _texts(table[column])
        made = library.Tokenizer(library.models.BPE(unk_token=SPECIAL[1]))
        made.normalizer = library.normalizers.Sequence([library.normalizers.NFKC(), library.normalizers.Lowercase()])
        made.pre_tokenizer = library.pre_tokenizers.Whitespace()
        trainer = library.trainers.BpeTrainer(
            vocab_size=VOCABULARY, special_tokens=list(SPECIAL), min_frequency=2, show_progress=False
        )
        made.train_from_iterator(texts, trainer)
        lengths = np.array([len(each.ids) for each in made.encode_batch(texts)]) + 1
        length = int(min(LONGEST, max(2, np.quantile(lengths, COVERED, method="higher"))))
        tokens = cls(target, column, length, made.to_str())
        cut, empty = int((lengths > length).sum()), int((lengths == 1).sum())
        notes = [f"texts of {column}: {count(tokens.vocabulary, 'token')}, of which a sample has the first {length}"]
        notes += (
            [f"{count(cut, 'training text')} of {len(texts):,} cut off after {count(length, 'token')}"] if cut else []
        )
        notes += [f"{count(empty, 'training text')} of {len(texts):,} without a word"] if empty else []
        return tokens, tuple(notes)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns of the table that are used."""
        return (self.column,)

    @property
    def notations(self) -> dict[str, Notation]:
        """What is said of the columns in a file: that they hold words."""
        return {self.column: Notation("words")}

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return self._tokenizer.get_vocab_size()

    def encode(self, table: Any, place: str = "the table") -> Tensor:
        """The texts of a pyarrow table as int64 [n, length].

        Raises:
            DataError: the column is missing.
        """
        if self.column not in table.column_names:
            raise DataError(
                f"{place} lacks the column of texts that the model was trained on: {self.column}. Its columns are "
                f"{listed(table.column_names)}."
            )
        ids = torch.zeros(table.num_rows, self.length, dtype=torch.int64)
        ids[:, 0] = SPECIAL.index("[START]")
        for row, each in zip(ids, self._tokenizer.encode_batch(_texts(table[self.column])), strict=True):
            known = torch.tensor(each.ids[: self.length - 1], dtype=torch.int64)
            row[1 : 1 + len(known)] = known
        return ids

    def unlike(self, rows: Tensor) -> tuple[str, ...]:
        """A note on texts that are mostly unknown characters, in `rows` that `encode` gave."""
        unknown = (rows == SPECIAL.index("[UNK]")).sum(1)
        strange = int((2 * unknown > (rows > 0).sum(1) - 1).sum())
        return (f"{strange} of {count(len(rows), 'text')} mostly of characters unknown in training",) * bool(strange)

    def standalone(self) -> str:
        """The tokenizer's JSON that begins, cuts off and pads by itself: its ids for a text are what `encode` gives."""
        made, start = self._tokenizer, SPECIAL.index("[START]")
        processors = _library().processors
        made.post_processor = processors.TemplateProcessing(
            single=f"{SPECIAL[start]} $A", special_tokens=[(SPECIAL[start], start)]
        )
        made.enable_truncation(self.length)
        made.enable_padding(length=self.length, pad_id=0, pad_token=SPECIAL[0])
        return made.to_str(pretty=True)

    @cached_property
    def _tokenizer(self) -> Any:
        return _library().Tokenizer.from_str(self.tokenizer)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "target": plain_target(self.target)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From what `to_dict` gave."""
        return cls(**{**values, "target": target_names(values["target"])})


def text_column(table: Any, target: Sequence[str], leave_out: Sequence[str]) -> str | None:
    """The column of texts, where a table has nothing else to learn from."""
    import pyarrow as pa

    pc = compute()
    names = [name for name in table.column_names if name not in (*target, *leave_out)]
    if len(names) != 1 or not pa.types.is_string((column := plain_column(table[names[0]])).type):
        return None
    length = pc.mean(pc.utf8_length(column)).as_py() or 0
    return names[0] if length > LONG_TEXT and pc.count_distinct(column).as_py() > len(column) / 2 else None


def _texts(column: Any) -> list[str]:
    import pyarrow as pa

    return [text or "" for text in plain_column(column).cast(pa.string()).to_pylist()]


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise MissingDependency(
            "Texts need the tokenizers library. Install it: pip install 'onecycle[text]'"
        ) from error
    return tokenizers
