"""What every data source becomes (`Split`, `Stream`, `Data`), the seeded cuts between splits, and the checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..errors import DataError
from ..text import count, listed
from .images import decode_or_raise
from .label_sets import has_label_sets
from .table_columns import TableColumns
from .text_tokens import TextTokens

# One number for each purpose, so that the same seed gives independent draws.
VALID, LIMIT, TEST, STATS = 1, 2, 3, 4
AT_A_TIME = 2**24  # numbers that are checked at once, as more may lie in a file than fit into memory


About = Callable[[int], dict[str, Any]]


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Samples held in memory: `inputs` and `targets`, with the samples along the first dimension.

    | kind | inputs | targets |
    | --- | --- | --- |
    | image | uint8 [n, channels, height, width], 0..255 | int64 [n]; float32 [n, ...] of 0 and 1, or numbers |
    | array | float32 [n, ...] | the same |
    | table | float32 [n, columns], see `TableColumns` | the same |
    | texts | int64 [n, length], see `TextTokens` | the same |
    | text | int64 [n, length], indices into the characters | int64 [n, length], the inputs shifted by one |

    `ids` is the number of each sample in its source, int64 [n], where that is known, and `about` says of such a number
    what the sample was: its ``name`` (a file, or a row), and its ``text`` or its ``row`` as {column: cell}.

    >>> Split(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    Split(inputs=uint8 [4, 1, 8, 8], targets=int64 [4])
    """

    inputs: Tensor
    targets: Tensor
    ids: Tensor | None = None
    about: About | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def __repr__(self) -> str:
        def brief(tensor: Tensor) -> str:
            return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"

        return f"Split(inputs={brief(self.inputs)}, targets={brief(self.targets)})"


class Stream(Dataset):
    """Images that stay encoded because they would not fit in memory; each is decoded when it is asked for.

    A map-style torch Dataset of (uint8 [channels, height, width], int or float32 [...]), which DataLoader workers take.
    `items` holds the path or the encoded bytes of every image and need not be a list; `indices` says which of them the
    n samples are, by default the first n. `targets` is int64 [n] or float32 [n, ...], `shape` is (channels, height,
    width), which images of other sizes are brought to by `fit`. `about` is as in `Split`, of an index.
    """

    def __init__(
        self,
        items: Sequence[Any],
        targets: Tensor,
        shape: tuple[int, ...],
        indices: Tensor | None = None,
        fit: str = "crop",
        about: About | None = None,
    ):
        self.items, self.targets, self.shape, self.fit, self.about = items, targets, shape, fit, about
        self.indices = torch.arange(len(targets)) if indices is None else indices

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        i = int(self.indices[index])
        image = decode_or_raise(self.items[i], self.shape, f"image {i}", self.fit)
        target = self.targets[index]
        return torch.from_numpy(image), target if target.is_floating_point() else int(target)

    def __repr__(self) -> str:
        return f"Stream(n={len(self)}, shape={list(self.shape)})"


@dataclass(frozen=True, eq=False)
class Data:
    """A data set that is ready to train on.

    Attributes:
        name: "digits", "cifar10", the name of the folder or file.
        kind: "image", "array", "table", "texts" or "text" (one, by characters).
        train, valid, test: a `Split`, or a `Stream` when it is too large for memory; `test` may be None.
        classes: the names by label; for text the characters by index; None for regression.
        mean, std: for images per channel, of the training split, in units where 255 is 1; else ().
        augment: the augmentations that make sense here, among "flip", "crop" and "cutout".
        origin: where it was found: a path, "the package" or "hub:OWNER/NAME".
        notes: what was decided for the user, in words.
        fit: how images of another size were brought to this one: "crop", "pad" or "squash".
        columns: what the columns of a table became; None for all else.
        pretrained: how the model was pretrained that they were prepared for; None where they are for any.
        seen: mean and std of the training images themselves, where `mean` and `std` are those of pretraining.
    """

    name: str
    kind: str
    train: Split | Stream
    valid: Split | Stream
    test: Split | Stream | None
    classes: tuple[str, ...] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: tuple[str, ...]
    origin: str
    notes: tuple[str, ...]
    fit: str = "crop"
    columns: TableColumns | TextTokens | None = None
    pretrained: Any = None
    seen: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    def __repr__(self) -> str:
        sizes = {name: getattr(self, name) for name in ("train", "valid", "test")}
        said = [f"{len(split):,} {name}" for name, split in sizes.items() if split is not None]
        classes = "" if self.n_classes is None else f", {count(self.n_classes, 'classes')}"
        return f"Data({self.name}: {self.kind} {list(self.input_shape)}{classes}, {', '.join(said)})"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample: (channels, height, width), (length,) or the array's own."""
        return shape_of(self.train)

    @property
    def n_classes(self) -> int | None:
        """How many classes there are, None for regression; for text the number of characters."""
        return None if self.classes is None else len(self.classes)


