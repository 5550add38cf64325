"""Logs of a shop of clicks whose truth we planted: who would click on what, and with what probability it was shown.

U users, I items, N rounds. A click has the probability sigmoid(appeal of the item + taste of the user . its nature);
the shop knows the appeal and some of the taste, and shows by a softmax. Written as other systems write: Open-Bandit CSV
and Vowpal Wabbit's JSON lines.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.inference.predictor import Policy

TASTES = 3
MINUTE = pd.Timedelta(minutes=1)


@dataclass(frozen=True)
class Shop:
    """The truth."""

    click: NDArray[np.float64]  # [U, I] probability
    shown: NDArray[np.float64]  # [U, I] probability, rows sum to 1
    busy: NDArray[np.float64]  # [U], share of each user's rounds

    @property
    def logged_value(self) -> float:
        """Clicks per round of the shop as it is."""
        return float(self.busy @ (self.click * self.shown).sum(axis=1))

    @property
    def best_value(self) -> float:
        """Clicks per round if everybody were shown what suits best."""
        return float(self.busy @ self.click.max(axis=1))

    def value(self, policy: Policy) -> float:
        """Clicks per round of a policy that takes its best item; users and items it never met are left out."""
        users = np.array([int(one[1:]) for one in policy.artifact.users["user_id"]])
        items = policy.artifact.items["item_id"].to_numpy() - 1
        choice = items[policy.artifact.action_items][policy.scores()[0][:, policy.artifact.action_items].argmax(axis=1)]
        return float(self.busy[users] @ self.click[users, choice] / self.busy[users].sum())

    def value_of(self, score: NDArray[np.floating]) -> float:
        """Clicks per round by scores [U, I], ties sharing alike."""
        best = score == score.max(axis=1, keepdims=True)
        return float(self.busy @ ((self.click * best).sum(axis=1) / best.sum(axis=1)))


def shop(users: int = 60, items: int = 20, seed: int = 0) -> Shop:
    """Draw the truth."""
    rng = np.random.default_rng([seed, 7])
    taste, nature = rng.normal(size=(users, TASTES)), rng.normal(size=(items, TASTES))
    liking = taste @ nature.T * (1.2 / np.sqrt(TASTES))  # [U, I]
    appeal = rng.normal(-1.5, 0.6, items)
    known = 1.5 * appeal + 0.4 * liking + rng.normal(0, 0.5, (users, items))
    shown = np.exp(known - known.max(axis=1, keepdims=True))
    shown = 0.9 * shown / shown.sum(axis=1, keepdims=True) + 0.1 / items
    busy = rng.gamma(2.0, size=users)
    return Shop(1 / (1 + np.exp(-appeal - liking)), shown, busy / busy.sum())


@dataclass(frozen=True)
class Rounds:
    """What was shown and clicked, in the order of time."""

    user: NDArray[np.int64]  # [N]
    item: NDArray[np.int64]  # [N]
    propensity: NDArray[np.float64]  # [N]
    click: NDArray[np.int64]  # [N]
    time: pd.DatetimeIndex  # [N]


def read_complete_rounds(world: Shop, rounds: int, seed: int = 0, start: str = "2026-01-05") -> Rounds:
    """Let the shop serve so many users, one a minute."""
    rng = np.random.default_rng([seed, 8])
    user = rng.choice(len(world.busy), rounds, p=world.busy)
    item = np.minimum(
        (rng.random((rounds, 1)) > world.shown.cumsum(axis=1)[user]).sum(axis=1), world.shown.shape[1] - 1
    )
    click = (rng.random(rounds) < world.click[user, item]).astype(np.int64)
    time = pd.Timestamp(start, tz="UTC") + MINUTE * np.arange(rounds)
    return Rounds(user, item, world.shown[user, item], click, time)


def write_open_bandit(path: Path, rounds: Rounds) -> Path:
    """Write CSV as of the Open Bandit Dataset, users named u0, u1, ..., items numbered from 1."""
    frame = pd.DataFrame(
        {
            "timestamp": rounds.time.astype(str), "item_id": rounds.item + 1, "position": 1, "click": rounds.click,
            "propensity_score": rounds.propensity, "user_id": [f"u{one}" for one in rounds.user],
        }
    )  # fmt: skip
    frame.to_csv(path)
    return path


def write_vowpal_wabbit(path: Path, rounds: Rounds, items: int) -> Path:
    """Write lines of contextual-bandit JSON; a click costs -1."""
    actions = [{"Item": {"id": number}} for number in range(1, items + 1)]
    columns = (rounds.user, rounds.item, rounds.propensity, rounds.click, rounds.time)
    lines = (
        json.dumps(
            {
                "_label_cost": -float(click), "_label_probability": chance, "_label_Action": int(item) + 1,
                "Timestamp": time.isoformat(), "c": {"User": {"id": f"u{user}"}, "_multi": actions},
            }
        )
        for user, item, chance, click, time in zip(*columns, strict=True)
    )  # fmt: skip
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
