"""Does learning from a new user's own ratings help, and does exploration? Real ratings of users hidden from every fit.

ML-100K in 5 folds over users. Rating model, embeddings, means and session policies are fitted on the other users. A
hidden user's candidates are the items that he or she really rated. A policy chooses T of them without repetition, and
the real rating of each choice is revealed after it. So every counterfactual reward is known, and nothing is simulated.

    python benchmarks/cold_start_users/run.py [--quick] --out results.json
"""

import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import arguments, context, write_results

from recpolicy.core.tensorflow_setup import silence_libraries

silence_libraries()  # before TF-Agents is imported

from recpolicy.core.palette import SERIES  # noqa: E402
from recpolicy.core.plotting import draw_legend, new_axes, to_png  # noqa: E402
from recpolicy.core.seeds import generator  # noqa: E402
from recpolicy.data.loaders import load_ratings  # noqa: E402
from recpolicy.data.ratings import Ratings, genre_directions  # noqa: E402
from recpolicy.data.splits import Split  # noqa: E402
from recpolicy.evaluation.policy_scores import PRIOR_COUNT  # noqa: E402
from recpolicy.models.bayesian_fm import BayesianFMConfig  # noqa: E402
from recpolicy.models.embeddings import embed  # noqa: E402
from recpolicy.models.item_mean import ItemMeanConfig, fit_item_mean  # noqa: E402
from recpolicy.models.rating_model import RatingModel  # noqa: E402
from recpolicy.models.rating_models import fit_rating_model  # noqa: E402
from recpolicy.models.user_posterior import RatedItems, UserPosterior, prior_posterior, rate  # noqa: E402

FOLDS, CHOICES, RANK, SEED = 5, (5, 10, 20, 40), 20, 0
LIKE = 4.0
SESSION_AGENTS: Mapping[str, Mapping[str, Any]] = {"ppo": {}, "a2c": {"gamma": 0.0}}
"""The best agent of benchmarks/looking_ahead, and a bandit that sees the session: it weighs the next item only."""
SESSION_STEPS = 40_000
BAYESIAN_FM = BayesianFMConfig(sweeps=100, ordinal=False)
"""Embeddings come from the Gaussian chain alone."""
Array = NDArray[np.float64]


@dataclass(frozen=True)
class HiddenUsers:
    """B users whom no fit has seen, and their M candidates; rows of users with fewer are padded."""

    item: NDArray[np.int64]  # [B, M] item rows
    rating: Array  # [B, M]
    given: NDArray[np.bool_]  # [B, M], False in the padding

    @property
    def count(self) -> NDArray[np.int64]:
        """Number of candidates [B]."""
        return np.asarray(self.given.sum(axis=1))


class Chooser:
    """A policy: scores of the candidates, and what it learns from a rating. This one never learns."""

    def __init__(self, score: Array):
        self._score = score

    def scores(self) -> Array:
        """Return the scores [B, M]."""
        return self._score

    def observe(self, rows: NDArray[np.int64], item: NDArray[np.int64], rating: Array) -> None:
        """Learn the ratings [n] of items [n] by users (rows) [n]."""


class UserBandit(Chooser):
    """The bandit per user: the posterior of each user's vector; `linucb_user` without errors of items."""

    def __init__(self, users: HiddenUsers, items: RatedItems, prior: UserPosterior, head: Callable[..., Array]):
        count = len(users.item)
        self._items, self._head = items, head
        self._x, self._offset = items.x[users.item], items.offset[users.item]  # [B, M, D], [B, M]
        self._error = items.error[users.item]
        self.mean = np.repeat(prior.mean[np.newaxis], count, axis=0)
        self._covariance = np.repeat(prior.covariance[np.newaxis], count, axis=0)

    def scores(self) -> Array:
        """Return mean + what the head adds to it."""
        mean = self._offset + np.matmul(self._x, self.mean[:, :, np.newaxis])[..., 0]
        return self._head(mean, self._std)

    def _std(self) -> Array:
        variance = np.maximum(((self._x @ self._covariance) * self._x).sum(axis=-1), 0)
        return np.sqrt(variance + self._error)

    def observe(self, rows: NDArray[np.int64], item: NDArray[np.int64], rating: Array) -> None:
        """Move the posteriors by one rating each."""
        before = UserPosterior(self.mean[rows], self._covariance[rows])
        items = self._items
        after = rate(before, items, item, rating)
        self.mean[rows], self._covariance[rows] = after.mean, after.covariance