@dataclass(frozen=True, eq=False)
class RawData:
    """Data as they were read: the splits that the source itself has ("train", "valid", "test").

    `statistics` are mean and std by channel, where the source has its own; None: they are measured. `encode` makes the
    samples of the final splits, where that takes what is learned from the training samples alone.
    """

    kind: str
    parts: dict[str, Split | Stream]
    classes: tuple[str, ...] | None
    origin: str
    notes: tuple[str, ...] = ()
    augment: tuple[str, ...] = ()
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    encode: Callable[[Mapping[str, Split | Stream]], Encoded] | None = None


@dataclass(frozen=True, eq=False)
class Encoded:
    """Splits whose samples were made once it was known which of them are for training."""

    parts: Mapping[str, Split | Stream]
    columns: TableColumns | TextTokens | None = None
    notes: tuple[str, ...] = ()


def shape_of(part: Split | Stream) -> tuple[int, ...]:
    """The shape of one sample."""
    return tuple(part.shape if isinstance(part, Stream) else part.inputs.shape[1:])


def take(part: Split | Stream, indices: Tensor) -> Split | Stream:
    """The samples at `indices` (int64), in that order."""
    if isinstance(part, Stream):
        return Stream(part.items, part.targets[indices], part.shape, part.indices[indices], part.fit, part.about)
    ids = None if part.ids is None else part.ids[indices]
    return Split(part.inputs[indices], part.targets[indices], ids, part.about)


def about_sample(part: Any, i: int) -> dict[str, Any]:
    """What is known of sample `i` of a split, see `Split`; its number alone where its source does not say more.

    >>> about_sample(Split(torch.zeros(4, 2), torch.zeros(4)), 3)
    {'name': 'sample 4'}
    """
    ids = part.indices if isinstance(part, Stream) else getattr(part, "ids", None)
    about = getattr(part, "about", None)
    return {"name": f"sample {i + 1}"} if about is None or ids is None else about(int(ids[i]))


