"""Turn a bandit log into a ratings table for rating models, baselines and held-out evaluation.

N train rounds, then evaluation rounds; U users, I items. One row a (user, item) pair: the mean reward of
its rounds, at the time of the first. First come the train pairs, from the train rounds alone; the tail are the held-out
pairs, from the evaluation rounds alone. Within each part rows stand in the order in which pairs came.

No pair is in both parts, as evaluation asks of any split. Of the pairs that were shown before and after the cut, as
large a share as the evaluation has of the rounds is held out, drawn without a look at rewards; the others are train
pairs, and only the log evaluates their later rounds. Pairs that were first shown after the cut are all held out.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.seeds import generator
from recpolicy.data.bandit_log import BanditLog
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.joined_tables import bare_items
from recpolicy.data.ratings import Ratings

Mask = NDArray[np.bool_]


def log_ratings(
    train_rounds: BanditLog, test_rounds: BanditLog, tables: IdVocabulary, name: str
) -> tuple[Ratings, int]:
    """Return the table of training and test rounds, and the number of its last rows that are held out.

    It is 0 without test rounds, or if there is only one pair.
    """
    items = len(tables.items)
    before, after = _pairs(train_rounds, items), _pairs(test_rounds, items)
    held_out = _held_out(before, after, len(test_rounds) / (len(train_rounds) + len(test_rounds)))
    parts = before.take(~np.isin(before.code, after.code[held_out])), after.take(held_out)
    code, rating, seconds = (
        np.concatenate([getattr(part, column) for part in parts]) for column in ("code", "rating", "seconds")
    )
    user, item = np.divmod(code, items)
    ratings = Ratings(
        user.astype(np.int32), item.astype(np.int32), rating.astype(np.float32), seconds,
        tables.users, bare_items(tables.items["item_id"].to_numpy()), name=name, scale=tables.scale,
    )  # fmt: skip
    return ratings, len(parts[1].code)


@dataclass(frozen=True)
class _Pairs:
    """The n pairs of some rounds, in order of first occurrence."""

    code: NDArray[np.int64]  # [n], user * I + item
    rating: NDArray[np.float64]  # [n], mean reward
    seconds: NDArray[np.int64]  # [n], of the first round

    def take(self, chosen: Mask) -> "_Pairs":
        return _Pairs(self.code[chosen], self.rating[chosen], self.seconds[chosen])


def _pairs(rounds: BanditLog, items: int) -> _Pairs:
    code, first, place = np.unique(
        rounds.user.astype(np.int64) * items + rounds.item, return_index=True, return_inverse=True
    )
    mean = np.bincount(place, rounds.reward, len(code)) / np.bincount(place, minlength=len(code))
    order = np.argsort(first)  # rounds are in the order of time
    return _Pairs(code[order], mean[order], rounds.time[first[order]] // 1000)


def _held_out(before: _Pairs, after: _Pairs, share: float) -> Mask:
    """Return a mask of the held-out pairs of the test rounds; at least one pair remains for training."""
    again = np.isin(after.code, before.code)
    held_out = ~again
    repeated = np.flatnonzero(again)
    least = 0 if held_out.any() else 1
    number = min(max(round(len(repeated) * share), least), len(before.code) - 1)
    held_out[generator(0, "log ratings").permutation(repeated)[:number]] = True
    return held_out