class SessionChooser(Chooser):
    """A trained session policy: the context is the population's mean, the session so far is in its history state."""

    def __init__(self, policy: Any, users: HiddenUsers, genres: NDArray[np.float32], bandit: UserBandit | None = None):
        from recpolicy.environments.observation_encoders import OBSERVATION_ENCODERS

        artifact = policy.artifact
        rank, arrays = artifact.item.shape[1], artifact.policy
        view = OBSERVATION_ENCODERS[str(arrays["view"])]
        self._view = view(rank, genres.shape[1], int(arrays["steps"]), int(arrays["last_n"]))
        self._policy, self._users, self._genres, self._bandit = policy, users, genres, bandit
        self._context = np.repeat(artifact.context.mean(axis=0)[np.newaxis], len(users.item), axis=0)
        self._history = np.array(self._view.start(self._context[:, :rank]))

    def scores(self) -> Array:
        """Return the scores of the policy for the candidates; with `bandit`, its posterior means are the contexts."""
        seen = self._context if self._bandit is None else self._bandit.mean.astype(np.float32)
        score = self._policy.session_scores(seen, self._history)
        return np.take_along_axis(score, self._users.item, axis=1).astype(np.float64)

    def observe(self, rows: NDArray[np.int64], item: NDArray[np.int64], rating: Array) -> None:
        """Add the items to the sessions."""
        from recpolicy.environments.observation_encoders import ShownItem

        shown = ShownItem(self._policy.artifact.item[item], self._genres[item], (rating >= LIKE).astype(np.float32))
        self._history[rows] = self._view.update(self._history[rows], shown)
        if self._bandit is not None:
            self._bandit.observe(rows, item, rating)


def play(users: HiddenUsers, chooser: Chooser, seed: int) -> Array:
    """Return the ratings [B, T] of the choices; NaN after a user's last candidate. Ties are broken at random."""
    rng, steps = generator(seed, "cold_start_users/ties"), max(CHOICES)
    left, every = users.given.copy(), np.arange(len(users.item))
    paid = np.full((len(users.item), steps), np.nan)
    for step in range(steps):
        score = np.where(left, chooser.scores() + 1e-9 * rng.random(left.shape), -np.inf)
        choice, rows = score.argmax(axis=1), np.flatnonzero(left.any(axis=1))
        left[every, choice] = False
        at = rows, choice[rows]
        paid[rows, step] = users.rating[at]
        chooser.observe(rows, users.item[at], users.rating[at])
    return paid


def folds(ratings: Ratings, number: int) -> tuple[Ratings, HiddenUsers]:
    """Return the ratings of the users outside of a fold, over these users only, and the hidden users of the fold."""
    fold = generator(SEED, "cold_start_users/folds").permutation(ratings.shape[0]) % FOLDS  # [U]
    others = np.flatnonzero(fold != number)
    row = np.full(ratings.shape[0], -1, np.int32)
    row[others] = np.arange(len(others), dtype=np.int32)
    part = ratings.take(row[ratings.user] >= 0, name=f"{ratings.name}, users outside of fold {number}")
    known = replace(part, user=row[part.user], users=ratings.users.iloc[others].reset_index(drop=True))
    count = np.bincount(ratings.user, minlength=ratings.shape[0])
    hidden = np.flatnonzero((fold == number) & (count >= 2 * min(CHOICES)))
    rows = np.flatnonzero(np.isin(ratings.user, hidden))
    rows = rows[np.argsort(ratings.user[rows], kind="stable")]
    width, place = int(count[hidden].max()), np.repeat(np.arange(len(hidden)), count[hidden])
    at = place, np.arange(len(rows)) - np.repeat(np.cumsum(count[hidden]) - count[hidden], count[hidden])
    item, rating = np.zeros((len(hidden), width), np.int64), np.zeros((len(hidden), width))
    given = np.zeros((len(hidden), width), bool)
    item[at], rating[at], given[at] = ratings.item[rows], ratings.rating[rows], True
    return known, HiddenUsers(item, rating, given)


def greedy(mean: Array, _: Callable[[], Array]) -> Array:
    """Return the mean."""
    return mean


def upper_confidence(alpha: float) -> Callable[..., Array]:
    """Return the head of mean + alpha * std."""
    return lambda mean, std: mean + alpha * std()


def thompson(scale: float, seed: int) -> Callable[..., Array]:
    """Return the head of independent draws, as `linucb_user` makes them."""
    rng = generator(seed, "cold_start_users/draws")
    return lambda mean, std: mean + scale * std() * rng.standard_normal(mean.shape)


