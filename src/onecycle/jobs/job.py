"""One training run as plain data: what the command line, a file or a queue describes."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, fields
from os import PathLike
from typing import Any, Self

from ..checks import flag, keywords, names, number, one_of, plain_data, share, unless_none, whole, word
from ..errors import CheckpointError, ConfigError
from ..records.files import plain
from ..schedules.budget import SHARE, Budget
from ..schedules.policy import Policy
from ..schedules.presets import peak_number, preset
from ..schedules.stages import HEAD, METHODS, Stage
from ..text import listed
from ..training.options import BEFORE, TrainingOptions, option

SCHEDULE = "Schedule"
DEFAULTS = ("auto", "default")
AUTO_MODEL = "auto"
OFF = "off"  # no fine-tuning
FETCHED = ("hf:", "timm:")  # models whose weights may have to be fetched


@dataclass(frozen=True)
class Job(TrainingOptions):
    """Everything that decides how a run goes: the options of a `Learner`, and these.

    Args:
        data: a name or a path, as in `onecycle.load`; `limit`, `image_size`, `fit`, `skip_damaged`, `target`, `valid`,
            `test`, `task`, `leave_out` and `text_column` are its arguments.
        model: a name or ``package.module:callable``, as in `onecycle.build_model`; None: one that suits the data;
            "auto": that, and for images in a time budget one that suits the seconds too, with its precision, see
            `onecycle.jobs.afford.affordable`.
        model_options: keywords of the model, such as ``{"dropout": 0.2}``.
        pretrained: whether the model begins with its pretrained weights, and the data become what it was pretrained on;
            None: those of ``hf:`` do. See `onecycle.models.pretrained.configuration`.
        lora: the rank of the changes that are trained in place of a pretrained model's own weights, see
            `onecycle.models.lora.add_lora`; None: all weights are.
        budget: what `Budget.parse` reads.
        lr_max: the peak learning rate: a number; "auto", from pilots inside the budget, see `search`, where it is large
            enough for some that can tell, else the optimizer's; or "default", the optimizer's, which goes with the
            samples of an update with AdamW and Adam.
        search: the share of the budget that pilots may take, where the peak is "auto"; 0 for none.
        fine_tune: how a pretrained model is trained, see `Learner.fine_tune`: "auto", "head", "discriminative" or
            "full"; "off": at once, as any other; None: "auto" with pretrained weights, else "off".
        freeze_epochs: of the head alone before, a part of the budget; None: 1, or half of a budget of less than 2.
        stages: others, in place of these and of the budget, each as `Stage.of` takes it.
        policy: a preset's name, or a policy as `Policy.to_dict` gives it, which has its own peak.
        balance: whether pilots try weight decay, dropout, batch size and label smoothing too, those that are left at
            their defaults.
        policy_options: keywords of the preset, such as ``{"peak_at": 0.3}``.
        extend: the folder of a finished run of the same data, model and options, which is gone on from; see
            `onecycle.jobs.extend.extension_of`.
        momentum: a number, or ``(high, low)`` for a cycle against the learning rate.

    Raises:
        ConfigError: a value of another type or range, or a policy or a momentum that cannot be used.
    """

    data: str = option(
        "digits",
        "digits, fashion-mnist, mnist, cifar10, cifar100, a folder of images by class, Parquet files, hub:OWNER/NAME, "
        "a .npz, a .csv, .tsv or .parquet table with --target, or a .txt for the character model.",
        "Data",
    )
    _: KW_ONLY
    model: str | None = option(
        None,
        "mlp, tabular, lenet, small-cnn, fast-cnn, resnet9, resnet20, resnet56, resnet110, wrn-22, char-transformer, "
        "timm:NAME, hf:OWNER/NAME, or package.module:callable; auto: one that suits the data and, for images in a "
        "time budget, the seconds.",
        "Model",
    )
    model_options: Mapping[str, Any] | None = option(
        None, "Keywords of the model, such as --model-options.dropout 0.2.", "Model"
    )
    pretrained: bool | None = option(
        None,
        "Begin with the model's pretrained weights, with the image size and the normalisation that go with them; by "
        "default models of hf: do.",
        "Model",
    )
    lora: int | None = option(
        None,
        "Of a pretrained model, train its head and a change of this rank of each linear layer, such as 8, in place of "
        "all weights (needs peft).",
        "Model",
    )
    fine_tune: str | None = option(
        None,
        "How a pretrained model is trained: head, on features that are computed once; discriminative, the head first "
        "and then all at rates that fall towards the input; full, at one rate; auto, the best of them by pilots in "
        "the budget, or the head as it was where that is as good; or off, all at once. By default auto with pretrained "
        "weights.",
        SCHEDULE,
    )
    freeze_epochs: float | None = option(
        None, "Epochs of the budget in which the head alone is fine-tuned first; by default 1.", SCHEDULE
    )
    stages: Sequence[Mapping[str, Any]] = option(
        (),
        "Stages of your own, in place of these: a .json file of "
        '[{"train": "head", "budget": "1 epochs"}, {"budget": "5 epochs", "lr_max": [1e-5, 1e-3]}].',
        SCHEDULE,
    )
    budget: str = option("10 epochs", 'Instead of --epochs: a time such as 90s, 5m or 1h, or "500 updates".', SCHEDULE)
    policy: str | Mapping[str, Any] = option(
        "one_cycle",
        "Shape of the schedule, see onecycle policy; or a .json file with schedules of your own: "
        '{"lr": {"points": [[0, 0.01], [0.3, 0.1], [1, 0]], "easing": "linear"}, "momentum": 0.9}',
        SCHEDULE,
    )
    policy_options: Mapping[str, Any] | None = option(
        None, "Keywords of the policy, such as --policy-options.peak_at 0.3.", SCHEDULE
    )
    lr_max: float | str = option(
        "auto",
        "Peak learning rate: a number; auto, from short pilots where the budget is large enough; or default, the "
        "optimizer's, which goes with the samples of an update with AdamW and Adam.",
        SCHEDULE,
    )
    search: float = option(
        SHARE, "Share of the budget that pilots may take to choose an automatic peak; 0: none, the default peak.",
        SCHEDULE,
    )  # fmt: skip
    balance: bool = option(
        False, "Let pilots try weight decay, dropout, batch size and label smoothing too, as onecycle search does.",
        SCHEDULE,
    )  # fmt: skip
    extend: str | None = option(
        None,
        "Go on from the end of the finished run in this folder, for --epochs or --budget more; all other options are "
        "those of that run.",
        SCHEDULE,
    )
    limit: int | None = option(None, "Use only so many training samples, evenly from all classes.", "Data")
    image_size: int | None = option(
        None, "Side in pixels that images are brought to; by default what is common among them.", "Data"
    )
    fit: str = option(
        "crop", "How images of other proportions are brought to one size: crop (the center), pad or squash.", "Data"
    )
    skip_damaged: bool = option(False, "Leave out images that do not decode, with a note, and go on.", "Data")
    target: str | None = option(
        None, "Of a table: the column to be predicted from the others, or several with commas.", "Data"
    )
    valid: str | None = option(None, "Of a table: a file to be measured on after each epoch.", "Data")
    test: str | None = option(None, "Of a table: a file to be measured on at the end.", "Data")
    task: str | None = option(
        None, "Of a table: classification, regression or multi-label; by default what suits the target.", "Data"
    )
    text_column: str | None = option(None, "Of a table: the column of texts to be learned from, and no other.", "Data")
    leave_out: Sequence[str] = option((), "Of a table: columns that are not to be learned from.", "Data")
    test_flips: bool = option(
        False, "Measure the test images a second time, by the mean over each and its mirror image.", "Run"
    )

    def __post_init__(self) -> None:
        open_precision = self.precision is None and self.model == AUTO_MODEL  # it is chosen with the model
        super().__post_init__()
        data, extend = (str(one) if isinstance(one, PathLike) else one for one in (self.data, self.extend))
        budget = Budget.parse(self.budget)
        self._keep(
            data=word("data", data, "a name or a path"),
            optimizer=word("optimizer", self.optimizer, "a name such as sgd"),
            model=unless_none(word, "model", self.model, "a name, or package.module:callable"),
            model_options=unless_none(keywords, "model_options", self.model_options, '{"dropout": 0.2}'),
            pretrained=unless_none(flag, "pretrained", self.pretrained),
            lora=unless_none(whole, "lora", self.lora, what="the rank of the change of a layer"),
            budget=self.budget if isinstance(self.budget, str) else str(budget),
            lr_max=self.lr_max if isinstance(self.lr_max, str) else peak_number(self.lr_max),
            fine_tune=unless_none(one_of, "fine_tune", self.fine_tune, (*METHODS, OFF)),
            freeze_epochs=unless_none(number, "freeze_epochs", self.freeze_epochs, least=0, what="epochs of the head"),
            stages=tuple(Stage.of(stage).to_dict() for stage in _listed("stages", self.stages)),
            balance=flag("balance", self.balance),
            search=share("search", self.search, of="the budget"),
            policy_options=unless_none(keywords, "policy_options", self.policy_options, '{"peak_at": 0.3}'),
            extend=unless_none(word, "extend", extend, "the folder of a finished run"),
            limit=unless_none(whole, "limit", self.limit, what="the number of training samples"),
            image_size=unless_none(whole, "image_size", self.image_size, what="the side of the images in pixels"),
            fit=word("fit", self.fit, "crop, pad or squash"),
            skip_damaged=flag("skip_damaged", self.skip_damaged),
            target=unless_none(word, "target", self.target, "the name of a column"),
            valid=unless_none(word, "valid", self.valid, "the path of a table"),
            test=unless_none(word, "test", self.test, "the path of a table"),
            task=unless_none(word, "task", self.task, "classification, regression or multi-label"),
            leave_out=names("leave_out", self.leave_out, '("id", "name")'),
            test_flips=flag("test_flips", self.test_flips),
        )
        if open_precision:
            self._keep(precision=None)
        if not isinstance(self.policy, str):
            self._keep(policy=keywords("policy", self.policy, '{"lr": 0.1}, or is the name of a preset'))
        self._keep(**{field.name: plain_data(field.name, getattr(self, field.name)) for field in fields(self)})
        self._check_schedule()
        self._check_tuning()
        self._check_weights()

    def _check_weights(self) -> None:
        if self.pretrained and self.model in (None, AUTO_MODEL):
            raise ConfigError(
                "pretrained is for a model with weights of its own: name it, model=... (--model), such as timm:NAME or "
                "hf:OWNER/NAME"
            )
        if self.lora is not None and not self.with_weights:
            raise ConfigError(
                f"lora={self.lora} changes a pretrained model: give pretrained (--pretrained), or no lora"
            )
        name = self.model or ""
        brings = ":" in name and not name.startswith(FETCHED)  # a callable of one's own may have weights without a word
        if self.fine_tune not in (None, OFF) and not (self.with_weights or brings):
            model = "" if name.startswith(FETCHED) else " and a model that has such, timm:NAME or hf:OWNER/NAME"
            raise ConfigError(
                f"fine_tune={self.fine_tune!r} is for pretrained weights, and model={self.model!r} would begin with "
                f"random ones: give pretrained (--pretrained){model}, or leave out fine_tune (--fine-tune)"
            )

    def _check_tuning(self) -> None:
        tuned = {"fine_tune": self.fine_tune, "freeze_epochs": self.freeze_epochs, "stages": self.stages}
        asked = listed([name for name, value in tuned.items() if value not in (None, (), OFF)], "and")
        if self.balance and (self.stages or self.tuning != OFF):
            raise ConfigError(
                "onecycle search (balance) is for a run in one stage, and a pretrained model is fine-tuned in several, "
                "the head first: use onecycle train, which finds the peak by pilots too; or train all layers from the "
                'first update on, with --fine-tune off (fine_tune="off")'
            )
        if not asked:
            return
        if self.stages and (self.fine_tune or self.freeze_epochs is not None or isinstance(self.lr_max, float)):
            raise ConfigError("stages have peaks and layers of their own: leave out fine_tune, freeze_epochs, lr_max")
        if self.stages and (self.policy != "one_cycle" or self.policy_options):
            raise ConfigError("stages have policies of their own: leave out policy and policy_options")
        if self.stages and self.budget != type(self).budget:
            raise ConfigError(f"stages have budgets of their own: leave out the budget; received {self.budget!r}")
        if not isinstance(self.policy, str) or self.extend is not None:
            other = "a policy of your own" if self.extend is None else "an extension"
            raise ConfigError(f"{asked} cannot be had with {other}: leave one of them out")
        if self.lora is not None:
            raise ConfigError(f"{asked} and lora={self.lora}, which trains head and changes at once: leave one out")
        if self.freeze_epochs is not None and self.tuning in (OFF, HEAD):
            raise ConfigError(
                f"freeze_epochs={self.freeze_epochs:g} is for a head before other layers, and fine_tune is "
                f'"{self.tuning}" here: leave it out, or give pretrained or fine_tune="auto"'
            )

    def _check_schedule(self) -> None:
        if isinstance(self.lr_max, str) and self.lr_max not in DEFAULTS:
            raise ConfigError(f'lr_max is a number, "auto" or "default"; received {self.lr_max!r}')
        if isinstance(self.policy, str):
            preset(self.policy, 0.1 if isinstance(self.lr_max, str) else self.lr_max, 10**6, **self.schedule_options)
        else:
            Policy.from_dict(self.policy)
            if self.lr_max != "auto":
                raise ConfigError(f"a policy of your own has its peak: leave out lr_max; received {self.lr_max!r}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From plain data, in which a list stands for a tuple.

        Raises:
            ConfigError: an unknown key, or a value that cannot be used.
        """
        return super().from_dict({k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})

    @classmethod
    def recorded(cls, config: Mapping[str, Any]) -> Self:
        """From the configuration of a run, which another version may have begun; see `completed`.

        Raises:
            CheckpointError: it has options that this version does not know.
        """
        known = {field.name for field in fields(cls)}
        if unknown := [name for name in config if name not in known]:
            raise CheckpointError(
                f"this run has {listed(unknown)}, which this version of onecycle has no option for: go on with the "
                "version that began it (pip install --upgrade onecycle, if that is a later one), or start a new run"
            )
        return cls.from_dict(completed(config))

    @property
    def schedule_options(self) -> dict[str, Any]:
        """The keywords of the policy, the momentum among them."""
        return {**(self.policy_options or {}), **({} if self.momentum is None else {"momentum": self.momentum})}

    @property
    def load_options(self) -> dict[str, Any]:
        """The keywords of `onecycle.load`, by name."""
        of_images, of_tables = ("image_size", "fit", "skip_damaged"), ("target", "valid", "test", "task", "leave_out")
        names = ("limit", *of_images, *of_tables, "text_column")
        return {name: getattr(self, name) for name in names}

    @property
    def with_weights(self) -> bool:
        """Whether the model begins with pretrained weights: as asked, else where it is one of ``hf:``.

        >>> Job("photos", model="hf:google/vit-base-patch16-224").with_weights, Job("digits", model="mlp").with_weights
        (True, False)
        """
        if self.pretrained is not None:
            return self.pretrained
        return bool((self.model_options or {}).get("pretrained")) or (self.model or "").startswith("hf:")

    @property
    def tuning(self) -> str:
        """How the model is fine-tuned, "off" where it is not.

        >>> Job("photos", model="timm:resnet18", pretrained=True).tuning, Job("photos").tuning
        ('auto', 'off')
        """
        plain = self.extend is not None or not isinstance(self.policy, str) or self.lora is not None
        return self.fine_tune or ("auto" if self.with_weights and not plain else OFF)

    @property
    def own_model_options(self) -> dict[str, Any]:
        """The keywords of the model but that of its weights, which `with_weights` tells."""
        return {name: value for name, value in (self.model_options or {}).items() if name != "pretrained"}

    def learner_keywords(self) -> dict[str, Any]:
        """The keywords of a `Learner`, by name; the momentum is that of the first update."""
        momentum = self.momentum[0] if isinstance(self.momentum, tuple) else self.momentum
        return {**super().learner_keywords(), "momentum": momentum}

    def command(self, *, lr_max: float | str | None = None) -> str:
        """The command that trains it, at another peak where one is given.

        >>> Job("cifar10", model="resnet20", budget="30 epochs", augment=("crop", "flip")).command(lr_max=0.2345)
        'onecycle train cifar10 --model resnet20 --epochs 30 --lr-max 0.23 --augment crop,flip'
        """
        words, plain = ["onecycle", "train", self.data], Job(self.data)
        for field in sorted(fields(self), key=lambda field: field.name in TrainingOptions.__dataclass_fields__):
            value = getattr(self, field.name)
            if field.name == "lr_max":
                peak = value if lr_max is None else lr_max
                words += ["--lr-max", peak if isinstance(peak, str) else f"{peak:.2g}"]
            elif field.name == "budget" and self.stages:
                continue  # which are in a file
            elif field.name == "budget":
                epochs = Budget.parse(value).epochs
                words += ["--budget", value] if epochs is None else ["--epochs", f"{epochs:g}"]
            elif (
                field.name != "data"
                and value is not None
                and value != getattr(plain, field.name)
                and not (field.name == "policy" and isinstance(value, Mapping))
                and field.name != "stages"
            ):
                words += _option(field.name, value)
        return shlex.join(words)


def asked_for(job: Job) -> dict[str, Any]:
    """The configuration that is kept with the run of a job, as plain data: what does not change a run is not in it."""
    return {name: value for name, value in plain(asdict(job)).items() if name not in ("timeout", "shard", "track")}


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a run with the options that came after it as they were in effect then.

    >>> config = completed({"data": "digits", "budget": "2 epochs"})
    >>> config["norm_statistics"], config["fit"], config["budget"]
    ('running', 'crop', '2 epochs')
    """
    defaults = {field.name: list(default) if isinstance(default := field.default, tuple) else default
                for field in fields(Job)}  # fmt: skip
    return {**defaults, **BEFORE, **config}


def _listed(name: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{name} is a list, such as [{{'budget': '3 epochs'}}]; received {value!r}")
    return value


def _option(name: str, value: Any) -> list[str]:
    option = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [option if value else f"--no-{option[2:]}"]
    if isinstance(value, Mapping):
        return [word for key, one in value.items() for word in (f"{option}.{key}", str(one))]
    return [option, ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)]
