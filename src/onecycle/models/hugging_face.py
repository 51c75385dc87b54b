"""Classifiers of transformers, ``hf:OWNER/NAME`` or ``hf:FOLDER``: images or the tokens of texts to [n, classes]."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import ConfigError, MissingDependency
from ..text import count, listed
from .hub import folder_of, in_words, revision_of
from .small import image_channels

IMAGE, TEXTS, POOLED = "image", "texts", "pooled"
RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # as Pillow numbers them
GENERATING = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
NAMED = ("_name_or_path", "transformers_version", "id2label", "label2id", "num_labels", "architectures", "dtype")
WHOLE = 384  # pixels of a side from which on the image processor of ConvNeXt, which has a crop_pct, cuts off nothing
LONGEST = 10**6  # a tokenizer that knows no most length says far more


class Found(NamedTuple):
    """What the files of a model beside its weights say; see `PretrainedConfig` for what is not of texts."""

    values: Mapping[str, Any]
    labels: tuple[str, ...]
    tokenizer: tuple[str, int, int] | None  # its JSON, the token of padding and the most tokens
    architecture: Mapping[str, Any]
    revision: str | None


class ImageClassifier(nn.Module):
    """An image classifier of transformers: float32 [n, channels, height, width] to [n, classes]."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return self.net(pixel_values=images).logits


class TextClassifier(nn.Module):
    """A text classifier of transformers: tokens int64 [n, length], `pad` after the end, to [n, classes]."""

    def __init__(self, net: nn.Module, pad: int):
        super().__init__()
        self.net, self.pad = net, pad

    def forward(self, ids: Tensor) -> Tensor:
        return self.net(input_ids=ids, attention_mask=_there(ids, self.pad).long()).logits


class PooledEncoder(nn.Module):
    """An encoder of texts with one linear layer over the mean of its outputs, or over the first, for "cls".

    Source: Reimers and Gurevych, "Sentence-BERT", 1908.10084, section 3.
    """

    def __init__(self, net: nn.Module, pad: int, width: int, classes: int, pooling: str):
        super().__init__()
        self.net, self.pad, self.pooling = net, pad, pooling
        self.classifier = nn.Linear(width, classes)

    def forward(self, ids: Tensor) -> Tensor:
        there = _there(ids, self.pad)
        outputs = self.net(input_ids=ids, attention_mask=there.long()).last_hidden_state
        if self.pooling == "cls":
            return self.classifier(outputs[:, 0])
        kept = there[..., None].to(outputs.dtype)
        return self.classifier((outputs * kept).sum(1) / kept.sum(1))


def _there(ids: Tensor, pad: int) -> Tensor:
    """Which tokens are of the text, bool [n, length]; the first always is, so that something is left of each."""
    return (ids != pad) | (torch.arange(ids.shape[1], device=ids.device) == 0)


def found_at(name: str) -> Found:
    """What is known of the model `name` without its weights.

    Raises:
        ConfigError: no such model, or one that gives no classes.
        MissingDependency: transformers is not installed.
    """
    transformers, folder = _library(name), folder_of(name)
    config = _read(name, folder, lambda: transformers.AutoConfig.from_pretrained(folder, local_files_only=True))
    kind = _kind(name, config)
    architecture = {"kind": kind, "config": _architecture(config), "pooling": _pooling(folder)}
    own = [config.id2label[i] for i in sorted(config.id2label)] if "Classification" in _made_as(config) else []
    labels = () if own == [f"LABEL_{i}" for i in range(len(own))] else tuple(map(str, own))
    if kind == IMAGE:
        return Found(_of_images(config, folder), labels, None, architecture, revision_of(folder))
    tokenizer = _tokenizer(transformers, name, folder, config)
    return Found({}, labels, tokenizer, {**architecture, "pad": tokenizer[1]}, revision_of(folder))


def from_hub(
    name: str, *, input_shape: tuple[int, ...], classes: int, known: Mapping[str, Any], columns: Any = None,
    pretrained: bool = False, order: Sequence[int] | None = None, **options: Any,
) -> nn.Module:  # fmt: skip
    """The classifier `name` for as many classes; options are values of its configuration.

    Args:
        known: its architecture, as `found_at` says it; nothing else is read without the weights.
        columns: of texts, with its own tokens.
        order: the places of the classes among its own, where its head is kept; else that is new.

    Raises:
        ConfigError: inputs or an option that it does not take, or weights of another model.
    """
    transformers, kind = _library(name), known["kind"]
    config = _configured(transformers, name, known["config"], options)
    _check_inputs(name, kind, config, input_shape, columns)
    make = {
        IMAGE: transformers.AutoModelForImageClassification,
        TEXTS: transformers.AutoModelForSequenceClassification,
        POOLED: transformers.AutoModel,
    }[kind]
    if kind != POOLED:
        config.num_labels = classes
    with _quiet(transformers):
        head = [] if kind == POOLED else _head(make, config, classes)
        try:
            net = _weights(make, name, config, head) if pretrained else make.from_config(config)
        except OSError as error:
            raise ConfigError(f"the weights of hf:{name} cannot be read: {in_words(error)}") from error
    net = net.float().train()  # transformers gives what it has read in evaluation mode, without dropout
    if pretrained and kind != POOLED:
        _renew(net, config, head) if order is None else _reorder(net, head, order)
    if kind == IMAGE:
        made: nn.Module = ImageClassifier(net)
    elif kind == TEXTS:
        made = TextClassifier(net, known["pad"])
    else:
        made = PooledEncoder(net, known["pad"], config.hidden_size, classes, known["pooling"])
    name_of_head = "classifier" if kind == POOLED else f"net.{head[0].rpartition('.')[0]}"
    made.pretrained_cfg = {"classifier": name_of_head}  # type: ignore[assignment]
    return made


