"""What do guardrails and weights of diversity and novelty cost in rating and likes?

Lists of 10 items for every user of u1, by a LinUCB policy of `recpolicy.train`; costs are paired with the lists without
guardrails. The judge is the evaluation world: expected ratings of a model of another class, and the real test ratings
where they exist. Likes are probabilities of a rating of 4 or 5 there. Hits are real test ratings of 4 or 5.

    python benchmarks/guardrails/run.py [--quick] --out results.json
"""

import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import erf
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import arguments, context, write_results

from recpolicy import load_ratings, split, train
from recpolicy.core.files import atomic_path
from recpolicy.core.plotting import new_figure, style_axes, to_png
from recpolicy.core.seeds import generator
from recpolicy.core.statistics import Interval, mean_interval, paired_difference
from recpolicy.data.splits import Split
from recpolicy.evaluation.ranking import self_information
from recpolicy.inference.guarded_lists import guarded_slates
from recpolicy.inference.guardrails import GuardrailConfig, bind
from recpolicy.inference.predictor import Policy, load_policy
from recpolicy.inference.slate_selection import ExplorationConfig, greedy_slate
from recpolicy.workflows.held_out_evaluation import evaluation_world

SPLIT, K, SEED = "u1", 10, 0
FIGURE = Path(__file__).parents[2] / "docs" / "images" / "guardrail_costs.png"
DIVERSITY = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
NOVELTY = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
POOLS = (10, 11, 12, 15, 20, 30, 50, 100, 200, 400, 800)
"""Random diversification: ten items drawn alike from the best so many."""
NOISE = 0.95
"""Standard deviation of a rating around its expectation in the evaluation world, for the probability of a like."""
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Lists:
    """The figures of one list for each user [U]."""

    rating: Array
    likes: Array
    hits: Array
    diversity: Array
    genres: Array
    novelty: Array
    length: Array


class Judge:
    """The evaluation world, and the attributes of the catalog."""

    def __init__(self, parts: Split, policy: Policy):
        world, scorer = evaluation_world(parts, SEED), policy.scorer
        arms = scorer.action_items
        self.expected = world.expected[:, arms].astype(np.float64)
        chance = np.vectorize(lambda z: 0.5 * (1 + erf(z / np.sqrt(2))))
        self.like = np.where(world.known[:, arms], self.expected >= 4, chance((self.expected - 3.5) / NOISE))
        self.hit = world.known[:, arms] & (self.expected >= 4)
        self.direction = scorer.directions[arms].astype(np.float64)
        self.genres = np.asarray(scorer.genres, bool)[arms]
        self.information = self_information(parts.train)[arms]

    def lists(self, arms: NDArray[np.intp]) -> Lists:
        """Return the figures of lists [U, K]; -1 stands for a missing place, which is worth nothing."""
        there = arms >= 0
        rows = np.arange(len(arms))[:, np.newaxis]
        count = np.maximum(there.sum(axis=1), 1)
        near = np.einsum("ukd,uld->ukl", self.direction[arms], self.direction[arms])
        both = there[:, :, np.newaxis] & there[:, np.newaxis, :] & ~np.eye(arms.shape[1], dtype=bool)
        pairs = np.maximum(both.sum(axis=(1, 2)), 1)

        def mean(table: Array) -> Array:
            return np.where(there, table[rows, arms], 0.0).sum(axis=1) / count

        return Lists(
            mean(self.expected), np.where(there, self.like[rows, arms], 0).sum(axis=1),
            np.where(there, self.hit[rows, arms], 0).sum(axis=1).astype(float),
            np.where(both, 1 - near, 0.0).sum(axis=(1, 2)) / pairs,
            (self.genres[arms] & there[:, :, np.newaxis]).any(axis=1).sum(axis=1).astype(float),
            np.where(there, self.information[arms], 0.0).sum(axis=1) / count, there.sum(axis=1).astype(float),
        )  # fmt: skip


