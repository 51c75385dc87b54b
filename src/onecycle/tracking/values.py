"""What a tracker is sent of records: numbers by name, each with its update, and plain data in one level."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple

UPDATE, EPOCH, RESULT = "update", "epoch", "result"
# Fields of records and how they are called in a tracker, which draws those of a group together.
GROUPS = {"train_": "train/", "valid_": "valid/", "rescue_": "rescue/"}
FINAL = "final/"


class Row(NamedTuple):
    """Numbers of an update, of an epoch that ended with it, or of the result after it."""

    step: int
    kind: str
    values: dict[str, float]


@dataclass
class Rows:
    """Makes rows of records, in their order: what was measured after an update is not sent with its epoch once more."""

    _measured: int | None = field(default=None, init=False)

    def update(self, record: Mapping[str, Any]) -> Row:
        """That of an update, with the names of ``steps.jsonl``.

        >>> Rows().update({"step": 3, "epoch": 0, "lr": 0.1, "loss": 0.5, "valid_loss": 0.6, "seconds": 2.0})
        Row(step=3, kind='update', values={'epoch': 0, 'lr': 0.1, 'loss': 0.5, 'valid/loss': 0.6, 'seconds': 2.0})
        """
        values = numbers({name: value for name, value in record.items() if name not in ("fit", "step")})
        if any(name.startswith("valid/") for name in values):
            self._measured = record["step"]
        return Row(record["step"], UPDATE, values)

    def epoch(self, record: Mapping[str, Any]) -> Row:
        """That of the end of an epoch: its means, its time, and samples a second.

        >>> Rows().epoch({"epoch": 0, "step": 9, "lr": 0.1, "train_loss": 0.5, "samples": 640, "seconds": 2.0}).values
        {'train/loss': 0.5, 'epoch_seconds': 2.0, 'samples_per_second': 320.0}
        """
        groups = ("train_",) if record["step"] == self._measured else ("train_", "valid_")
        means = numbers({name: value for name, value in record.items() if name.startswith(groups)})
        rate = {"samples_per_second": record["samples"] / record["seconds"]} if record["seconds"] > 0 else {}
        return Row(record["step"], EPOCH, {**means, "epoch_seconds": record["seconds"], **rate})

    def all(self, steps: Iterable[Mapping[str, Any]], epochs: Iterable[Mapping[str, Any]]) -> Iterator[Row]:
        """Those of the records of a run, each epoch after its last update."""
        records = [*((one, self.update) for one in steps), *((one, self.epoch) for one in epochs)]
        for record, make in sorted(records, key=lambda pair: pair[0]["step"]):
            yield make(record)


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a record, under the names that a tracker has for them."""
    return {_called(name): value for name, value in record.items() if isinstance(value, int | float)}


def _called(name: str) -> str:
    """A field of a record as every tracker takes it.

    >>> _called("valid_loss"), _called("top-5 %"), _called("lr")
    ('valid/loss', 'top-5 _', 'lr')
    """
    group = next((group for group in GROUPS if name.startswith(group)), "")
    return re.sub(r"[^\w\-. /]", "_", GROUPS.get(group, "") + name.removeprefix(group))


def of_result(result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a run's result, those of its splits and its baseline too.

    >>> baseline = {"measure": "accuracy", "value": 0.1, "by": "always saying 'cat'"}
    >>> of_result({"test": {"accuracy": 0.9}, "valid": None, "updates": 20, "baseline": baseline})
    {'final/test/accuracy': 0.9, 'final/updates': 20, 'final/baseline/accuracy': 0.1}
    """
    said: dict[str, float] = {}
    for name, value in result.items():
        if name == "baseline" and value:
            said[f"{FINAL}baseline/{value['measure']}"] = value["value"]
        elif isinstance(value, Mapping):
            said |= {f"{FINAL}{name}/{key}": number for key, number in numbers(value).items()}
        elif isinstance(value, int | float):
            said[f"{FINAL}{name}"] = value
    return said


def flattened(data: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Plain data in one level, for trackers that have no others.

    >>> flattened({"config": {"data": "digits", "policy": {"lr": 0.1}}, "seed": 0, "betas": [0.9, 0.99]})
    {'config.data': 'digits', 'config.policy.lr': '0.1', 'seed': '0', 'betas': '[0.9, 0.99]'}
    """
    flat: dict[str, str] = {}
    for name, value in data.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{before}{name}.")
        else:
            flat[f"{before}{name}"] = value if isinstance(value, str) else json.dumps(value)
    return flat


class SentTable(NamedTuple):
    """Columns by name, and rows of as many cells."""

    columns: list[str]
    rows: list[list[Any]]

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]]) -> SentTable:
        """Of flat records: a column for each name, an empty cell where a record has none.

        >>> SentTable.of([{"lr": 0.1, "loss": 2.0}, {"lr": 0.2, "why": "lost"}])
        SentTable(columns=['lr', 'loss', 'why'], rows=[[0.1, 2.0, None], [0.2, None, 'lost']])
        """
        records = list(records)
        columns = list(dict.fromkeys(name for record in records for name in record))
        return cls(columns, [[record.get(name) for name in columns] for record in records])

    @classmethod
    def of_pilots(cls, pilots: Iterable[Mapping[str, Any]]) -> SentTable:
        """Of the pilots of a search, as its record has them."""
        return cls.of(
            {
                **{name: value for name, value in pilot.items() if name not in ("valid", "setting", "of")},
                **pilot.get("valid", {}),
                **({"setting": json.dumps(pilot["setting"])} if pilot.get("setting") else {}),
            }
            for pilot in pilots
        )

    @classmethod
    def of_range_test(cls, test: Mapping[str, Any]) -> SentTable:
        """Of the sweeps of a range test, as its record has them: the losses of updates, and what was held out."""
        records: list[dict[str, Any]] = []
        for i, sweep in enumerate(test["curve"]["sweeps"]):
            made: dict[float, dict[str, Any]] = {}
            for name, rates in (("loss", "lr"), ("valid_loss", "valid_lr"), ("valid_accuracy", "valid_lr")):
                for lr, value in zip(sweep[rates], sweep[name], strict=False):
                    made.setdefault(lr, {"sweep": i, "lr": lr})[name] = value
            records += sorted(made.values(), key=itemgetter("lr"))
        return cls.of(records)

    def markdown(self) -> str:
        """As a table of Markdown.

        >>> print(SentTable(["lr", "loss"], [[0.1, None]]).markdown())
        | lr | loss |
        | --- | --- |
        | 0.1 |  |
        """
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        return "\n".join(f"| {' | '.join('' if cell is None else str(cell) for cell in line)} |" for line in lines)