# What is known of a model


def _library(name: str) -> Any:
    try:
        import transformers  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"model hf:{name} needs the package transformers: pip install 'onecycle[hf]' ({error})"
        ) from error
    return transformers


def _read(name: str, folder: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception as error:  # of transformers, whatever it is
        raise ConfigError(
            f"model 'hf:{name}' cannot be read by transformers from {folder}: {in_words(error)}"
        ) from error


def _made_as(config: Any) -> str:
    """The class that the weights are of, as its author says."""
    return next(iter(config.architectures or ()), "")


def _kind(name: str, config: Any) -> str:
    from transformers.models.auto import modeling_auto as known  # pyright: ignore[reportMissingImports]

    made_as = _made_as(config)
    if made_as.endswith(GENERATING):
        raise ConfigError(
            f"model 'hf:{name}' is a {made_as}, which writes texts: give a classifier or an encoder, such as "
            "hf:distilbert/distilbert-base-uncased"
        )
    images = type(config) in known.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    texts = type(config) in known.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING
    if images and (not texts or made_as.endswith("ForImageClassification")):
        return IMAGE
    if not texts:
        raise ConfigError(
            f"model 'hf:{name}' is a {made_as or config.model_type}, of which transformers has no classifier of images "
            "or of texts: give one that it has"
        )
    return TEXTS if "For" in made_as else POOLED


def _architecture(config: Any) -> dict[str, Any]:
    """The configuration as plain data, without names and labels."""
    values = json.loads(config.to_json_string(use_diff=False))
    return {key: value for key, value in values.items() if key not in NAMED}


def _pooling(folder: Path) -> str:
    """How the outputs of a sentence encoder become one: "mean", or "cls" where it says so."""
    said = _json(folder / "1_Pooling" / "config.json")
    return "cls" if said.get("pooling_mode_cls_token") else "mean"


def _of_images(config: Any, folder: Path) -> dict[str, Any]:
    """Size and normalisation by the image processor, as far as it says."""
    said, channels = _json(folder / "preprocessor_config.json"), getattr(config, "num_channels", 3)
    given = said.get("crop_size") if said.get("do_center_crop", True) and said.get("crop_size") else said.get("size")
    sides = given or getattr(config, "image_size", None)
    if isinstance(sides, Mapping):
        sides = (sides.get("height") or sides.get("shortest_edge"), sides.get("width") or sides.get("shortest_edge"))
    height, width = sides if isinstance(sides, list | tuple) else (sides, sides)
    unit = 255 * said.get("rescale_factor", 1 / 255) if said.get("do_rescale", True) else 255.0
    mean, std = (said.get(f"image_{which}") for which in ("mean", "std")) if said.get("do_normalize", True) else (0, 1)
    if said and mean is not None and std is not None:
        each = ((value,) if isinstance(value, int | float) else tuple(value) for value in (mean, std))
        mean, std = (tuple(one / unit for one in values) for values in each)
    return {
        "input_size": (channels, height, width) if height and width else None,
        "mean": mean,
        "std": std,
        "interpolation": RESAMPLING.get(said.get("resample", -1), ""),
        "crop_pct": _crop(said),
    }


def _crop(said: Mapping[str, Any]) -> float:
    """The share of the shorter side that an image processor cuts out, after it has brought that to a size."""
    size, cut = said.get("size"), said.get("crop_size")
    resized = size.get("shortest_edge") if isinstance(size, Mapping) else size
    sides: list[Any] = list(cut.values()) if isinstance(cut, Mapping) else [cut]
    if said.get("do_center_crop") and said.get("do_resize", True) and resized and all(sides):
        return min(1.0, min(sides) / resized)
    whole = resized is None or resized >= WHOLE
    return 1.0 if whole else said.get("crop_pct") or 1.0


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_bytes()) if path.is_file() else {}
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON: {error}. Fetch it again") from error


