"""The shape of the house: what a reader has to follow, and what may import what."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path

from torch import nn
from training_makers import blobs

from onecycle import Learner

SRC = Path(__file__).parents[1] / "src" / "onecycle"


class Traced(nn.Module):
    """Notes the calls that led to its first training pass, outermost first: (file, function)."""

    def __init__(self):
        super().__init__()
        self.body, self.calls = nn.Linear(4, 3), []

    def forward(self, x):
        if self.training and not self.calls:
            frame = sys._getframe(1)
            while frame is not None and frame.f_code.co_name != "fit":
                if frame.f_code.co_filename.startswith(str(SRC)):
                    self.calls.insert(0, (Path(frame.f_code.co_filename).name, frame.f_code.co_name))
                frame = frame.f_back
        return self.body(x)


def test_from_fit_to_the_model_it_is_a_short_way():
    """At most 9 calls in 5 files; the page on the architecture names them."""
    model = Traced()
    Learner(model, blobs(48), batch_size=8, verbose=False, device="cpu").fit(1, "one_cycle", 0.1)
    calls = [("learner.py", "fit"), *model.calls]
    assert len(calls) <= 9 and len({file for file, _ in calls}) <= 5, calls
    page = (SRC.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    at = [page.index(f"`{name}`") for _, name in calls]
    assert at == sorted(at), "the page names them in their order"


def test_five_files_at_the_top():
    """Beside them only what ``python -m onecycle`` needs."""
    assert {path.stem for path in SRC.glob("*.py")} == {"__init__", "__main__", "errors", "checks", "text", "learner"}


def test_no_two_modules_import_each_other():
    """Also not inside functions; imports for type checkers alone count too."""
    modules = {module_name(path): path for path in SRC.rglob("*.py")}
    imports = {name: imported(name, path) & modules.keys() for name, path in modules.items()}
    circles = {tuple(sorted((a, b))) for a, others in imports.items() for b in others if a in imports[b] and a != b}
    assert circles == set()


def test_class_names_are_unique():
    names = [
        node.name
        for path in SRC.rglob("*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def module_name(path: Path) -> str:
    parts = path.relative_to(SRC.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(name: str, path: Path) -> set[str]:
    """The modules of the package that this one imports, at the top or anywhere else."""
    package = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names} | ({module} if node.module else set())
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found - {name}


def test_the_picture_of_the_house_is_the_code():
    """Where this fails: python docs/house.py."""
    spec = importlib.util.spec_from_file_location("house", SRC.parents[1] / "docs" / "house.py")
    house = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(house)
    assert house.PICTURE.read_text(encoding="utf-8") == house.draw()
