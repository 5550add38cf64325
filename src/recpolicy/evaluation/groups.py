"""Figures by group of users: age bands, genders, those with fewer and with more ratings.

U users, G groups (which overlap: every user is in one of each kind), R units of resampling. A figure of a group is a
mean over its rounds or, where each user counts once, over its users, with the t interval over users.

Bands are bounded by the ages at which MovieLens 1M codes its own, so both data sets have the same. Activity is the
number of ratings in the train part: below or at its median over all users, or above.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.statistics import LEVEL, Interval, ratio_interval

MIN_USERS = 10
"""A group of fewer users is left out: they are too few to say how far the mean may be off."""
_AGES = (25, 35, 50)
_BANDS = ("under 25", "25 to 34", "35 to 49", "50 and over")
_MOST_GENDERS = 8


@dataclass(frozen=True)
class GroupFigure:
    """The figure of one group."""

    interval: Interval
    users: int
    """Users of the group that the figure rests on."""


@dataclass(frozen=True)
class Groups:
    """The groups and their members."""

    names: tuple[str, ...]  # G
    member: NDArray[np.bool_]  # [G, U]

    def of(self, users: NDArray[np.integer]) -> "Groups":
        """Return the same groups over chosen rows of the user table [R]."""
        return Groups(self.names, self.member[:, users])


def make_groups(users: pd.DataFrame, ratings: NDArray[np.integer]) -> Groups:
    """Return groups of all U users by their table and by their number of training ratings, `ratings` [U].

    Without a column `age` (numbers) or `gender` those groups are missing; so are users whose value is.
    """
    members: dict[str, NDArray[np.bool_]] = {}
    if "age" in users and pd.api.types.is_numeric_dtype(users["age"]):
        age = users["age"].to_numpy(np.float64, na_value=np.nan)
        band = np.where(np.isnan(age), -1, np.digitize(age, _AGES))
        members |= {f"age {name}": band == number for number, name in enumerate(_BANDS)}
    if "gender" in users and 1 < users["gender"].nunique() <= _MOST_GENDERS:
        code, genders = pd.factorize(users["gender"], sort=True)
        members |= {f"gender {gender}": code == number for number, gender in enumerate(genders)}
    few = ratings <= np.median(ratings)
    members |= {"fewer ratings": few, "more ratings": ~few}
    return Groups(tuple(members), np.stack(list(members.values())))


def group_figures(
    groups: Groups,
    total: NDArray[np.number],
    size: NDArray[np.number],
    width: float,
    level: float = LEVEL,
    weights: Sequence[NDArray[np.number]] = (),
) -> dict[str, GroupFigure]:
    """Return mean and interval of each group with MIN_USERS or more users: sum of totals [R] over sum of sizes [R].

    A user with a size of 0 does not count.

    Args:
        groups: G groups of R users. total: [R]. size: [R].
        width: range of the terms that `total` adds up, maximum - minimum.
        level: probability that an interval contains the true value.
        weights: [R] each, total importance weights of the policies that are compared; without them users count by size.

    Raises:
        DataError: groups and figures are not of the same users.
    """
    if not groups.member.shape[1] == len(total) == len(size):
        raise DataError(f"groups of {groups.member.shape[1]} users: {len(total)} totals and {len(size)} sizes")
    figures = {}
    for name, member in zip(groups.names, groups.member & (size > 0), strict=True):
        users = int(member.sum())
        if users >= MIN_USERS:
            of_group = [weight[member] for weight in weights]
            figures[name] = GroupFigure(ratio_interval(total[member], size[member], width, level, of_group), users)
    return figures
