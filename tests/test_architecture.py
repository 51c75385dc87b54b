"""The shape of the house: what a reader has to follow, and what may import what."""

from __future__ import annotations

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
    """At most 8 calls in 4 files; the page on the architecture names them."""
    model = Traced()
    Learner(model, blobs(48), batch_size=8, verbose=False, device="cpu").fit(1, "one_cycle", 0.1)
    calls = [("learner.py", "fit"), *model.calls]
    assert len(calls) <= 8 and len({file for file, _ in calls}) <= 4, calls
    page = (SRC.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    at = [page.index(f"`{name}`") for _, name in calls]
    assert at == sorted(at), "the page names them in their order"


def test_five_files_at_the_top():
    """Beside them only what ``python -m onecycle`` needs."""
    assert {path.stem for path in SRC.glob("*.py")} == {"__init__", "__main__", "errors", "checks", "text", "learner"}
