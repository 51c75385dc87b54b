"""Small texts and small tables: `onecycle.run` at plain defaults beside scikit-learn's, on the same splits.

    python bench/small.py texts tune          # or: texts judge, tables tune, tables judge; --only NAME,NAME; --splits 5

Needs scikit-learn. Each split trains on 80 % and tests on 20 % (texts: on so many as are named, and tests on 20 % of
all). What was tuned on and what was judged on was laid down before anything was tried. Sets that are not here are
skipped. Every run is a line of bench/out/small.jsonl.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import re
import statistics
import subprocess
import sysconfig
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import onecycle

ROOT = Path(__file__).parent.parent
OUT = Path(__file__).parent / "out" / "small.jsonl"
SHARED = ROOT.parent / "shared" / "data"

# Texts: a frame with the columns text and label.


def speeches() -> pd.DataFrame:
    """Speeches of 80 characters and more by the six of Shakespeare's who speak most of them."""
    said = re.findall(
        r"(?:^|\n\n)([A-Z][A-Za-z ]+):\n(.+?)(?=\n\n|\Z)", (SHARED / "text/tinyshakespeare.txt").read_text(), re.S
    )
    said = [(who, what) for who, what in said if len(what) >= 80]
    most = [who for who, _ in Counter(who for who, _ in said).most_common(6)]
    return pd.DataFrame([(what, who) for who, what in said if who in most], columns=["text", "label"])


def packages(*sections: str) -> pd.DataFrame:
    """One-line descriptions of Debian's packages, by section."""
    lines = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, text=True, check=True).stdout
    entries = [dict(re.findall(r"^(Section|Description): (.+)$", entry, re.M)) for entry in lines.split("\n\n")]
    pairs = {(e["Description"], e["Section"]) for e in entries if e.get("Section") in sections and "Description" in e}
    return pd.DataFrame(sorted(pairs), columns=["text", "label"]).drop_duplicates("text")


def docstrings() -> pd.DataFrame:
    """The first paragraph of docstrings of functions and classes, by package; 60 characters and more."""
    purelib = Path(sysconfig.get_path("purelib"))
    labels: dict[str, str] = {}
    for name in ("numpy", "scipy", "pandas", "torch", "matplotlib", "ray", "sympy", "datasets"):
        for path in sorted((purelib / name).rglob("*.py")):
            if "test" in str(path.relative_to(purelib)):
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(path.read_bytes())
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and (doc := ast.get_docstring(node)):
                    text = " ".join(doc.split("\n\n")[0].split())
                    if len(text) >= 60 and name not in text.lower():
                        labels.setdefault(text, name)
    return pd.DataFrame(sorted(labels.items()), columns=["text", "label"])


def snippets() -> pd.DataFrame:
    """Eight lines of code, by language, one from a file."""
    patterns = {"c": "*.h", "perl": "*.pm", "javascript": "*.js", "python": "*.py", "shell": "*.sh"}
    pairs = []
    for language, pattern in patterns.items():
        paths = sorted(path for path in Path("/usr").rglob(pattern) if path.is_file())
        random.Random(0).shuffle(paths)
        for path in paths[:1500]:
            lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip() and len(line) < 200]
            if len(lines) >= 24:
                start = random.Random(str(path)).randrange(8, len(lines) - 8)
                pairs.append(("\n".join(lines[start : start + 8]), language))
    return pd.DataFrame(pairs, columns=["text", "label"]).drop_duplicates("text")


TEXTS: dict[str, dict[str, tuple[Callable[[], pd.DataFrame], tuple[int | None, ...]]]] = {
    "tune": {
        "speeches": (speeches, (None,)),
        "sections": (partial(packages, "games", "science", "net", "sound"), (300, 1000, 4000)),
    },
    "judge": {
        "docstrings": (docstrings, (300, 1000, 5000)),
        "other-sections": (partial(packages, "admin", "graphics", "text", "math", "mail", "web"), (300, 1000, None)),
        "code": (snippets, (300, 1000)),
    },
}

# Tables: a frame and its target.


def table(name: str, target: str, *left_out: str, rows: int | None = None) -> tuple[pd.DataFrame, str]:
    frame = pd.read_csv(SHARED / "tables" / f"{name}.csv").drop(columns=list(left_out)).dropna(subset=[target])
    return frame if rows is None else frame.sample(rows, random_state=0), target


def from_sklearn(name: str, *, classes: bool = False, **options: Any) -> tuple[pd.DataFrame, str]:
    import sklearn.datasets

    if name.startswith("make"):
        x, y = getattr(sklearn.datasets, name)(**options)
        return pd.DataFrame(x, columns=[f"x{i}" for i in range(x.shape[1])]).assign(target=y), "target"
    made = getattr(sklearn.datasets, name)(as_frame=True)
    frame = made.frame if not classes else made.frame.assign(target=[f"class {c}" for c in made.target])
    return frame, "target"


def friedman(rows: int) -> tuple[pd.DataFrame, str]:
    frame, target = from_sklearn("make_friedman1", n_samples=rows, noise=1.0, random_state=1)
    return frame.assign(target=1000 * frame.target), target


