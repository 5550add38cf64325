"""Faults of a session training that its rows of metrics show: divergence, oscillation and collapse.

Numbers that are not finite end a training (training/divergence.py). The faults here only cause a warning, once each,
with what to try. Each rule compares with a bound or with sampling noise, so that a healthy training causes none.
"""

import logging
import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

logger = logging.getLogger(__name__)

_REWARD, _ENDED, _ENTROPY = "sessions/reward", "sessions/ended", "update/entropy"
_LARGEST, _SQUARED, _VALUE = "update/max_q_value", "update/value_loss", "update/value_mean"
_WINDOW = 5
"""Number of rows of metrics compared with the same number of other rows."""
_CYCLE = 12
"""Number of rows in which an oscillation is searched."""
_MIN_CROSSINGS = 3
"""Number of times that an oscillating series crosses its mean within the cycle."""
_MIN_SWING = 0.25
"""Standard deviation of an oscillating series, relative to its mean."""
_NOISE = 4.0
"""Multiples of the standard error of a row below which a change is noise."""
_GROWTH = 1.2
"""Factor from one window to the next that counts as growth of values."""
_LOW_ENTROPY = 0.05
"""Share of the initial entropy below which a policy has almost stopped exploring."""
_LOW_REWARD = 0.5
"""Share of the best window's reward below which a policy has lost what it had learned."""
_ADVICE = {
    "divergence": "a smaller learning_rate, gamma or tau, or normalize_reward",
    "oscillation": "a smaller learning_rate or tau, larger batches (batch_size, n_steps), or a smaller target_kl",
    "collapse": "a larger ent_coef, a smaller learning_rate, or a higher temperature",
    "collapse of the reward": "a smaller learning_rate, or more exploration (ent_coef, exploration_final_eps)",
}  # fmt: skip


class HealthWatch:
    """A monitor of the rows of a session training that warns once of each fault.

    Args:
        max_return: Bound of the absolute sum of rewards of a session; no value of a policy can be larger.
        past: Rows of metrics from before a resume; they cause no warning.
        name: Name of the training, if there are several.
    """

    def __init__(
        self, max_return: float = math.inf, past: Iterable[Mapping[str, float]] = (), name: str = ""
    ) -> None:  # fmt: skip
        self._max_return, self._prefix = max_return, f"{name}: " if name else ""
        self._rows: deque[Mapping[str, float]] = deque(maxlen=_CYCLE)
        self._first_entropy, self._best_reward = math.nan, -math.inf
        self._warned: set[str] = set()
        for row in past:
            self._warned |= self._faults(row).keys()

    def look(self, row: Mapping[str, float], step: int) -> None:
        """Check a row of metrics."""
        for name, detail in self._faults(row).items():
            if name not in self._warned:
                self._warned.add(name)
                logger.warning("%sstep %s: %s: %s. Try %s", self._prefix, f"{step:,}", name, detail, _ADVICE[name])

    def _faults(self, row: Mapping[str, float]) -> dict[str, str]:
        """Return the faults after this row, by name; rows without an ended session do not count."""
        if not math.isfinite(row[_REWARD]):
            return {}
        if not self._rows:
            self._first_entropy = row.get(_ENTROPY, math.nan)
        self._rows.append(row)
        reward, entropy, faults = self._series(_REWARD), self._series(_ENTROPY), {}
        noise = _mean([reward_noise(row[_REWARD], row.get(_ENDED, math.inf), self._max_return) for row in self._rows])
        for name, bound in ((_LARGEST, self._max_return), (_SQUARED, self._max_return**2)):
            values = self._series(name)
            if diverges(values, bound):
                faults["divergence"] = (
                    f"{name} grows to {max(values):.4g}, but no session can earn more than {self._max_return:.4g}"
                )
        for name, error in ((_REWARD, noise), (_VALUE, abs(_mean(reward)) / 20)):
            values = self._series(name)
            if oscillates(values, error):
                faults["oscillation"] = (
                    f"{name} swings between {min(values):.4g} and {max(values):.4g} and does not grow"
                )
        if entropy and collapsed(self._first_entropy, entropy[-1], reward):
            faults["collapse"] = (
                f"the policy's entropy is {entropy[-1]:.3f} nats ({self._first_entropy:.2f} at first) and the reward"
                f" stays at {reward[-1]:.3f}"
            )
        recent = _mean(reward[-_WINDOW:])
        if len(reward) >= _WINDOW:
            self._best_reward = max(self._best_reward, recent)
        lost = (1 - _LOW_REWARD) * abs(self._best_reward) + _NOISE * noise / math.sqrt(_WINDOW)
        if math.isfinite(self._best_reward) and recent < self._best_reward - lost:
            faults["collapse of the reward"] = f"it was {self._best_reward:.3f} and is {recent:.3f}"
        return faults

    def _series(self, name: str) -> list[float]:
        """Return a column of the last rows; nothing if a value is missing."""
        values = [row.get(name, math.nan) for row in self._rows]
        return values if all(map(math.isfinite, values)) else []


def reward_noise(reward: float, sessions: float, max_return: float) -> float:
    """Return an approximate standard error of a mean reward of sessions.

    Their standard deviation is near the mean, or a tenth of the bound where rewards of both signs cancel.
    """
    floor = (0.1 * max_return) ** 2 if math.isfinite(max_return) else 0.0
    return math.sqrt(max(reward * reward, abs(reward), floor) / max(sessions, 1.0))


def diverges(values: Sequence[float], bound: float) -> bool:
    """Return True if absolute values exceed the largest possible one and grow from window to window."""
    if len(values) < 2 * _WINDOW:
        return False
    sizes = [abs(value) for value in values[-2 * _WINDOW :]]
    before, recent = _mean(sizes[:_WINDOW]), _mean(sizes[_WINDOW:])
    return recent > bound and recent > _GROWTH * before


def oscillates(values: Sequence[float], noise: float) -> bool:
    """Return True if the rows cross their mean several times, in swings above the noise, without growth."""
    if len(values) < _CYCLE:
        return False
    middle = _mean(values)
    deviations = [value - middle for value in values]
    swing = math.sqrt(_mean([deviation * deviation for deviation in deviations]))
    crossings = sum(one * other < 0 for one, other in pairwise(deviations))
    grows = _mean(values[_CYCLE // 2 :]) - _mean(values[: _CYCLE // 2]) > swing
    return crossings >= _MIN_CROSSINGS and not grows and swing > max(_MIN_SWING * abs(middle), _NOISE * noise)


def collapsed(first_entropy: float, entropy: float, reward: Sequence[float]) -> bool:
    """Return True if entropy fell below a twentieth of its initial value while the reward did not grow."""
    if len(reward) < 2 * _WINDOW or entropy >= _LOW_ENTROPY * first_entropy:
        return False
    return _mean(reward[-_WINDOW:]) <= _mean(reward[-2 * _WINDOW : -_WINDOW])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
