"""The influence of a session's history on the choices of a policy, by genre.

U' users, G genres, n items shown, A items of the catalog. Each user is shown the n most rated items of one genre, and
likes all of them, or none. After each item we compare the policy's probabilities with those for an empty history **on
the same remaining items**, so that leaving out shown items is no influence. A policy of single rounds has none: it is
the negative control. Likes and skips differ in the responses only, not in items or steps: their difference is the
influence of the responses.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, unknown_name_error
from recpolicy.core.seeds import generator
from recpolicy.core.statistics import Interval, mean_interval
from recpolicy.core.types import Array
from recpolicy.data.ratings import genre_matrix
from recpolicy.data.session_log import SessionLog
from recpolicy.inference.predictor import Policy
from recpolicy.inference.session_replay import ACTS, moments

LIKED, SKIPPED = "liked", "skipped"


@dataclass(frozen=True)
class GenreInfluence:
    """The influence of one genre's items on the probability of the genre's other items, all [n, U'] by items shown."""

    genre: str
    empty: Array
    """Probability of the genre with an empty history."""
    change: dict[str, Array]
    """Change of this probability, if all items were LIKED or SKIPPED."""
    distance: dict[str, Array]
    """Total variation between the probabilities of all remaining items and those with an empty history, 0 to 1."""


@dataclass(frozen=True)
class HistoryInfluence:
    """The influence of each genre."""

    policy: str
    mode: str
    users: int
    genres: tuple[GenreInfluence, ...]
    seed: int

    @property
    def distance(self) -> float:
        """Mean total variation after the last item, over genres, responses and users; 0 for a bandit."""
        return float(np.mean([part[-1].mean() for genre in self.genres for part in genre.distance.values()]))

    def intervals(self) -> dict[str, dict[str, Interval]]:
        """Return by genre, after the last item: probability of the genre and its changes, with intervals over users."""
        result = {}
        for genre in self.genres:
            liked, skipped = genre.change[LIKED][-1], genre.change[SKIPPED][-1]
            values = {
                "empty history": genre.empty[-1], "change, all liked": liked, "change, all skipped": skipped,
                "liked minus skipped": liked - skipped,
            }  # fmt: skip
            rng = generator(self.seed, "history influence")
            result[genre.genre] = {name: mean_interval(value, rng) for name, value in values.items()}
        return result

    def table(self) -> pd.DataFrame:
        """Return the figures as text, one row per genre, the largest effect of the responses first."""
        figures = self.intervals()
        order = sorted(figures, key=lambda genre: -abs(figures[genre]["liked minus skipped"].value))
        rows = {genre: {name: str(interval) for name, interval in figures[genre].items()} for genre in order}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("genre")

    def as_dict(self) -> dict[str, object]:
        """Return plain values for JSON."""
        intervals = {
            genre: {name: interval.as_dict() for name, interval in figures.items()}
            for genre, figures in self.intervals().items()
        }
        curves = {
            genre.genre: {name: part.mean(axis=1).tolist() for name, part in genre.change.items()}
            for genre in self.genres
        }
        return {
            "policy": self.policy, "mode": self.mode, "users": self.users, "distance": self.distance,
            "genres": intervals, "curves": curves,
        }  # fmt: skip


def history_influence(
    policy: Policy, items_shown: int = 5, users: int = 200, mode: str = "exploring", seed: int = 0
) -> HistoryInfluence:
    """Return the influence of the history on a policy's probabilities.

    Args:
        policy: The policy, of sessions or of single rounds.
        items_shown: Number n of items in a history.
        users: Number of users, drawn at random.
        mode: "exploring" takes the probabilities of the policy with its exploration, "greedy" without.
        seed: Seed of the users and the intervals.

    Raises:
        ConfigError: The mode is unknown, the sessions of the policy are shorter, or no genre has enough items in its
            catalog.
    """
    if mode not in ACTS:
        raise unknown_name_error("mode", mode, ACTS)
    artifact = policy.artifact
    longest = int(artifact.policy["steps"]) - 1 if policy.sequential else len(artifact.action_items) - 1
    if items_shown > longest:
        raise ConfigError(f"{items_shown} items shown, but {artifact.agent} can choose after at most {longest}")
    names, matrix = genre_matrix(artifact.items)
    has = matrix[artifact.action_items] > 0  # [A, G]
    usable = [place for place in range(len(names)) if has[:, place].sum() > items_shown]
    if not usable:
        raise ConfigError(
            f"no genre has more than {items_shown} items in the catalog of {artifact.agent}; expected items with genres"
            " (item column `genres`), or fewer items shown"
        )
    rng = generator(seed, "history influence/users")
    drawn = np.sort(rng.permutation(len(artifact.users))[:users]).astype(np.int32)
    count = np.bincount(artifact.rated_item, minlength=len(artifact.items))[artifact.action_items]  # [A]
    genres = []
    for place in usable:
        arms = np.flatnonzero(has[:, place])
        shown = arms[np.argsort(-count[arms], kind="stable")[:items_shown]]
        parts = {
            name: _after_each_item(policy, drawn, shown, liked, has[:, place], mode)
            for name, liked in ((LIKED, True), (SKIPPED, False))
        }
        genres.append(
            GenreInfluence(
                names[place], parts[LIKED][0], {name: part[1] for name, part in parts.items()},
                {name: part[2] for name, part in parts.items()},
            )
        )  # fmt: skip
    return HistoryInfluence(artifact.agent, mode, len(drawn), tuple(genres), seed)


def _after_each_item(
    policy: Policy, users: NDArray[np.int32], shown: NDArray[np.intp], liked: bool, member: NDArray[np.bool_], mode: str
) -> tuple[Array, Array, Array]:
    """Return the genre's probability without history, its change and the total variation, each [n, U'].

    Args:
        policy: The policy. users: [U']. shown: [n] arms. liked: The response to all. mode: Name in ACTS.
        member: [A], True for the items of the genre.
    """
    artifact, n = policy.artifact, len(shown)
    empty, change, distance = np.zeros((3, n, len(users)))
    first, begin = None, 0
    for moment in moments(artifact, _sessions(policy, users, shown, liked)):
        step = int(moment.row[0]) % (n + 1)
        if step == 0:  # of the next users side by side
            first, begin = moment, int(moment.row[0]) // (n + 1)
            continue
        assert first is not None, "moments start at step 0"
        now, start = (ACTS[mode](artifact, each.estimate, moment.allowed) for each in (moment, first))
        rows = slice(begin, begin + len(moment.row))
        empty[step - 1, rows] = start[:, member].sum(axis=1)
        change[step - 1, rows] = now[:, member].sum(axis=1) - empty[step - 1, rows]
        distance[step - 1, rows] = np.abs(now - start).sum(axis=1) / 2
    return empty, change, distance


def _sessions(policy: Policy, users: NDArray[np.int32], shown: NDArray[np.intp], liked: bool) -> SessionLog:
    """Return one session of each user: the items `shown` [n], all with the same response, and a last one."""
    artifact = policy.artifact
    last = np.setdiff1d(np.arange(len(artifact.action_items)), shown)[:1]  # its choice is looked at, not its item
    arms = np.append(shown, last)
    sessions, steps = len(users), len(arms)
    count = sessions * steps
    return SessionLog(
        event_id=np.arange(count).astype(str).astype(object), time=np.zeros(count, np.int64),
        user=np.repeat(users, steps), session=np.repeat(users, steps).astype(str).astype(object),
        step=np.tile(np.arange(steps, dtype=np.int32), sessions), item=np.tile(artifact.action_items[arms], sessions),
        log_propensity=None, reward=np.zeros(count), liked=np.full(count, liked), ended=np.zeros(count, bool),
        policy=np.full(count, "", object), version=np.full(count, "", object), action_items=artifact.action_items,
        scale=(0.0, 1.0), name="histories of one genre",
    )  # fmt: skip
