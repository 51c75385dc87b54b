"""Texts with a class or a number each: split into tokens that are learned from the training texts alone."""

from __future__ import annotations

import json
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
from .table_columns import LONG_TEXT, plain_column, plain_target, strange_notes, target_names

VOCABULARY = 8000
LONGEST = 256
COVERED = 0.95  # of the training texts are not cut off, up to `LONGEST`
SPECIAL = ("[PAD]", "[UNK]", "[START]")


@dataclass(frozen=True)
class TextTokens:
    """What a column of texts becomes: int64 [n, length], beginning with 2 and padded with 0.

    `tokenizer` is the JSON of a byte-pair encoding of the `tokenizers` library, in lower case. Where `source` names a
    pretrained model it is that of the model, which adds special tokens of its own and pads with `pad`.
    """

    target: tuple[str, ...]
    column: str
    length: int
    tokenizer: str
    pad: int = 0
    source: str = ""

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
        length, notes = _fitting(made, texts, LONGEST, 1)
        tokens = cls(target, column, length, made.to_str())
        said = f"texts of {column}: {count(tokens.vocabulary, 'token')}, of which a sample has the first {length}"
        return tokens, (said, *notes)

    @classmethod
    def of_pretrained(
        cls, table: Any, target: tuple[str, ...], column: str, tokenizer: tuple[str, int, int], source: str
    ) -> tuple[Self, tuple[str, ...]]:
        """The tokens of the pretrained model `source`: its tokenizer, the token of padding and the most it takes."""
        text, pad, longest = tokenizer
        made = _library().Tokenizer.from_str(text)
        length, notes = _fitting(made, _texts(table[column]), min(LONGEST, longest), 0)
        tokens = cls(target, column, length, text, pad, source)
        said = f"texts of {column}: the {count(tokens.vocabulary, 'token')} of {source}, the first {length} of a text"
        return tokens, (said, *notes)

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
        texts = _texts(table[self.column])
        if self.source:
            encoded = _library().Tokenizer.from_str(self.standalone()).encode_batch(texts)
            return torch.tensor([each.ids for each in encoded], dtype=torch.int64).reshape(len(texts), self.length)
        ids = torch.zeros(table.num_rows, self.length, dtype=torch.int64)
        ids[:, 0] = SPECIAL.index("[START]")
        for row, each in zip(ids, self._tokenizer.encode_batch(texts), strict=True):
            known = torch.tensor(each.ids[: self.length - 1], dtype=torch.int64)
            row[1 : 1 + len(known)] = known
        return ids

    def unlike(self, rows: Tensor) -> tuple[str, ...]:
        """A note on texts that are mostly unknown characters, in `rows` that `encode` gave."""
        return strange_notes(self.strange(rows), len(rows))

    def strange(self, rows: Tensor) -> dict[str, int]:
        """How many texts of `rows` are mostly unknown characters, by those words."""
        code, own = SPECIAL.index("[UNK]"), 1
        if self.source:  # whose tokens around a text are no part of it
            word = json.loads(self.tokenizer)["model"].get("unk_token")
            code, own = self._tokenizer.token_to_id(word) if word else None, len(self._tokenizer.encode("").ids)
        if code is None:
            return {}
        strange = int((2 * (rows == code).sum(1) > (rows != self.pad).sum(1) - own).sum())
        return {"text mostly of characters unknown in training": strange} if strange else {}

    def standalone(self) -> str:
        """The tokenizer's JSON that begins, cuts off and pads by itself: its ids for a text are what `encode` gives."""
        made, start = _library().Tokenizer.from_str(self.tokenizer), SPECIAL.index("[START]")
        if not self.source:
            made.post_processor = _library().processors.TemplateProcessing(
                single=f"{SPECIAL[start]} $A", special_tokens=[(SPECIAL[start], start)]
            )
        made.enable_truncation(self.length)
        made.enable_padding(length=self.length, pad_id=self.pad, pad_token=made.id_to_token(self.pad))
        return made.to_str(pretty=True)

    @cached_property
    def _tokenizer(self) -> Any:
        return _library().Tokenizer.from_str(self.tokenizer)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        values = {**asdict(self), "target": plain_target(self.target)}
        return values if self.source else {name: values[name] for name in values if name not in ("pad", "source")}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From what `to_dict` gave."""
        return cls(**{**values, "target": target_names(values["target"])})


def _fitting(tokenizer: Any, texts: Sequence[str], most: int, more: int) -> tuple[int, list[str]]:
    """The length that `COVERED` of the texts have, at most `most`, and notes; `more` tokens come to those of a text."""
    empty_length = len(tokenizer.encode("").ids) + more
    lengths = np.array([len(each.ids) for each in tokenizer.encode_batch(texts)]) + more
    length = int(min(most, max(2, np.quantile(lengths, COVERED, method="higher"))))
    cut, empty = int((lengths > length).sum()), int((lengths <= empty_length).sum())
    notes = [f"{count(cut, 'training text')} of {len(texts):,} cut off after {count(length, 'token')}"] if cut else []
    notes += [f"{count(empty, 'training text')} of {len(texts):,} without a word"] if empty else []
    return length, notes


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