def paid_by_policies(ratings: Ratings, number: int, quick: bool) -> tuple[dict[str, Array], HiddenUsers]:
    """Return the ratings [B, T] that each policy got in a fold, and the users."""
    train, users = folds(ratings, number)
    started = time.perf_counter()
    embeddings = embed(fitted(train, quick), RANK)
    items, prior = RatedItems.from_embeddings(embeddings), prior_posterior(embeddings)
    count = np.bincount(train.item, minlength=train.shape[1])
    means = fit_item_mean(train, ItemMeanConfig(damping=PRIOR_COUNT), seed=0).mean[0]
    permuted = replace(items, x=items.x[generator(SEED, "cold_start_users/permuted").permutation(len(items.x))])

    def bandit(head: Callable[..., Array], known: RatedItems = items) -> UserBandit:
        return UserBandit(users, known, prior, head)

    choosers: dict[str, Chooser] = {
        "popular": Chooser(count[users.item].astype(np.float64)),
        "highest_mean": Chooser(means[users.item].astype(np.float64)),
        "static_prior": Chooser(bandit(greedy).scores()),
        "user_greedy": bandit(greedy),
        "user_ucb_0.5": bandit(upper_confidence(0.5)),
        "user_ucb_1": bandit(upper_confidence(1.0)),
        "user_thompson_0.5": bandit(thompson(0.5, number)),
        "user_thompson_1": bandit(thompson(1.0, number)),
        "control_permuted_embeddings": bandit(greedy, permuted),
        "best_possible": Chooser(users.rating),
    }
    other = embed(fit_rating_model(train, "svd", seed=SEED), RANK)
    known = RatedItems.from_embeddings(other)
    choosers["svd_static_prior"] = Chooser(UserBandit(users, known, prior_posterior(other), greedy).scores())
    choosers["svd_user_greedy"] = UserBandit(users, known, prior_posterior(other), greedy)
    paid = {name: play(users, chooser, number) for name, chooser in choosers.items()}
    # The mean of all candidates is the exact expectation of a random choice.
    mean = np.where(users.given, users.rating, 0).sum(axis=1) / users.count
    paid["random"] = np.where(np.isnan(paid["popular"]), np.nan, mean[:, np.newaxis])
    print(f"fold {number}: {len(users.item)} hidden users, {time.perf_counter() - started:.0f} s", flush=True)
    return paid, users


def paid_by_sessions(ratings: Ratings, number: int, quick: bool) -> dict[str, Array]:
    """Return the ratings [B, T] that each session policy got in a fold."""
    train, users = folds(ratings, number)
    started = time.perf_counter()
    model = fitted(train, quick)
    embeddings, genres = embed(model, RANK), genre_directions(train.items)
    items, prior = RatedItems.from_embeddings(embeddings), prior_posterior(embeddings)
    paid = {}
    for name, policy in session_policies(train, model, quick).items():
        paid[name] = play(users, SessionChooser(policy, users, genres), number)
        bandit = UserBandit(users, items, prior, greedy)
        paid[f"{name}_on_posterior"] = play(users, SessionChooser(policy, users, genres, bandit), number)
    print(f"sessions of fold {number}: {time.perf_counter() - started:.0f} s", flush=True)
    return paid


def fitted(train: Ratings, quick: bool) -> RatingModel:
    """Return the rating model behind the embeddings."""
    return fit_rating_model(train, "svd" if quick else "bayesian_fm", None if quick else BAYESIAN_FM, seed=SEED)


def session_policies(train: Ratings, model: RatingModel, quick: bool) -> dict[str, Any]:
    """Return session policies that were trained in the simulator of the users outside of the fold."""
    from recpolicy.workflows.policy_training import train as train_policy

    none_held_out = Split("users", train, train.take(np.zeros(len(train), bool)), SEED)
    config = {
        "rank": RANK, "total_timesteps": 2_000 if quick else SESSION_STEPS, "max_episode_steps": max(CHOICES),
        "rating_model": model.name,
    }  # fmt: skip
    policies = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, settings in SESSION_AGENTS.items():
            out = Path(folder) / name
            policies[name] = train_policy(
                name, none_held_out, out, config=config, agent_config=settings, model=model, seed=SEED,
                show_progress=False,
            )  # fmt: skip
    return policies