class Recommender:
    """The scores of one policy for all users, and its lists under guardrails."""

    def __init__(self, policy: Policy):
        self.scorer = policy.scorer
        blocks = list(self.scorer.score_batches(self.scorer.user_ids))
        self.score = np.concatenate([block.score for block in blocks])
        self.rating = np.concatenate([block.rating for block in blocks])[:, self.scorer.action_items]
        allowed = np.ones((len(self.score), len(self.scorer.item_ids)), bool)
        for row, user in enumerate(self.scorer.user_ids):
            allowed[row, self.scorer.rated(user)] = False
        self.allowed = allowed[:, self.scorer.action_items]

    def lists(self, config: GuardrailConfig | None) -> NDArray[np.intp]:
        """Return the best lists [U, K] under guardrails; None takes the code of lists without guardrails."""
        rng = np.random.default_rng(SEED)
        arms = np.full((len(self.score), K), -1)
        if config is None:
            for row, (score, allowed) in enumerate(zip(self.score, self.allowed, strict=True)):
                arms[row] = greedy_slate(score, allowed, K, rng)
            return arms
        rails, nobody = bind(config, self.scorer), np.zeros(len(self.score), bool)
        slates = guarded_slates(
            self.score, self.rating, self.allowed, K, rails, ExplorationConfig(share=0.0), rng, nobody
        )
        for row, slate in enumerate(slates):
            arms[row, : len(slate.arms)] = slate.arms
        return arms

    def random(self, pool: int, seed: int) -> NDArray[np.intp]:
        """Return lists [U, K] drawn alike from the best `pool` items."""
        rng = generator(seed, f"benchmark/random/{pool}")
        best = np.argsort(-np.where(self.allowed, self.score, -np.inf), axis=1, kind="stable")[:, :pool]
        order = np.argsort(rng.random(best.shape), axis=1)[:, :K]
        return np.take_along_axis(best, order, axis=1)


