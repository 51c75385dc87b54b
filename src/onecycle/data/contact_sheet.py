"""A contact sheet: a few training samples of every class in one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..checks import whole
from ..errors import ConfigError, DataError
from .splits import Data, Split

CELL, GAP, MARGIN, LINE = 56, 4, 20, 12  # pixels: a sample, between samples, around the sheet, a line of samples
BACKGROUND, INK, QUIET = "#ffffff", "#1f2328", "#656d76"


def contact_sheet(data: Data, path: str | Path, *, n: int = 40) -> Path:
    """Draw about `n` training images with their class names into a PNG and return its path.

    Raises ConfigError when `data` has no images or `n` is below 1, and DataError when the file cannot be written.

    >>> import tempfile
    >>> from onecycle.data import load
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     contact_sheet(load("digits"), f"{folder}/digits.png").name
    'digits.png'
    """
    if data.kind != "image":
        raise ConfigError(f"A contact sheet shows images, and {data.name} is {data.kind}.")
    path, n = Path(path), whole("n", n, what="the number of images")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _draw(data, samples_by_class(data, n)).save(path, format="PNG")
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}. Give another path.") from error
    return path


def samples_by_class(data: Data, n: int) -> list[tuple[str, list[int]]]:
    """(name, indices of its samples): a row a class; without classes a row a sample, named by its target."""
    targets = data.train.targets
    if data.classes is None:
        return [(_number(targets[i]), [i]) for i in range(min(n, len(targets)))]
    shown = data.classes[:n]
    each = max(1, n // len(shown))
    return [(name, (targets == label).nonzero().flatten()[:each].tolist()) for label, name in enumerate(shown)]


def _number(target: Any) -> str:
    return ", ".join(f"{value:.3g}" for value in target.flatten()[:3].tolist())


def _draw(data: Data, lines_of: list[tuple[str, list[int]]]) -> Any:
    """The lines_of in columns of at most 13, under a title and above the sizes."""
    from PIL import Image, ImageDraw, ImageFont

    title, text, small = (ImageFont.load_default(size) for size in (20, 14, 12))
    columns = -(-len(lines_of) // 13)
    lines = -(-len(lines_of) // columns)
    samples = max(1, max(len(indices) for _, indices in lines_of))
    names = max(int(text.getlength(_short(name))) for name, _ in lines_of) + LINE
    width = names + samples * (CELL + GAP) - GAP
    sizes = [f"{len(part):,} {what}" for what, part in _splits(data)]
    shape = "x".join(map(str, data.input_shape[1:])) + (" grey" if data.input_shape[0] == 1 else " colour")
    caption = "  ·  ".join([shape, *([f"{data.n_classes} classes"] if data.classes else []), *sizes])
    left_out = (
        f"  ·  {data.n_classes - len(lines_of)} classes not shown"
        if data.n_classes and data.n_classes > len(lines_of)
        else ""
    )
    top = MARGIN + 58
    inner = max(columns * (width + 2 * MARGIN) - 2 * MARGIN, int(small.getlength(caption + left_out)))
    picture = Image.new("RGB", (inner + 2 * MARGIN, top + lines * (CELL + GAP) - GAP + MARGIN), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, MARGIN), data.name, INK, title)
    draw.text((MARGIN, MARGIN + 28), caption + left_out, QUIET, small)
    for number, (name, indices) in enumerate(lines_of):
        column, line = divmod(number, lines)
        x, y = MARGIN + column * (width + 2 * MARGIN), top + line * (CELL + GAP)
        draw.text((x, y + CELL // 2), _short(name), INK, text, anchor="lm")
        for place, index in enumerate(indices):
            picture.paste(_tile(data, index), (x + names + place * (CELL + GAP), y))
    return picture


def _splits(data: Data) -> list[tuple[str, Any]]:
    return [(name, part) for name in ("train", "valid", "test") if (part := getattr(data, name)) is not None]


def _short(name: str, most: int = 22) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _tile(data: Data, index: int) -> Any:
    """One sample fitted into a cell; small images keep hard pixels."""
    from PIL import Image, ImageOps

    array = (data.train.inputs[index] if isinstance(data.train, Split) else data.train[index][0]).numpy()
    image = Image.fromarray(array[0] if len(array) == 1 else array[:3].transpose(1, 2, 0)).convert("RGB")
    small = max(image.size) <= CELL
    fitted = ImageOps.contain(image, (CELL, CELL), Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)
    return ImageOps.pad(fitted, (CELL, CELL), color=BACKGROUND)
