"""onecycle: train a PyTorch model well in a fraction of the usual epochs, with the 1cycle policy.

>>> import onecycle, torch
>>> data = onecycle.load("digits")
>>> model = onecycle.build_model("small-cnn", input_shape=data.input_shape, classes=data.n_classes)
>>> learn = onecycle.Learner(model, data, verbose=False)
>>> learn.fit_one_cycle(3, 0.2).valid["accuracy"] > 0.8
True
"""

from .data import Data, Split, load
from .data.batches import as_batches
from .errors import (
    CheckpointError,
    ConfigError,
    DataError,
    Interrupted,
    MissingDependency,
    NonFiniteLoss,
    OneCycleError,
    TrainingError,
)
from .experiments.comparison import Comparison, compare
from .jobs.check import check
from .jobs.job import Job
from .jobs.run import run
from .learner import Learner
from .models import build as build_model
from .optim.driver import Driver
from .range_test.api import RangeTest, range_test
from .range_test.verdict import Verdict, judge
from .records.curve import Curve
from .records.history import Checkpointer, History, Recorder, Result
from .records.progress import Progress
from .reproduction.reproduce import Reproduction, reproduce
from .schedules import presets
from .schedules.budget import Budget
from .schedules.piecewise import Piecewise
from .schedules.policy import Policy
from .schedules.presets import one_cycle, preset
from .training.evaluate import evaluate, predict
from .training.loop import EpochEnd, Update, train
from .training.objectives import Supervised
from .training.restore import untouched
from .training.runtime import Runtime
from .training.state import TrainState

__all__ = [
    "Budget",
    "CheckpointError",
    "Checkpointer",
    "Comparison",
    "ConfigError",
    "Curve",
    "Data",
    "DataError",
    "Driver",
    "EpochEnd",
    "History",
    "Interrupted",
    "Job",
    "Learner",
    "MissingDependency",
    "NonFiniteLoss",
    "OneCycleError",
    "Piecewise",
    "Policy",
    "Progress",
    "RangeTest",
    "Recorder",
    "Reproduction",
    "Result",
    "Runtime",
    "Split",
    "Supervised",
    "TrainState",
    "TrainingError",
    "Update",
    "Verdict",
    "as_batches",
    "build_model",
    "check",
    "compare",
    "evaluate",
    "judge",
    "load",
    "one_cycle",
    "predict",
    "preset",
    "presets",
    "range_test",
    "reproduce",
    "run",
    "train",
    "untouched",
]
