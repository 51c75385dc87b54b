"""What a pretrained model was trained on, known before its weights are: size and normalisation of images, tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from ..checks import is_number, is_whole
from ..errors import ConfigError
from .external import found, timm_library
from .hugging_face import found_at

SOURCES = "timm:NAME, hf:OWNER/NAME, hf:FOLDER, or package.module:callable"


@dataclass(frozen=True)
class PretrainedConfig:
    """How a model was pretrained, as far as its source says; made by `configuration`.

    Attributes:
        source: the model's name, such as "timm:resnet18.a1_in1k".
        input_size: (channels, height, width) of its images; None where that is not said, or it takes texts.
        mean, std: by which images were normalised, by channel, in units where 255 is 1; () where that is not said.
        interpolation: by which images were resized, such as "bicubic"; "" where that is not said.
        classifier: the name of the module that is its head; None where that is not said.
        labels: of its own classes, in the order of its outputs.
        tokenizer: of a model of texts: its JSON, the token after the end of a text, and the most tokens of one.
        architecture: what it takes to make the model without its weights, where its name alone does not.
        revision: of the weights, where their source has such.
        crop: the share of the shorter side of an image that was cut out of its middle in evaluation, as timm's
            ``crop_pct``; 1 where that is not said.
    """

    source: str
    input_size: tuple[int, int, int] | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    interpolation: str = ""
    classifier: str | None = None
    labels: tuple[str, ...] = ()
    tokenizer: tuple[str, int, int] | None = None
    architecture: Mapping[str, Any] | None = field(default=None, hash=False)
    revision: str | None = None
    crop: float = 1.0

    @classmethod
    def of(cls, source: str, values: Mapping[str, Any]) -> Self:
        """From a mapping as timm has it; keys that it has no use for are not looked at.

        Raises:
            ConfigError: sizes or channel statistics that are none.

        >>> PretrainedConfig.of("mynet:net", {"input_size": [3, 64, 64], "mean": 0.5, "std": 0.25}).mean
        (0.5,)
        """
        wrong = f"the pretrained_cfg of {source} has {{}}={{!r}}, which is {{}}"
        size = values.get("input_size")
        if size is not None and not (isinstance(size, list | tuple) and len(size) == 3 and all(map(is_whole, size))):
            raise ConfigError(wrong.format("input_size", size, "(channels, height, width), three whole numbers"))
        channels = (1,) if size is None else (1, size[0])
        statistics = {}
        for name in ("mean", "std"):
            given = values.get(name)
            each = () if given is None else tuple(given) if isinstance(given, list | tuple) else (given,)
            if given is not None and (len(each) not in channels or not all(map(is_number, each))):
                raise ConfigError(wrong.format(name, given, "one number, or one for each channel of input_size"))
            statistics[name] = tuple(map(float, each))
        if bool(statistics["mean"]) != bool(statistics["std"]):
            raise ConfigError(f"the pretrained_cfg of {source} has mean or std alone: give both, or neither")
        if any(value <= 0 for value in statistics["std"]):
            raise ConfigError(wrong.format("std", values["std"], "above 0"))
        crop = values.get("crop_pct") or 1.0
        if not is_number(crop) or not 0 < crop <= 1:
            raise ConfigError(wrong.format("crop_pct", crop, "a share of a side, above 0 and at most 1"))
        head = values.get("classifier")
        return cls(
            source, None if size is None else tuple(size), statistics["mean"], statistics["std"],
            str(values.get("interpolation") or ""), head if isinstance(head, str) else None, crop=float(crop),
        )  # fmt: skip

    def order(self, classes: Sequence[str] | None) -> tuple[int, ...] | None:
        """The places of `classes` among its own labels, where these are the same, whatever their case; else None.

        >>> PretrainedConfig("x", labels=("NEGATIVE", "POSITIVE")).order(("positive", "negative"))
        (1, 0)
        >>> PretrainedConfig("x", labels=("cat", "dog")).order(("cat", "horse"))
        """
        own = [label.casefold() for label in self.labels]
        asked = [label.casefold() for label in classes or ()]
        if not own or sorted(own) != sorted(asked) or len(set(own)) < len(own):
            return None
        return tuple(map(own.index, asked))


def configuration(name: str) -> PretrainedConfig:
    """How the model `name` was pretrained, without its weights; what is not known of it is left open.

    `name` is as for `onecycle.build_model`. A callable of one's own may say so by an attribute ``pretrained_cfg``, a
    mapping with ``input_size``, ``mean``, ``std``, ``interpolation``, ``crop_pct`` and ``classifier``.

    Raises:
        ConfigError: a model that has no pretrained weights, or an unknown one.
        MissingDependency: a package that is not installed.
    """
    kind, _, rest = name.partition(":")
    if kind == "hf" and rest:
        known = found_at(rest)
        return replace(
            PretrainedConfig.of(name, known.values), labels=known.labels, tokenizer=known.tokenizer,
            architecture=known.architecture, revision=known.revision,
        )  # fmt: skip
    if not rest:
        raise ConfigError(without_weights(name))
    if kind == "timm":
        return _of_timm(name, rest)
    maker = found(name)
    return PretrainedConfig.of(name, getattr(maker, "pretrained_cfg", None) or {})


def recorded_configuration(name: str, facts: Mapping[str, Any]) -> PretrainedConfig:
    """That of the model `name` of a run, by the facts that were kept of its data: nothing is looked up or fetched.

    What does not matter once its weights are those of the run is left open: the labels of its own head, how images
    were resized.
    """
    if "architecture" not in facts:
        return configuration(name)
    columns, image = facts.get("columns") or {}, facts["kind"] == "image"
    statistics = {"mean": facts["mean"], "std": facts["std"]} if "seen" in facts else {}
    known = PretrainedConfig.of(name, {"input_size": facts["input_shape"] if image else None, **statistics})
    tokens = None if image else (columns["tokenizer"], columns["pad"], columns["length"])
    return replace(
        known, tokenizer=tokens, architecture=facts["architecture"], revision=facts.get("revision")
    )  # fmt: skip


def without_weights(name: str) -> str:
    """What is said where a reference model is asked for its pretrained weights."""
    return f"model {name!r} has no pretrained weights: leave out pretrained, or give {SOURCES}"


def _of_timm(name: str, model: str) -> PretrainedConfig:
    timm = timm_library(model)
    try:
        known = timm.get_pretrained_cfg(model, allow_unregistered=False)
    except RuntimeError:  # of an unknown tag
        known = None
    values = {} if known is None else known.to_dict()
    if known is None or not known.has_weights:
        having = [one for one in timm.list_pretrained() if one.partition(".")[0] == model.partition(".")[0]]
        raise ConfigError(
            f"timm has no pretrained weights for {model!r}: "
            + (f"it has {', '.join(having)}" if having else "timm.list_pretrained() names the models that have some")
        )
    return PretrainedConfig.of(name, values)