def _tokenizer(transformers: Any, name: str, folder: Path, config: Any) -> tuple[str, int, int]:
    with _quiet(transformers):
        made = _read(name, folder, lambda: transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True))
    if not made.is_fast:
        raise ConfigError(f"the tokenizer of hf:{name} is no fast one: put its tokenizer.json into {folder}")
    if made.pad_token_id is None:
        raise ConfigError(
            f"the tokenizer of hf:{name} has no token for padding: give pad_token in tokenizer_config.json"
        )
    backend = made.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    positions = getattr(config, "max_position_embeddings", None)
    most = [made.model_max_length, *([positions] if isinstance(positions, int) and positions > 0 else [])]
    return backend.to_str(), int(made.pad_token_id), int(min(*most, LONGEST))


# The model


def _configured(transformers: Any, name: str, values: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    values = {key: value for key, value in values.items() if key != "model_type"} | {"model_type": values["model_type"]}
    config = transformers.AutoConfig.for_model(**values)
    for option, value in options.items():
        if not hasattr(config, option):
            raise ConfigError(
                f"model 'hf:{name}' has no option {option!r}: those of a {type(config).__name__} are values of its "
                "config.json, such as hidden_dropout_prob"
            )
        setattr(config, option, value)
    return config


def _check_inputs(name: str, kind: str, config: Any, input_shape: tuple[int, ...], columns: Any) -> None:
    if kind == IMAGE:
        channels, takes = image_channels(f"hf:{name}", input_shape), getattr(config, "num_channels", 3)
        if channels != takes:
            raise ConfigError(f"hf:{name} takes images of {count(takes, 'channel')}; received {list(input_shape)}")
        return
    if not getattr(columns, "source", ""):
        raise ConfigError(
            f"hf:{name} takes texts by its own tokens: load them with its configuration, "
            f"load(..., pretrained=configuration('hf:{name}')); of a table, with text_column=NAME"
        )
    if columns.vocabulary > config.vocab_size:
        raise ConfigError(
            f"hf:{name} knows {config.vocab_size:,} tokens, and the tokenizer of {columns.source} has "
            f"{columns.vocabulary:,}: load the texts with the configuration of the model itself"
        )


def _head(make: Any, config: Any, classes: int) -> list[str]:
    """The names of the weights that are of the classes."""
    shapes = []
    for many in (classes, classes + 1):
        config.num_labels = many
        with torch.device("meta"):
            shapes.append({key: value.shape for key, value in make.from_config(config).named_parameters()})
    config.num_labels = classes
    return [key for key, shape in shapes[0].items() if shape != shapes[1][key]]


def _weights(make: Any, name: str, config: Any, head: Sequence[str]) -> nn.Module:
    """The model with its weights; those of the `head` are whatever they are."""
    folder = folder_of(name, weights=True)
    net, said = _read(
        name, folder, lambda: make.from_pretrained(
            folder, config=config, local_files_only=True, ignore_mismatched_sizes=True, output_loading_info=True,
            dtype=torch.float32,
        )
    )  # fmt: skip
    body = f"{net.base_model_prefix}."
    of_head = {key.partition(".")[0] for key in head}
    lost = [
        key for key in said["missing_keys"]
        if ("pooler" not in key and (key.startswith(body) or not any(k.startswith(body) for k in net.state_dict())))
        and key.partition(".")[0] not in of_head
    ]  # fmt: skip
    other = [key if isinstance(key, str) else key[0] for key in said["mismatched_keys"]]
    lost += [key for key in other if key not in head]
    if lost:
        raise ConfigError(
            f"the weights of hf:{name} in {folder} do not fit its {type(net).__name__}: {count(len(lost), 'tensor')} "
            f"{'is' if len(lost) == 1 else 'are'} missing or of another shape, such as {listed(lost, most=3)}"
        )
    return net


def _renew(net: nn.Module, config: Any, head: Sequence[str]) -> None:
    """Draw the weights of the head anew, also where the old ones have the shape of those."""
    for key in head:
        weight = net.get_parameter(key)
        if weight.ndim > 1:
            nn.init.normal_(weight, std=getattr(config, "initializer_range", None) or 0.02)
        else:
            nn.init.zeros_(weight)


@torch.no_grad()
def _reorder(net: nn.Module, head: Sequence[str], order: Sequence[int]) -> None:
    """Bring the classes of the head into this order."""
    for key in head:
        weight = net.get_parameter(key)
        weight.copy_(weight[list(order)].clone())


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Within the block transformers warns of nothing, and shows no bar: what is new in a model is told here."""
    said, bars = transformers.logging, transformers.logging.is_progress_bar_enabled()
    level = said.get_verbosity()
    said.set_verbosity(logging.CRITICAL)
    said.disable_progress_bar()
    try:
        yield
    finally:
        said.set_verbosity(level)
        if bars:
            said.enable_progress_bar()
