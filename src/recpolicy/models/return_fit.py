"""Fit the return-time model to the sessions of a log or a server, and write it with its calibration.

The model of one half of the users who come back is compared with the returns of the other half, whom it did not see;
then the model is fitted on all. Only sessions that were followed for ten days count: near the end of a log, short gaps
are known and long ones are not, so a fit on all would find users who come back too soon. The file has numbers of the
population only, no user, so it outlives an erasure.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recpolicy.core.errors import ArtifactError, DataError
from recpolicy.core.files import content_digest, read_versioned_json, write_text
from recpolicy.core.json import to_plain
from recpolicy.core.seeds import generator
from recpolicy.core.statistics import Interval, percentile_interval, resampled_means
from recpolicy.models.return_time import (
    RETURN_DAYS,
    Calibration,
    ReturnModel,
    ReturnTimes,
    calibration,
    fit_return_model,
    population_days,
    return_rate,
)

FORMAT, VERSION = "recpolicy return model", 1
RATE_DAYS = (1, 3, 7)
MIN_USERS = 30
"""Held-out users below which a calibration says little."""


@dataclass(frozen=True)
class ReturnFit:
    """A fitted model, its calibration and the return rates of the same sessions."""

    model: ReturnModel
    """Of the sessions that were followed for ten days."""
    calibration: Calibration
    """The model of half of the users against the others."""
    rates: dict[int, Interval]
    """Share of the sessions with a return within some days, only of sessions followed so long; intervals by user."""
    sessions: int
    users: int
    users_without_return: int

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on the limits of the fit."""
        few = self.calibration.users < MIN_USERS
        text = f"only {self.calibration.users} held-out users with a return: too few to judge the calibration"
        return (text,) if few else ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        names = ("mean", "std", "users", "gaps", "late", "censored", "left")
        model = {name: getattr(self.model, name) for name in names}
        plain: dict[str, Any] = to_plain({
            "model": model, "day_probabilities": population_days(self.model.mean, self.model.std).tolist(),
            "calibration": asdict(self.calibration),
            "return_rates": {str(days): rate.as_dict() for days, rate in self.rates.items()},
            "sessions": self.sessions, "users": self.users, "users_without_return": self.users_without_return,
            "notes": list(self.notes),
        })  # fmt: skip
        return plain


def fit_returns(times: ReturnTimes, seed: int = 0) -> ReturnFit:
    """Fit the model, and compare the model of a random half of the users with the others.

    Args:
        times: The gaps after the sessions of all users.
        seed: Seed of the halves and the intervals.

    Raises:
        DataError: Fewer than two users have a return within ten days, after sessions that were followed so long.
    """
    rng = generator(seed, "return model")
    users = int(times.user.max(initial=-1)) + 1
    whole = times.wholly_followed
    returning = np.unique(whole.user[whole.within])
    if len(returning) < 2:
        raise DataError(
            f"return times: {len(times.user)} sessions of {len(np.unique(times.user))} users; {len(whole.user)}"
            f" sessions were followed for {RETURN_DAYS} days, with a return of {len(returning)} users; expected 2 users"
            " at least: one half of them is held out"
        )
    half = rng.permutation(returning)[: len(returning) // 2]
    held_out = whole.of_users(half)
    others = whole.of_users(np.setdiff1d(whole.user, half))
    checked = calibration(fit_return_model(others, users), held_out)
    found = np.unique(times.user)
    without = len(np.setdiff1d(found, times.user[times.observed]))
    rates = {days: _rate_by_user(times, days, seed) for days in RATE_DAYS}
    return ReturnFit(fit_return_model(whole, users), checked, rates, len(times.user), len(found), without)


def write_return_model(path: Path, fit: ReturnFit, source: str) -> None:
    """Write the model with its figures and the name of its source, atomically."""
    body = {"format": FORMAT, "version": VERSION, "source": source, **fit.as_dict()}
    write_text(path, json.dumps({**body, "digest": content_digest(body)}, indent=2, allow_nan=False) + "\n")


def read_return_model(path: Path) -> tuple[float, float]:
    """Return mean and standard deviation of logit p over users; raise ArtifactError for a damaged or foreign file."""
    advice = "fit it again with `recpolicy session fit-returns`"
    body = read_versioned_json(path, FORMAT, VERSION, digest_key="digest", advice=advice)
    try:
        mean, std = float(body["model"]["mean"]), float(body["model"]["std"])
    except (KeyError, TypeError, ValueError):
        raise ArtifactError(f"{path}: not a whole return model; {advice}") from None
    if not (np.isfinite(mean) and np.isfinite(std) and std > 0):
        raise ArtifactError(f"{path}: mean {mean} and std {std} of the log-odds; {advice}")
    return mean, std


def _rate_by_user(times: ReturnTimes, days: int, seed: int) -> Interval:
    """Return the share of sessions with a return, with a bootstrap over users; unbounded where none was followed."""
    returned, user = return_rate(times, days)
    if not len(user):
        return Interval.unbounded()
    place = np.unique(user, return_inverse=True)[1]
    sums = np.stack([np.bincount(place, returned), np.bincount(place).astype(np.float64)])  # [2, users]
    means = resampled_means(sums, generator(seed, f"return rate/{days}"))
    return percentile_interval(float(returned.mean()), means[:, 0] / means[:, 1])
