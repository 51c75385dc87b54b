"""What is asked over HTTP, bytes with a type, as the samples of a model. Nothing in them is taken for a path."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data.arrays import as_tensor
from ..data.csv_files import cells_of, decoded_text
from ..data.npz import array_of
from ..data.splits import check_finite
from ..data.text_tokens import TextTokens
from ..errors import ConfigError, DataError
from ..jobs.predict import TrainedModel
from ..text import count, size

SAMPLES = 1000  # of one request
COLUMNS = 10_000  # of a table
MEMORY = 256_000_000  # bytes of the images of a request as the model sees them
PIXELS = 89_478_485  # of an image, from which on Pillow warns of bombs: 270 MB of colours
JSON, NPY, PLAIN, FORM = "application/json", "application/octet-stream", "text/plain", "multipart/form-data"
TABLES = ("text/csv", "application/csv", "text/tab-separated-values")
ARRAYS = (NPY, "application/x-npy", "application/npy")
MAGIC = b"\x93NUMPY"
SURROGATE = rb"\ud"  # half of a character, in JSON
SERVED = ("image", "table", "texts", "array")


class RequestRefused(Exception):
    """A request that is not answered: `status` of HTTP, and in words what came, what is allowed and how to mend it."""

    def __init__(self, status: int, message: str, **headers: str):
        super().__init__(message)
        self.status, self.headers = status, headers


@dataclass(frozen=True)
class Question:
    """The body of a request, its media type in lower case, and how many classes are to be named, if it says."""

    body: bytes
    media: str
    boundary: bytes = b""
    top_k: int | None = None


def media_of(header: str) -> tuple[str, bytes]:
    """The media type of a Content-Type, and the boundary of a form.

    >>> media_of("Text/CSV; charset=utf-8"), media_of("")
    (('text/csv', b''), ('application/octet-stream', b''))
    """
    from python_multipart.multipart import parse_options_header

    media, options = parse_options_header(header)
    return media.decode("latin-1").lower() or NPY, options.get(b"boundary", b"")


def accepted(kind: str) -> tuple[str, ...]:
    """The media types that a model of this kind takes, beside a form with such parts."""
    return {
        "image": ("image/*", *ARRAYS),
        "table": (JSON, *TABLES),
        "texts": (JSON, PLAIN),
        "array": (JSON, *ARRAYS),
    }[kind]


def check_media(kind: str, media: str) -> None:
    """Raise a `RequestRefused` for a media type that a model of this kind has no use for."""
    allowed = accepted(kind)
    images = media.startswith("image/") and "image/*" in allowed
    if media != FORM and not images and media not in allowed:
        raise RequestRefused(
            415, f"received Content-Type {media}; this model of {_several(kind)} takes {', '.join((*allowed, FORM))}"
        )


def samples_of(trained: TrainedModel, question: Question, say: Any) -> Tensor:
    """The samples [n, ...] of a question, as the model sees them; `say` is told what is unlike those of training.

    Raises:
        RequestRefused: a body that is empty, or not what its media type says, or of too many samples.
        DataError: what the model does not take.
    """
    if question.media == FORM:
        parts = [_typed(trained.kind, part) for part in form_parts(question.body, question.boundary)]
    else:
        parts = [(question.media, question.body)]
    images = [data for _, data in parts] if trained.kind == "image" else []
    if not parts or not all(data for _, data in parts):
        raise RequestRefused(400, f"received an empty body; send {describe(trained)}")
    each = math.prod(trained.input_shape or (1,))
    if len(images) > max(1, min(SAMPLES, MEMORY // each)):
        raise RequestRefused(
            413, f"received {len(images)} images of {size(each)} each for the model; send fewer in a request"
        )
    if images and not any(data.startswith(MAGIC) for data in images):
        return trained.images(images, most=PIXELS, say=say)
    made = [_of_part(trained, media, data, say) for media, data in parts]
    if len({part.shape[1:] for part in made}) > 1:
        raise RequestRefused(422, "received samples of several shapes; send those of one shape together")
    samples = torch.cat(made)
    if len(samples) > SAMPLES:
        raise RequestRefused(413, f"received {len(samples):,} samples; a request has at most {SAMPLES:,}: send several")
    return samples


def describe(trained: TrainedModel) -> str:
    """What is sent to a model, in words."""
    if trained.kind == "image":
        return "an image file, as the body or as a file of a form"
    if trained.kind == "texts":
        return '{"text": "..."} or {"text": ["...", "..."]} as JSON, or a text as text/plain'
    if trained.columns is not None:
        names = ", ".join(f'"{name}": ...' for name in trained.columns.names[:2])
        return (
            f"a row {{{names}{', ...' if len(trained.columns.names) > 2 else ''}}} as JSON, a list of rows, or text/csv"
        )
    shape = f" of shape {list(trained.input_shape)}" if trained.input_shape else ""
    return f"a sample{shape}, or a list of them, as JSON or as the bytes of a .npy file"


def _of_part(trained: TrainedModel, media: str, data: bytes, say: Any) -> Tensor:
    if trained.kind == "image" and not data.startswith(MAGIC):
        return trained.images([data], most=PIXELS, say=say)
    if trained.kind in ("image", "array"):
        array = _nested(parsed_json(data), trained) if media == JSON else array_of(data, "the body")
        return trained.samples(_batch(array, trained), say)
    if isinstance(trained.columns, TextTokens):
        texts = _texts(parsed_json(data)) if media == JSON else [_decoded(data)]
        return trained.samples({trained.columns.column: _few(texts)}, say)
    if media == JSON:
        return trained.samples(columns_of_rows(_few(_rows(parsed_json(data), trained))), say)
    if max(max(map(line.count, (b",", b";", b"\t", b"|"))) for line in data.split(b"\n", 3)[:3]) > COLUMNS:
        raise _too_wide()
    cells = cells_of(data, "the body", tabs=media == "text/tab-separated-values")
    _few(range(cells.table.num_rows))
    return trained.samples(cells, say)


def _typed(kind: str, part: tuple[str, bytes]) -> tuple[str, bytes]:
    """A part of a form with the type that it plainly has: browsers and curl do not know all."""
    media, data = part
    if kind == "image":
        return media, data
    if kind == "table" and media not in accepted(kind):
        return (JSON if data.lstrip()[:1] in (b"{", b"[") else TABLES[0]), data
    if kind == "texts" and media != JSON:
        return PLAIN, data
    if kind == "array":
        return (NPY if data.startswith(MAGIC) else JSON), data
    return part


# Forms


def form_parts(body: bytes, boundary: bytes) -> list[tuple[str, bytes]]:
    r"""The parts of a form, each a media type and bytes; names of files and of fields are not looked at.

    >>> form_parts(b'--x\r\nContent-Type: text/csv\r\n\r\na,b\r\n--x--\r\n', b"x")
    [('text/csv', b'a,b')]

    Raises:
        RequestRefused: what is no form, or one that ends too early, or of more parts than samples are allowed.
    """
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser

    parts: list[tuple[str, bytearray]] = []
    name, value, media, ended = bytearray(), bytearray(), [""], []

    def begin() -> None:
        if len(parts) == SAMPLES:
            raise RequestRefused(413, f"received a form of more than {SAMPLES:,} parts; send several requests")
        media[0] = ""
        parts.append(("", bytearray()))

    def header() -> None:
        if name.lower() == b"content-type":
            media[0] = value.decode("latin-1")
        name.clear()
        value.clear()

    def begun() -> None:
        parts[-1] = (media_of(media[0])[0], parts[-1][1])

    callbacks: Any = {
        "on_part_begin": begin,
        "on_header_field": lambda data, start, end: name.extend(data[start:end]),
        "on_header_value": lambda data, start, end: value.extend(data[start:end]),
        "on_header_end": header,
        "on_headers_finished": begun,
        "on_part_data": lambda data, start, end: parts[-1][1].extend(data[start:end]),
        "on_end": lambda: ended.append(True),
    }
    try:
        parser = MultipartParser(boundary, callbacks)
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise RequestRefused(400, f"received a form that cannot be read: {error}. Send it again") from error
    if not ended:
        raise RequestRefused(400, "received a form without its end, or without a boundary. Send it again, and whole")
    return [(media, bytes(data)) for media, data in parts]


# JSON


def parsed_json(data: bytes) -> Any:
    """What JSON says; NaN, infinite numbers and names that come twice are refused.

    Raises:
        RequestRefused: it is none.

    >>> parsed_json(b'{"x": 1, "y": [null, "a"]}')
    {'x': 1, 'y': [None, 'a']}
    """

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is no JSON; give null for what is missing")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            raise ValueError(f"an object has {len(pairs)} names, and only {len(made)} different ones")
        return made

    try:
        value = json.loads(data, parse_constant=refuse, object_pairs_hook=once)
        if SURROGATE in data.lower():
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeError as error:
        raise RequestRefused(400, "received JSON with characters that are no Unicode. Send UTF-8") from error
    except (ValueError, RecursionError) as error:
        said = "it is nested too deeply" if isinstance(error, RecursionError) else str(error).partition("; use sys.")[0]
        raise RequestRefused(400, f"received what cannot be read as JSON: {said}") from error
    return value


def columns_of_rows(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Rows as a pyarrow table, null where a row lacks a column; a column of values of several kinds is one of words.

    >>> columns_of_rows([{"x": 1, "y": "a"}, {"x": 2.5}]).to_pydict()
    {'x': [1.0, 2.5], 'y': ['a', None]}
    >>> columns_of_rows([{"x": 1}, {"x": "7"}, {"x": True}]).to_pydict()
    {'x': ['1', '7', 'true']}

    Raises:
        DataError: cells that hold more than one value.
    """
    import pyarrow as pa

    names = list(dict.fromkeys(name for row in rows for name in row))
    if len(names) > COLUMNS:
        raise _too_wide()
    return pa.table([_column(name, [row.get(name) for row in rows]) for name in names], names=names)


