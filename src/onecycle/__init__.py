"""onecycle: train a PyTorch model well in a fraction of the usual epochs, with the 1cycle policy.

>>> import onecycle, torch
>>> data = onecycle.load("digits")
>>> model = onecycle.build_model("small-cnn", input_shape=data.input_shape, classes=data.n_classes)
>>> learn = onecycle.Learner(model, data, verbose=False)
>>> learn.fit_one_cycle(3, 0.2).valid["accuracy"] > 0.8
True
"""

from . import presets
from .budget import Budget
from .check_job import check
from .curve import Curve
from .data import Data, Split, load
from .data.loaders import as_batches
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
from .evaluation import evaluate, predict
from .experiments.comparison import Comparison, compare
from .job import Job, run
from .learner import Learner
from .loop import EpochEnd, Update, train
from .models import build as build_model
from .observers import Checkpointer, History, Recorder, Result
from .policy import Driver, Policy
from .presets import one_cycle, preset
from .progress import Progress
from .range_test import RangeTest, range_test
from .reproduction.reproduce import Reproduction, reproduce
from .runtime import Runtime
from .schedules import Piecewise
from .state import TrainState
from .steps import Supervised
from .untouched import untouched
from .verdict import Verdict, judge

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
