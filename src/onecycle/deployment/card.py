"""A model card, made from the record of a run: what was trained, on what, how well, and how it is used."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..data.sources import KNOWN
from ..data.table_columns import TableColumns
from ..data.text_tokens import TextTokens
from ..jobs.job import Job
from ..jobs.predict import TrainedModel
from ..records.read import comparable, number
from ..records.statistics import wilson
from ..text import code_in_markdown, count, duration, in_markdown, measure, percent
from ..text import number as shown
from .description import data_name, model_name

ACCURACY = "accuracy"
LICENCES = (
    "afl-3.0", "agpl-3.0", "apache-2.0", "apple-amlr", "apple-ascl", "artistic-2.0", "bigcode-openrail-m",
    "bigscience-bloom-rail-1.0", "bigscience-openrail-m", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear",
    "bsl-1.0", "c-uda", "cc", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0",
    "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
    "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0",
    "cdla-sharing-1.0", "creativeml-openrail-m", "deepfloyd-if-license", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0",
    "eupl-1.1", "eupl-1.2", "gemma", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "intel-research", "isc", "lgpl", "lgpl-2.1",
    "lgpl-3.0", "lgpl-lr", "llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "llama4", "lppl-1.3c", "mit",
    "mpl-2.0", "ms-pl", "ncsa", "odbl", "odc-by", "ofl-1.1", "openrail", "openrail++", "osl-3.0", "pddl", "postgresql",
    "unlicense", "wtfpl", "zlib",
)  # fmt: skip
"""The identifiers of the hub; another licence is "other", with its name."""
OF_DATA = ("train:", "train ", "valid:", "validation:", "test:", "test ", "missing", "columns")


@dataclass(frozen=True)
class Details:
    """What a run does not know of itself.

    Attributes:
        licence: of the weights.
        data_licence: of the data, where it is not one that is known here.
        dataset: the data's OWNER/NAME on the hub.
        repo: OWNER/NAME of the model there.
    """

    licence: str | None = None
    data_licence: str | None = None
    dataset: str | None = None
    repo: str | None = None


@dataclass(frozen=True)
class CardMetric:
    """One metric of one split, with the number of samples and an interval where they are known."""

    split: str
    name: str
    value: float
    samples: int | None
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Card:
    """What a card is made from: the record without folders of this machine, its model, details, and a figure's file."""

    record: Mapping[str, Any]
    trained: TrainedModel
    details: Details
    figure: str | None = None

    def text(self) -> str:
        """The card as Markdown, with its front matter."""
        parts = (
            self._title(), self._result(), self._use(), self._data(), self._training(), self._limits(), self._origin(),
        )  # fmt: skip
        return "\n".join(["---", *yaml(self.front_matter()), "---", *(line for part in parts for line in part)]) + "\n"

    def front_matter(self) -> dict[str, Any]:
        """What the hub reads: licence, library, tags, data sets, metrics, and results."""
        licence = self.details.licence
        known = licence and licence_id(licence)
        measured = [each for each in self.measured() if each.name != "loss"] or self.measured()
        matter = {
            "license": licence and (known or "other"),
            "license_name": _hyphened(licence) if licence and not known else None,
            "library_name": "onecycle",
            "pipeline_tag": self.task,
            "tags": ["onecycle", "1cycle", "super-convergence", "pytorch"],
            "datasets": [self._on_hub] if self._on_hub else None,
            "metrics": list(dict.fromkeys(each.name for each in measured)) or None,
            "model-index": [{"name": self._name, "results": self._results(measured)}] if measured else None,
        }
        return {key: value for key, value in matter.items() if value is not None}

    def measured(self) -> list[CardMetric]:
        """What was measured at the end on data that were not trained on, the test split first, losses last."""
        result, measured = self.record.get("result") or {}, []
        counts = dict(zip(("train", "valid", "test"), self.record["facts"].get("samples", ()), strict=False))
        for split in ("test", "valid"):
            for name, value in comparable(result.get(split) or {}).items():
                if number(value) is not None:
                    n = counts.get(split) or None
                    measured.append(CardMetric(split, name, value, n, self._interval(name, value, n)))
        return sorted(measured, key=lambda each: each.name == "loss")

    @property
    def task(self) -> str | None:
        """The hub's name for the task; None where it has none for it."""
        what = "classification" if self.trained.classes is not None else "regression"
        if self.trained.kind == "image":
            dense = self.trained.form.activation and self.trained.classes is None
            return "image-segmentation" if dense else f"image-{what}" if what == "classification" else None
        kinds = {"table": f"tabular-{what}", "texts": f"text-{what}", "text": "text-generation"}
        task = kinds.get(self.trained.kind)
        return None if task == "text-regression" else task

    def _interval(self, name: str, value: float, n: int | None) -> tuple[float, float] | None:
        """Wilson's interval of an accuracy that counts samples, each with one class."""
        whole = n is not None and abs(value * n - round(value * n)) < 1e-3
        if name != ACCURACY or n is None or not whole or self.trained.label_sets or self.trained.kind == "text":
            return None
        return wilson(round(value * n), n)

    def _results(self, measured: Sequence[CardMetric]) -> list[dict[str, Any]]:
        """Each split's metrics as the hub has them."""
        data, task = self._data_name or "not recorded", self.task or "other"
        return [
            {
                "task": {"type": task},
                "dataset": {"name": data, "type": self._on_hub or data, "split": split},
                "metrics": [{"type": one.name, "value": one.value} for one in measured if one.split == split],
            }
            for split in dict.fromkeys(each.split for each in measured)
        ]

    @property
    def _name(self) -> str:
        return self.details.repo or f"{model_name(self.record)} on {self._data_name or 'data given in Python'}"

    @property
    def _data_name(self) -> str | None:
        return data_name(self.record) or self.details.dataset

    @property
    def _on_hub(self) -> str | None:
        """The data's OWNER/NAME on the hub, where it is known."""
        name = data_name(self.record) or ""
        known = KNOWN[name].hub if name in KNOWN else None
        return self.details.dataset or known or (name.removeprefix("hub:") if name.startswith("hub:") else None)

    def _title(self) -> Iterator[str]:
        classes, weights = self.trained.classes, self.record["resolved"].get("parameters")
        kinds = {"image": "images", "array": "arrays", "table": "rows of a table", "text": "the characters of a text"}
        what = f"{count(len(classes), 'class')}" if classes is not None else "numbers"
        size = f" ({weights:,} parameters)" if weights else ""
        yield f"# {in_markdown(self._name)}"
        yield ""
        inputs = kinds.get(self.trained.kind, self.trained.kind)
        yield (
            f"{code_in_markdown(model_name(self.record))}{size}: from {inputs} to {what}, "
            "trained with onecycle. This card was made from the record of the run, `run.json` beside it."
        )

    def _result(self) -> Iterator[str]:
        measured = self.measured()
        yield from ("", "## Result", "")
        if not measured:
            yield "Nothing was measured."
            return
        yield from ("| split | metric | value | 95 % interval | samples |", "| --- | --- | --- | --- | --- |")
        for each in measured:
            ends = each.interval and " to ".join(percent(end, 1) for end in each.interval)
            samples = "not recorded" if each.samples is None else f"{each.samples:,}"
            value = measure(each.name, each.value)
            yield f"| {each.split} | {in_markdown(each.name)} | {value} | {ends or 'not known'} | {samples} |"
        yield ""
        if any(each.interval for each in measured):
            yield "Intervals are Wilson's, for new samples like those of the split; another seed may lie beyond them."
        if not all(each.interval for each in measured):
            yield "Where none is known, the errors of single samples were not kept."
        if baseline := (self.record.get("result") or {}).get("baseline"):
            what = measure(baseline["measure"], baseline["value"])
            by = in_markdown(baseline["by"])
            yield f"Baseline, on the validation split: {by} gives {baseline['measure']} {what}."
        if self.figure is not None:
            yield from ("", f"![The training, update by update]({self.figure})")

    def _use(self) -> Iterator[str]:
        yield from ("", "## Use", "", "```python", "import onecycle", *self._imports(), "")
        recipe = self.record["facts"] or (self.record.get("prediction") or {}).get("model")
        own = "" if recipe else ", model=net"
        if own:
            yield "net = ...  # the model itself, in Python: the folder has its weights alone"
        yield f'model = onecycle.load_run("."{own})  # the folder that this file is in'
        yield f"print(model.predict({self._example()}))"
        if self.trained.classes is not None:
            yield "print(model.classes)"
        yield from ("```", "")
        place = self.details.repo or "OWNER/NAME"
        yield f'From the hub, `huggingface_hub.snapshot_download("{place}")` gives such a folder.'
        if recipe:
            yield "In the shell: `onecycle predict FOLDER FILE...`."

    def _imports(self) -> list[str]:
        return ["import torch"] * (self.trained.columns is None)

    def _example(self) -> str:
        """Samples as Python code: nothing but their form is right about them."""
        columns, shape = self.trained.columns, self.trained.input_shape
        if isinstance(columns, TextTokens):
            return json.dumps({columns.column: ["Some text."]}, ensure_ascii=False)
        if isinstance(columns, TableColumns):
            values: dict[str, Any] = {each.name: each.values[:1] or ("",) for each in columns.categories}
            values |= {each.name: (each.median,) for each in columns.numbers}
            values |= {each.name: ("2020-02-29",) for each in (*columns.numbers, *columns.categories) if each.part}
            return repr({name: list(values[name]) for name in columns.names})
        if shape is None:
            return "..."  # a batch as in training
        size = ", ".join(map(str, (2, *shape)))
        if self.trained.kind == "image" and getattr(self.trained.batching.normalise, "mean", ()):
            return f"torch.zeros({size}, dtype=torch.uint8)"
        return f"torch.zeros({size}{', dtype=torch.int64' if self.trained.kind == 'text' else ''})"

    def _data(self) -> Iterator[str]:
        facts, name = self.record["facts"], data_name(self.record)
        known = KNOWN.get(name or "")
        source = f": {known.summary}" if known else f" ({in_markdown(self._on_hub)} on the hub)" if self._on_hub else ""
        yield from ("", "## Data", "")
        where = "Given in Python; the run does not say where they are from" if name is None else code_in_markdown(name)
        yield f"{where}{source}."
        if samples := facts.get("samples"):
            parts = zip(("training", "validation", "test"), samples, strict=False)
            yield "Samples: " + ", ".join(f"{n:,} {part}" for part, n in parts) + "."
        licence = self.details.data_licence or (known and known.licence)
        yield f"Licence of the data: {in_markdown(licence or 'not recorded; look it up where they are from')}."
        yield from self._notes(_about_data, "What was decided and left out:")

    def _training(self) -> Iterator[str]:
        resolved, config, result = self.record["resolved"], self.record["config"], self.record.get("result") or {}
        policy = config.get("policy", resolved.get("policy"))
        rows = {
            "policy": policy if isinstance(policy, str) else "of its own: see the schedule in run.json",
            "peak learning rate": shown(peak)
            if (peak := number(result.get("lr_max") or resolved.get("lr_max")))
            else None,
            "budget": config.get("budget"),
            "updates": result.get("updates"),
            "time": duration(result["seconds"]) if number(result.get("seconds")) is not None else None,
            **{
                name.replace("_", " "): resolved.get(name)
                for name in ("loss", "optimizer", "batch_size", "momentum", "weight_decay", "precision")
            },
            "seed": config.get("seed"),
        }
        yield from ("", "## Training", "", "| | |", "| --- | --- |")
        yield from (f"| {name} | {in_markdown(str(value))} |" for name, value in rows.items() if value is not None)
        if self.record["facts"]:
            yield from ("", "```sh", Job.recorded(config).command(), "```")
        yield from self._notes(lambda note: not (_about_data(note) or _is_limit(note)), "What was decided:")

    def _limits(self) -> Iterator[str]:
        measured = {each.split for each in self.measured()}
        yield from ("", "## Limits", "")
        yield "- One run with one seed; nothing is known of data unlike those above."
        if "test" not in measured:
            yield "- There is no test split: settings may have been chosen by the validation split, which flatters."
        yield from self._notes(_is_limit)

    def _notes(self, chosen: Any, head: str = "") -> Iterator[str]:
        notes = [note for note in self.record.get("notes") or () if chosen(note)]
        if notes and head:
            yield from ("", head, "")
        yield from (f"- {in_markdown(note)}" for note in notes)

    def _origin(self) -> Iterator[str]:
        versions, hardware = self.record.get("versions") or {}, self.record.get("hardware") or {}
        gpus = ", ".join(hardware.get("gpus") or ()) or "no GPU"
        yield from ("", "## Made with", "")
        yield f"- {', '.join(f'{name} {version}' for name, version in versions.items())}"
        yield f"- {hardware.get('cpu', 'CPU')}, {hardware.get('cores')} cores; {gpus}; {hardware.get('system')}"
        yield f"- {self.record.get('created')}, git commit {self.record.get('git_commit') or 'none'}"
        yield from ("", "## Licence", "")
        chosen = self.details.licence
        yield (
            f"Of the weights: {in_markdown(chosen)}."
            if chosen
            else "None was chosen for the weights: ask before you use them."
        )