def _column(name: str, values: list[Any]) -> Any:
    import pyarrow as pa

    if strange := [value for value in values if isinstance(value, list | dict)]:
        kind = "a list" if isinstance(strange[0], list) else "an object"
        raise DataError(f"Column {name} has {kind} in a row. Give one number, text, true, false or null a cell.")
    kinds = {bool if value is True or value is False else type(value) for value in values if value is not None}
    if not kinds:
        return pa.nulls(len(values))
    if kinds == {int, float}:
        return pa.array([None if value is None else _as_float(value) for value in values], pa.float64())
    long = kinds == {int} and any(value is not None and abs(value) >= 2**63 for value in values)
    if len(kinds) == 1 and not long:
        return pa.array(values)
    return pa.array([value if isinstance(value, str | None) else json.dumps(value) for value in values], pa.string())


def _as_float(number: float) -> float:
    """A number as float64 has it: infinite where it is beyond."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _rows(value: Any, trained: TrainedModel) -> list[Mapping[str, Any]]:
    rows = value if isinstance(value, list) else [value]
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise RequestRefused(422, f"received {_named(value)}; send {describe(trained)}")
    return rows


def _texts(value: Any) -> list[str]:
    texts = value.get("text") if isinstance(value, dict) else value
    texts = texts if isinstance(texts, list) else [texts]
    given = [one.get("text") if isinstance(one, dict) else one for one in texts]
    texts = [text for text in given if isinstance(text, str)]
    if not given or len(texts) < len(given):
        raise RequestRefused(422, f'received {_named(value)}; send {{"text": "..."}} or {{"text": ["...", "..."]}}')
    return texts


def _nested(value: Any, trained: TrainedModel) -> np.ndarray:
    try:
        array = np.array(value)
    except ValueError as error:  # lists of several lengths
        raise RequestRefused(
            422, f"received lists of several lengths, or nested too deeply; send {describe(trained)}"
        ) from error
    if array.dtype == object and all(isinstance(one, int | float) for one in array.flat):  # beyond 64 bits
        array = np.array([_as_float(one) for one in array.flat]).reshape(array.shape)
    if array.dtype.kind not in "fiub" or not array.size or not array.ndim:
        raise RequestRefused(422, f"received {_named(value)} that is not of numbers alone; send {describe(trained)}")
    return array


# Samples


def _batch(array: np.ndarray, trained: TrainedModel) -> Tensor:
    """One sample as a batch of one, a batch as it is."""
    shape = trained.input_shape
    if shape is None:
        single = array.ndim < 2
    elif trained.kind == "image":
        single = array.shape in (shape, shape[1:], (*shape[1:], shape[0]))
    else:
        single = array.shape == shape
    batch = as_tensor(array[None] if single or not array.ndim else array)
    check_finite(batch, f"values that were sent, or beyond {torch.finfo(torch.float32).max:.2g}")
    return batch


def _too_wide() -> RequestRefused:
    return RequestRefused(413, f"received a table of more than {COLUMNS:,} columns; send those that the model has")


def _decoded(data: bytes) -> str:
    decoded = decoded_text(data)
    if decoded is None:
        raise RequestRefused(422, "received bytes that are no text; send UTF-8")
    return decoded[0]


def _few(samples: Any) -> Any:
    if len(samples) > SAMPLES:
        raise RequestRefused(413, f"received {len(samples):,} samples; a request has at most {SAMPLES:,}: send several")
    return samples


def _named(value: Any) -> str:
    if isinstance(value, list):
        return f"a list of {count(len(value), 'value')}"
    if isinstance(value, dict):
        return f"an object with {', '.join(map(repr, list(value)[:5])) or 'no names'}"
    return {"str": "a text", "NoneType": "null", "bool": "true or false"}.get(type(value).__name__, "a number")


def _several(kind: str) -> str:
    return {"texts": "texts", "image": "images", "table": "tables", "array": "arrays"}[kind]


def check_served(trained: TrainedModel) -> None:
    """Raise a ConfigError for a model of what cannot be sent: the next characters of a text."""
    if trained.kind not in SERVED:
        raise ConfigError(
            f"this run is of {trained.kind}, predicted character by character; images, tables, texts by class and "
            "arrays can be served. Use onecycle.load_run in Python"
        )
