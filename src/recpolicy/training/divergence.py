"""Stop a training whose numbers are not finite or absurdly large, before it writes a checkpoint or a policy."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from recpolicy.core.arrays import LARGEST, find_implausible
from recpolicy.core.errors import DivergedError

MAX_RELATIVE_ERROR = 1e6
"""Largest mean squared error of reward estimates, in squared rewards: estimates wrong by 1,000 times the rewards."""


def check_metrics(figures: Mapping[str, float], step: int, saved: int, folder: Path) -> None:
    """Raise DivergedError if a figure is not finite or larger than LARGEST."""
    for name, value in figures.items():
        if not abs(value) <= LARGEST:  # false for NaN
            raise diverged(f"{name} is {value:g}", step, saved, folder)


def check_squared_error(error: float, reward: float) -> str:
    """Return the fault of a mean squared error of estimates of rewards of this size; an empty text if there is none."""
    if not math.isfinite(error) or not math.isfinite(reward):
        return f"the mean squared error is {error:g} at a mean reward of {reward:g}"
    if error > MAX_RELATIVE_ERROR * max(1.0, reward * reward):
        return f"the mean squared error is {error:.3g}, absurd for rewards of about {reward:.3g}"
    return ""


def check_variables(learner: tf.Module, step: int, saved: int, folder: Path) -> None:
    """Raise DivergedError if a variable of the learner is implausible; the figures may be one update older."""
    fault = implausible_variable(learner)
    if fault:
        raise diverged(fault, step, saved, folder)


def implausible_variable(learner: tf.Module) -> str:
    """Return the first variable that is not finite or absurdly large, with its fault; an empty text if none is."""
    faults = (find_implausible({variable.name: np.asarray(variable.numpy())}) for variable in learner.variables)
    return next((fault for fault in faults if fault), "")


def check_offline(learner: tf.Module, losses: Any, rewards: Any, source: str) -> None:
    """Raise DivergedError if learning from a table ended in implausible losses [N] or variables; nothing is written."""
    size = float(np.sqrt(np.square(np.asarray(rewards, np.float64)).mean()))
    errors = np.asarray(losses, np.float64)
    fault = check_squared_error(float(errors.mean()), size) or implausible_variable(learner)
    if fault:
        raise DivergedError(f"training from {source} diverged: {fault}; no policy is written. {_ADVICE}")


def check_arrays(arrays: Mapping[str, Any], loss: float, rewards: Any, source: str) -> None:
    """Raise DivergedError if learning from a log ended in an implausible loss or array; nothing is written."""
    size = float(np.sqrt(np.square(np.asarray(rewards, np.float64)).mean()))
    fault = check_squared_error(loss, size) or find_implausible(arrays)
    if fault:
        raise DivergedError(
            f"training from {source} diverged: {fault}; no policy is written. {_ADVICE}, and scale large numbers among"
            " the features"
        )


def diverged(fault: str, step: int, saved: int, folder: Path) -> DivergedError:
    """Return the error of a training that diverged before a step; `saved` is the step of the last checkpoint, or 0."""
    last_checkpoint = f"the checkpoint of step {saved:,} in {folder} is kept" if saved else "no checkpoint was made yet"
    return DivergedError(
        f"training diverged before step {step:,}: {fault}; {last_checkpoint}. {_ADVICE}; start again in a new folder"
    )


_ADVICE = (
    "A smaller learning_rate or max_grad_norm, or a larger precision of a linear agent, usually helps; check the"
    " rewards, too"
)