def _about_data(note: str) -> bool:
    return note.startswith(OF_DATA) or "left out" in note


def _is_limit(note: str) -> bool:
    return " are few" in note or "not better" in note


def licence_id(name: str) -> str | None:
    """The hub's identifier of a licence, by that or by its usual name; None where it has none.

    >>> licence_id("Apache License, Version 2.0"), licence_id("CC BY 4.0"), licence_id("GPLv3"), licence_id("Acme 1.0")
    ('apache-2.0', 'cc-by-4.0', 'gpl-3.0', None)
    """
    plain = re.sub(r"\b(the|licen[cs]e|version)\b|\bv(?=\d)|-(only|or-later)$", " ", name.lower())
    short = re.sub(r"(?<=gpl)v?(?=\d)", "-", _hyphened(plain))
    return next((one for one in (_hyphened(name), short, f"{short}.0") if one in LICENCES), None)


def _hyphened(name: str) -> str:
    """A name as an identifier: small letters, with hyphens between its words."""
    return re.sub(r"[^\w.+]+", "-", name.lower()).strip("-")


def yaml(value: Any, indent: str = "") -> Iterator[str]:
    """Plain data as lines of YAML, strings in quotes.

    >>> print(*yaml({"license": "mit", "tags": ["a"], "model-index": [{"name": "m", "results": []}]}), sep="\\n")
    license: "mit"
    tags:
    - "a"
    model-index:
    - name: "m"
      results: []
    """
    items = value.items() if isinstance(value, Mapping) else ((None, one) for one in value)
    for key, one in items:
        head = f"{indent}{'-' if key is None else f'{key}:'}"
        if not isinstance(one, Mapping | list) or not one:
            yield f"{head} {json.dumps(one, ensure_ascii=False)}"
        elif key is None:
            first, *more = yaml(one, f"{indent}  ")
            yield from (f"{head} {first.strip()}", *more)
        else:
            yield from (head, *yaml(one, f"{indent}  " if isinstance(one, Mapping) else indent))