def quotas(sizes: Sequence[int], count: int, caps: Sequence[int]) -> list[int]:
    """Share `count` among the classes in proportion to `sizes`: at least 1 (of a class that is there), at most `caps`.

    >>> quotas([50, 30, 20], 10, [50, 30, 20])
    [5, 3, 2]
    >>> quotas([97, 2, 1], 10, [97, 2, 1])
    [8, 1, 1]
    """
    total, classes = sum(sizes), range(len(sizes))
    quota = [min(max(size * count // total, 1), cap) for size, cap in zip(sizes, caps, strict=True)]
    while (gap := count - sum(quota)) != 0:
        above = [quota[i] * total - sizes[i] * count for i in classes]  # integers: the same on every machine
        if gap > 0:
            quota[min((i for i in classes if quota[i] < caps[i]), key=lambda i: above[i])] += 1
        else:
            quota[max((i for i in classes if quota[i] > 1), key=lambda i: above[i])] -= 1
    return quota


def choose(part: Split | Stream, count: int, entropy: Sequence[int], *, stratify: bool, keep: int = 0) -> Tensor:
    """The sorted indices (int64) of `count` samples drawn with PCG64 seeded by `entropy`.

    With `stratify` every class gives its share and keeps at least `keep` samples.
    """
    import numpy as np

    keys = np.random.default_rng(list(entropy)).random(len(part))
    if not stratify:
        return torch.from_numpy(np.sort(np.argsort(keys, kind="stable")[:count]))
    labels = part.targets.numpy()
    sizes = np.bincount(labels)
    quota = np.array(quotas(sizes.tolist(), count, np.maximum(sizes - keep, 0).tolist()))
    order = np.lexsort((keys, labels))
    rank = np.arange(len(labels)) - (np.cumsum(sizes) - sizes)[labels[order]]
    return torch.from_numpy(np.sort(order[rank < quota[labels[order]]]))


def cut(
    part: Split | Stream, fraction: float, entropy: Sequence[int], classes: tuple[str, ...] | None
) -> tuple[Split | Stream, Split | Stream]:
    """Cut `fraction` of the samples off, stratified when each has a class: (what remains, what was cut off).

    A class with one sample keeps it.
    """
    n, count = len(part), max(1, int(len(part) * fraction + 0.5))
    if has_label_sets(part.targets, classes):
        classes = None
    stratify = classes is not None
    if n < 2:
        raise DataError(
            f"{n} sample cannot be cut into training and validation. Give at least 2, or a split of its own."
        )
    if classes is not None:
        sizes = part.targets.bincount(minlength=len(classes))
        present, divisible = int((sizes > 0).sum()), int((sizes > 1).sum())
        if not divisible:
            raise DataError(
                "A validation split cannot be cut from one sample of each class. Add samples, or give a validation "
                "split of its own."
            )
        count = min(max(count, divisible), n - present)
    chosen = choose(part, min(count, n - 1), entropy, stratify=stratify, keep=1)
    rest = torch.ones(n, dtype=torch.bool)
    rest[chosen] = False
    return take(part, rest.nonzero().flatten()), take(part, chosen)


def class_sizes(part: Split | Stream, classes: Sequence[str]) -> Tensor:
    """How many samples there are of each class, [classes]."""
    several = has_label_sets(part.targets, classes)
    return part.targets.sum(0).long() if several else part.targets.bincount(minlength=len(classes))


def unmeasured(parts: Mapping[str, Split | Stream], classes: tuple[str, ...]) -> tuple[str, ...]:
    """Notes that name the classes which a split has no samples of."""
    notes = []
    for split, part in parts.items():
        sizes = class_sizes(part, classes)
        missing = [repr(classes[i]) for i in (sizes == 0).nonzero().flatten().tolist()]
        if missing:
            name = {"train": "training", "valid": "validation"}.get(split, split)
            what = "cannot be learnt" if split == "train" else "not measured there"
            notes.append(
                f"{name}: no samples of {listed(missing, most=5)} ({len(missing)} of {len(classes)} classes), {what}"
            )
    return tuple(notes)


def numbered(labels: Tensor) -> tuple[str, ...]:
    """Names "0", "1", ... for labels (int64 [n]) that have none; DataError when a number below the largest is not used.

    >>> numbered(torch.tensor([0, 2, 1, 2]))
    ('0', '1', '2')
    """
    seen = labels[labels >= 0].unique().tolist()
    missing = next((i for i, label in enumerate(seen) if i != label), None)
    if missing is not None:
        raise DataError(
            f"The training labels go up to {seen[-1]}, but only {len(seen)} of these {seen[-1] + 1} numbers occur; the "
            f"first missing is {missing}. Renumber them: np.unique(labels, return_inverse=True)[1]."
        )
    return tuple(str(label) for label in seen)


def check(parts: Mapping[str, Split | Stream], classes: tuple[str, ...] | None, *, text: bool = False) -> None:
    """Raise DataError for empty splits, shapes that differ, NaN or infinite values, and labels that cannot be used."""
    for name, part in parts.items():
        if len(part) == 0:
            raise DataError(f"The {name} split is empty. Add samples to it or leave it out.")
        if isinstance(part, Split):
            check_finite(part.inputs, f"inputs in the {name} split")
            check_finite(part.targets, f"targets in the {name} split")
        if shape_of(part) != shape_of(parts["train"]):
            raise DataError(
                f"One sample has shape {list(shape_of(parts['train']))} in the train split and {list(shape_of(part))} "
                f"in the {name} split. Give every split samples of the same shape."
            )
    if classes is not None and not text:
        several = has_label_sets(parts["train"].targets, classes)
        (_check_label_sets if several else _check_labels)(parts, classes)


def check_finite(values: Tensor, what: str) -> None:
    """Raise DataError that counts the samples of `values` [n, ...] with NaN or infinity; `what` are the values."""
    if not values.is_floating_point() or has_finite_sum(values):
        return
    if all(bool(part.isfinite().all()) for part in values.split(_samples(values, AT_A_TIME))):
        return
    bad = (~values.isfinite()).reshape(len(values), -1).any(1).nonzero().flatten()
    raise DataError(
        f"NaN or infinite {what}: {len(bad)} of {len(values)} samples, the first at index {int(bad[0])}. "
        "Remove these samples or fill in their values."
    )


def has_finite_sum(values: Tensor) -> bool:
    """Whether sums of `values` are finite, and with them all values: in a twentieth of the time of looking at each.

    NaN and infinity stay in a sum. One that is not finite tells nothing: those of large numbers overflow.

    >>> has_finite_sum(torch.ones(3)), has_finite_sum(torch.tensor([1.0, torch.nan]))
    (True, False)
    """
    wide = torch.promote_types(values.dtype, torch.float32)
    parts = (values,) if values.dtype == wide or not values.ndim else values.split(_samples(values, 2**18))
    return all(math.isfinite(part.to(wide).sum().item()) for part in parts)


def _samples(values: Tensor, numbers: int) -> int:
    """How many samples of `values` [n, ...] have so many numbers, at least one."""
    return max(1, numbers * len(values) // max(1, values.numel()))


def _check_label_sets(parts: Mapping[str, Split | Stream], classes: tuple[str, ...]) -> None:
    if len(classes) < 2:
        raise DataError(f"There is only one label: {listed(classes)!r}. Give task='classification', or add others.")
    known = class_sizes(parts["train"], classes) > 0
    for name, part in parts.items():
        if strange := ((class_sizes(part, classes) > 0) & ~known).nonzero().flatten().tolist():
            raise DataError(
                f"Labels differ between splits: {listed([repr(classes[i]) for i in strange])} in the {name} split, "
                "never in the train split. Add training samples of them, or leave them out."
            )


def _check_labels(parts: Mapping[str, Split | Stream], classes: tuple[str, ...]) -> None:
    if len(classes) < 2:
        raise DataError(
            f"There is only one class: {listed(classes)!r}. Classification needs at least 2: of images give "
            "the folder that has a folder for each class; of a table a target with 2 values or more, or of numbers "
            "task='regression'; of arrays labels of 2 classes or more."
        )
    for name, part in parts.items():
        bad = (part.targets < 0) | (part.targets >= len(classes))
        if bad.any():
            first = int(bad.nonzero()[0])
            raise DataError(
                f"Labels out of range in the {name} split: {int(bad.sum())} of {len(part)}, the first is "
                f"{int(part.targets[first])} at index {first}. Allowed are 0 to {len(classes) - 1}."
            )
    known = set(parts["train"].targets.unique().tolist())
    if len(known) < 2:
        raise DataError(
            f"The train split has samples of one class only: {classes[min(known)]!r}. At least 2 are needed: add "
            "training samples of others."
        )
    for name, part in parts.items():
        if strange := sorted(set(part.targets.unique().tolist()) - known):
            raise DataError(
                f"Classes differ between splits: {listed([repr(classes[i]) for i in strange])} in the {name} split, "
                "never in the train split. Add training samples of them, or leave them out."
            )