def guardrail_cases(scorer: Any) -> dict[str, GuardrailConfig]:
    """Return the guardrails that are measured, by name."""
    rated = np.bincount(scorer.artifact.rated_item, minlength=len(scorer.item_ids))
    popular = tuple(scorer.item_ids[row] for row in np.argsort(-rated, kind="stable")[:100])
    drawn = generator(SEED, "benchmark/marked").choice(len(scorer.item_ids), len(scorer.item_ids) // 20, replace=False)
    marked = tuple(scorer.item_ids[row] for row in sorted(drawn.tolist()))
    cases = {f"max_per_category_{n}": GuardrailConfig(max_per_category=n) for n in (1, 2, 3, 5)}
    cases |= {f"min_rating_{value:g}": GuardrailConfig(min_rating=value) for value in (3.5, 4.0, 4.25)}
    cases |= {f"min_marked_{n}": GuardrailConfig(marked=marked, min_marked=n) for n in (1, 2, 3)}
    cases["max_marked_0"] = GuardrailConfig(marked=marked, max_marked=0)
    cases["block_100_most_rated"] = GuardrailConfig(blocked=popular)
    for value in (-0.3, -0.1, 0.1, 0.3):
        cases[f"tilt_action_thriller_{value:g}"] = GuardrailConfig(category_tilt={"Action": value, "Thriller": value})
    return cases


def main() -> None:
    """Measure, print, plot and write."""
    options = arguments("the cost of guardrails, diversity and novelty")
    parts = split(load_ratings("ml-100k"), SPLIT)
    with tempfile.TemporaryDirectory() as folder:
        settings = {"total_timesteps": 3_200} if options.quick else {}
        train("linucb", parts, Path(folder) / "policy", config=settings, seed=SEED, show_progress=False)
        policy = load_policy(Path(folder) / "policy")
    judge, recommender = Judge(parts, policy), Recommender(policy)
    plain = judge.lists(recommender.lists(None))
    figures: dict[str, float] = {}

    def record(name: str, lists: Lists, baseline: Lists = plain) -> dict[str, Interval]:
        some = lists.length > 0  # an empty list has no mean rating
        intervals = {
            part: paired_difference(
                getattr(baseline, part)[some if part == "rating" else slice(None)],
                getattr(lists, part)[some if part == "rating" else slice(None)], generator(SEED, "benchmark"),
            )
            for part in ("rating", "likes", "hits")
        }  # fmt: skip
        for part, interval in intervals.items():
            figures[f"{name}/cost_{part}"] = interval.value
            figures[f"{name}/cost_{part}_lo"], figures[f"{name}/cost_{part}_hi"] = interval.lo, interval.hi
        for part in ("diversity", "genres", "novelty", "length"):
            figures[f"{name}/{part}"] = float(getattr(lists, part).mean())
        figures[f"{name}/short_lists"] = float((lists.length < K).mean())
        cost, likes, hits = (intervals[part] for part in ("rating", "likes", "hits"))
        print(f"{name:28} rating {cost}  likes {likes}  hits {hits}  diversity {lists.diversity.mean():.3f}"
              f"  genres {lists.genres.mean():.2f}  bits {lists.novelty.mean():.2f}"
              f"  short {(lists.length < K).mean():.3f}", flush=True)  # fmt: skip
        return intervals

    for part in ("rating", "likes", "hits", "diversity", "genres", "novelty"):
        figures[f"plain/{part}"] = mean_interval(getattr(plain, part), generator(0, "benchmark")).value
    print({name: round(value, 3) for name, value in figures.items()})
    curves: dict[str, dict[float, tuple[Lists, dict[str, Interval]]]] = {"diversity": {}, "novelty": {}}
    levels = {"diversity": DIVERSITY, "novelty": NOVELTY}
    for kind, values in levels.items():
        for value in values[:3] if options.quick else values:
            lists = judge.lists(recommender.lists(GuardrailConfig(**{kind: value})))
            curves[kind][value] = lists, record(f"{kind}_{value:g}", lists)
    for name, config in guardrail_cases(policy.scorer).items():
        record(name, judge.lists(recommender.lists(config)))
    pools = {
        pool: average([judge.lists(recommender.random(pool, seed)) for seed in range(1 if options.quick else 5)])
        for pool in POOLS
    }
    random_costs = {pool: record(f"random_of_{pool}", lists) for pool, lists in pools.items()}
    for value, (lists, _) in curves["diversity"].items():
        if value and (alike := at_diversity(pools, lists.diversity.mean())) is not None:
            record(f"random_minus_mmr_{value:g}", alike, lists)
    if not options.quick:
        draw(curves, pools, random_costs)
    write_results(options.out, figures, context([SEED], split=SPLIT, k=K, users=len(plain.rating)))


def average(several: list[Lists]) -> Lists:
    """Return the mean figures of several draws."""
    return Lists(*(np.mean([getattr(each, part) for each in several], axis=0) for part in Lists.__annotations__))


def at_diversity(pools: Mapping[int, Lists], wanted: float) -> Lists | None:
    """Return random lists of a mean diversity: a mixture of two pools; None if no mixture has it."""
    for low, high in pairwise(POOLS):
        a, b = pools[low].diversity.mean(), pools[high].diversity.mean()
        if a <= wanted <= b:
            weight = (wanted - a) / (b - a)
            return Lists(*((1 - weight) * getattr(pools[low], part) + weight * getattr(pools[high], part)
                           for part in Lists.__annotations__))  # fmt: skip
    return None


def draw(curves: Any, pools: Mapping[int, Lists], random_costs: Mapping[int, dict[str, Interval]]) -> None:
    """Write the plot of costs."""
    figure = new_figure(8.6, 3.6)
    left, right = figure.subplots(1, 2)
    for axes, kind, measure, label in (
        (left, "diversity", "diversity", "diversity of the list (1 - mean cosine)"),
        (right, "novelty", "novelty", "novelty of the list (bits)"),
    ):
        style_axes(axes)
        x = [getattr(lists, measure).mean() for lists, _ in curves[kind].values()]
        costs = [intervals["likes"] for _, intervals in curves[kind].values()]
        _line(axes, x, costs, "tab:blue", f"weight `{kind}`")
        for at, value, cost in zip(x, curves[kind], costs, strict=True):
            axes.annotate(f"{value:g}", (at, cost.value), textcoords="offset points", xytext=(4, -9), fontsize=7)
        x = [getattr(lists, measure).mean() for lists in pools.values()]
        keep = [place for place, at in enumerate(x) if at <= 1.05 * max(
            getattr(lists, measure).mean() for lists, _ in curves[kind].values())]  # fmt: skip
        costs = [random_costs[pool]["likes"] for pool in pools]
        _line(axes, [x[i] for i in keep], [costs[i] for i in keep], "tab:orange", "random, of the best n")
        axes.set_xlabel(label)
        axes.set_ylabel("cost in likes per list of 10")
        axes.legend(fontsize=8, frameon=False)
    with atomic_path(FIGURE) as path:
        path.write_bytes(to_png(figure))


def _line(axes: Any, x: list[float], costs: list[Interval], color: str, label: str) -> None:
    values = np.array([cost.value for cost in costs])
    ends = np.abs(np.array([[cost.lo, cost.hi] for cost in costs]).T - values)
    axes.errorbar(x, values, yerr=ends, marker="o", ms=3.5, lw=1.2, capsize=2, color=color, label=label)


if __name__ == "__main__":
    main()