def compare(paid: Mapping[str, Array], count: NDArray[np.int64]) -> dict[str, float]:
    """Return mean ratings per choice, and paired differences with 95 % t intervals over users, for each T."""
    figures: dict[str, float] = {}
    for choices in CHOICES:
        users = count >= 2 * choices
        mean = {name: values[users, :choices].mean(axis=1) for name, values in paid.items()}
        figures[f"users_{choices}"] = int(users.sum())
        for name, values in mean.items():
            played = np.isfinite(values)  # while later folds of session policies are to come
            if not played.all():
                figures[f"users_of_{name}_{choices}"] = int(played.sum())
            figures[f"{name}_{choices}"] = float(values[played].mean())
            for base in ("highest_mean", "static_prior", "user_greedy"):
                if name != base:
                    figures |= interval(f"{name}_over_{base}_{choices}", (values - mean[base])[played])
    figures |= {f"gain_over_highest_mean_40{end}": figures[f"user_greedy_over_highest_mean_40{end}"]
                for end in ("", "_lo", "_hi")}  # fmt: skip
    return figures


def interval(label: str, values: Array) -> dict[str, float]:
    """Return the mean [n] with its 95 % t interval."""
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return {label: float(values.mean()), f"{label}_lo": values.mean() - half, f"{label}_hi": values.mean() + half}


def print_table(figures: Mapping[str, float], names: list[str]) -> None:
    """Print the means per choice and the differences to the highest mean."""
    for choices in CHOICES:
        print(f"T = {choices}, {figures[f'users_{choices}']:.0f} users")
        for name in sorted(names, key=lambda name: -figures[f"{name}_{choices}"]):
            line = f"  {name:30s} {figures[f'{name}_{choices}']:.3f}"
            if name != "highest_mean":
                label = f"{name}_over_highest_mean_{choices}"
                line += f"   {figures[label]:+.3f} [{figures[label + '_lo']:+.3f}, {figures[label + '_hi']:+.3f}]"
            print(line)


def plot(paid: Mapping[str, Array], count: NDArray[np.int64], path: Path) -> None:
    """Write the plot of the difference to the highest mean by the number of choices so far."""
    users = count >= 2 * max(CHOICES)
    figure, axes = new_axes(6.4, 3.8)
    so_far = np.arange(1, max(CHOICES) + 1)
    base = paid["highest_mean"][users].cumsum(axis=1) / so_far
    names = ("user_greedy", "user_ucb_1", "user_thompson_1", "static_prior", "control_permuted_embeddings")
    labels = ("per user, greedy", "per user, UCB", "per user, Thompson", "static prior", "control")
    for name, label, shade in zip(names, labels, SERIES, strict=False):
        gain = paid[name][users].cumsum(axis=1) / so_far - base
        half = 1.96 * stats.sem(gain, axis=0)
        axes.plot(so_far, gain.mean(axis=0), label=label, color=shade.light)
        axes.fill_between(so_far, gain.mean(axis=0) - half, gain.mean(axis=0) + half, color=shade.light, alpha=0.15)
    axes.axhline(0, color="0.4", lw=1)
    axes.set_xlabel(f"choices so far ({users.sum()} users with at least {2 * max(CHOICES)} rated items)")
    axes.set_ylabel("mean rating minus that of the highest mean")
    draw_legend(axes, "best")
    path.write_bytes(to_png(figure, dpi=110))


def main() -> None:
    """Measure, print, plot and write."""
    options = arguments(__doc__ or "")
    ratings = load_ratings("ml-100k")
    parts = [paid_by_policies(ratings, number, options.quick) for number in range(1 if options.quick else FOLDS)]
    paid = {name: np.concatenate([part[name] for part, _ in parts]) for name in parts[0][0]}
    count = np.concatenate([users.count for _, users in parts])
    write(paid, count, options.out)
    for number in range(len(parts)):
        before = sum(len(users.count) for _, users in parts[:number])
        for name, values in paid_by_sessions(ratings, number, options.quick).items():
            table = paid.setdefault(name, np.full((len(count), max(CHOICES)), np.nan))
            table[before : before + len(values)] = values
        write(paid, count, options.out)


def write(paid: Mapping[str, Array], count: NDArray[np.int64], out: Path) -> None:
    """Print and plot what was played so far, and write the figures."""
    figures = compare(paid, count)
    print_table(figures, list(paid))
    plot(paid, count, out.with_name("gain.png"))
    settings = {"rating_model": "bayesian_fm", "sweeps": BAYESIAN_FM.sweeps, "session_steps": SESSION_STEPS}
    write_results(out, figures, context([SEED], folds=FOLDS, rank=RANK, **settings))


if __name__ == "__main__":
    main()