TABLES: dict[str, dict[str, Callable[[], tuple[pd.DataFrame, str]]]] = {
    "tune": {
        "diabetes": partial(from_sklearn, "load_diabetes"),
        "titanic": partial(table, "titanic", "survived", "alive"),
        "penguins": partial(table, "penguins", "species"),
        "diamonds": partial(table, "diamonds", "price", rows=10000),
    },
    "judge": {
        "mpg": partial(table, "mpg", "mpg", "name"),
        "breast cancer": partial(from_sklearn, "load_breast_cancer", classes=True),
        "wine": partial(from_sklearn, "load_wine", classes=True),
        "iris": partial(from_sklearn, "load_iris", classes=True),
        "digits": partial(from_sklearn, "load_digits", classes=True),
        "Friedman 300": partial(friedman, 300),
        "Friedman 2000": partial(friedman, 2000),
        "linear 100": partial(
            from_sklearn, "make_regression", n_samples=100, n_features=20, n_informative=8, noise=50, random_state=2
        ),
        "linear 500": partial(
            from_sklearn, "make_regression", n_samples=500, n_features=20, n_informative=8, noise=50, random_state=3
        ),
    },
}


def ours(train: pd.DataFrame, test: pd.DataFrame, target: str, seed: int, **options: Any) -> tuple[float, str]:
    with tempfile.TemporaryDirectory() as folder:
        for name, frame in (("train", train), ("test", test)):
            frame.to_csv(f"{folder}/{name}.csv", index=False)
        job = onecycle.Job(f"{folder}/train.csv", target=target, test=f"{folder}/test.csv", seed=seed, **options)
        result = onecycle.run(job, f"{folder}/run", report=False)
    measure = "accuracy" if "accuracy" in result.test else "r2"
    return result.test[measure], measure


def counted_words(train: pd.DataFrame, test: pd.DataFrame, target: str, _: int) -> float:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000))
    return model.fit(train.text, train[target]).score(test.text, test[target])


def _columns(train: pd.DataFrame, target: str) -> tuple[list[str], list[str]]:
    inputs = train.drop(columns=target)
    numbers = list(inputs.select_dtypes("number").columns)
    return numbers, [name for name in inputs.columns if name not in numbers]


def linear(train: pd.DataFrame, test: pd.DataFrame, target: str, _: int) -> float:
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers, words = _columns(train, target)
    columns = make_column_transformer(
        (make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), numbers),
        (OneHotEncoder(handle_unknown="ignore"), words),
    )
    model = RidgeCV(np.logspace(-3, 3, 13)) if _regression(train[target]) else LogisticRegression(max_iter=2000)
    model = make_pipeline(columns, model)
    return model.fit(train[numbers + words], train[target]).score(test[numbers + words], test[target])


def trees(train: pd.DataFrame, test: pd.DataFrame, target: str, seed: int) -> float:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    numbers, words = _columns(train, target)
    x = pd.concat([train, test])[numbers + words]
    x = x.assign(**{name: x[name].astype("category") for name in words})
    make = HistGradientBoostingRegressor if _regression(train[target]) else HistGradientBoostingClassifier
    model = make(categorical_features="from_dtype", random_state=seed)
    return model.fit(x[: len(train)], train[target]).score(x[len(train) :], test[target])


def _regression(targets: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(targets) and targets.nunique() > 20


def split(frame: pd.DataFrame, number: int, rows: int | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The first `rows` of the 80 % that are not for the test (which is of 1,500 at most), and the test."""
    shuffled = frame.sample(frac=1, random_state=number)
    cut = len(frame) // 5
    return shuffled[cut:][:rows], shuffled[:cut] if rows is None else shuffled[:cut][:1500]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("texts", "tables"))
    parser.add_argument("role", choices=("tune", "judge"))
    parser.add_argument("--only", default="")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--most", type=int, default=10**9, help="rows of the largest sets")
    parser.add_argument("--label", default="")
    parser.add_argument("--alone", action="store_true", help="leave scikit-learn's out")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    OUT.parent.mkdir(exist_ok=True)
    for name, frame, target, rows in sets(arguments.kind, arguments.role, arguments.only.split(",")):
        if (rows or len(frame) * 4 // 5) > arguments.most:
            continue
        scores: dict[str, list[float]] = {}
        seconds = []
        measure = ""
        for number in range(arguments.splits):
            train, test = split(frame, number, rows)
            began = time.perf_counter()
            score, measure = ours(train, test, target, number)
            seconds.append(time.perf_counter() - began)
            scores.setdefault("onecycle", []).append(score)
            for model in () if arguments.alone else (counted_words,) if arguments.kind == "texts" else (trees, linear):
                scores.setdefault(model.__name__, []).append(model(train, test, target, number))
        row = {
            "label": arguments.label,
            "data": name,
            "rows": len(train),
            "measure": measure,
            **scores,
            "seconds": seconds,
        }
        with OUT.open("a") as file:
            file.write(json.dumps(row) + "\n")
        cells = [
            f"{k} {statistics.mean(v):.3f} ({statistics.stdev(v) if len(v) > 1 else 0:.3f})" for k, v in scores.items()
        ]
        print(
            arguments.label,
            name,
            len(train),
            measure,
            *cells,
            f"{statistics.median(seconds):.1f} s",
            sep=" | ",
            flush=True,
        )


def sets(kind: str, role: str, only: list[str]) -> Iterator[tuple[str, pd.DataFrame, str, int | None]]:
    """Those that are here: name, frame, target, and how many rows are for training."""
    named = TEXTS[role] if kind == "texts" else TABLES[role]
    for name, make in named.items():
        if only != [""] and name not in only:
            continue
        try:
            frame, target = (make[0](), "label") if isinstance(make, tuple) else make()
        except (FileNotFoundError, ImportError) as error:
            print(f"{name} is skipped: {error}")
            continue
        for rows in make[1] if isinstance(make, tuple) else (None,):
            if rows is None or rows < 0.8 * len(frame):
                yield name, frame, target, rows


if __name__ == "__main__":
    main()
