"""onecycle: train a PyTorch model well in a fraction of the usual epochs, with the 1cycle policy."""

from .data import load
from .errors import NonFiniteLoss
from .learner import Learner, Result
from .loop import EpochEnd, Update, train
from .policy import Policy
from .presets import linear, one_cycle
from .schedules import Piecewise
from .state import TrainState
from .steps import Supervised
