"""Policies to rank, in the simulator and on held-out choice: does the simulator prefer what real users prefer?

U users, I items. All are made from the train part. The rating models rank by expected rating; `half_noise` is one of
them with as much noise as signal, `worst` turns it upside down.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.seeds import generator
from recpolicy.data.ratings import Ratings
from recpolicy.evaluation.candidates import find_candidates
from recpolicy.evaluation.held_out_choice import choice_values, greedy_weights
from recpolicy.evaluation.session_rollout import SessionSimulator
from recpolicy.evaluation.simulator_gates import PolicyValue
from recpolicy.models.rating_models import fit_rating_model

Scores = NDArray[np.floating]

MODELS = ("item_knn", "svd", "bias")
"""Rating models among the policies, in addition to bayesian_fm and highest_mean."""


def policy_scores(train: Ratings, bayesian: bool, seed: int) -> dict[str, Scores]:
    """Score tables [U, I] by name; that of `random` is constant."""
    names = ("bayesian_fm", *MODELS) if bayesian else MODELS
    models: dict[str, Scores] = {name: fit_rating_model(train, name, seed=seed).linear for name in names}
    popularity = np.broadcast_to(np.bincount(train.item, minlength=train.shape[1]).astype(float), train.shape)
    best = models["svd"]
    noise = generator(seed, "simulator card/noise").normal(0, best.std(), best.shape)
    return {
        **models,
        "highest_mean": fit_rating_model(train, "item_mean", seed=seed).mean,
        "most_popular": popularity,
        "half_noise": best + noise,
        "random": np.broadcast_to(0.0, train.shape),
        "least_popular": -popularity,
        "worst": -best,
    }


def policy_values(
    simulator: SessionSimulator, scores: Mapping[str, Scores], test: Ratings, replicates: int, seed: int
) -> dict[str, PolicyValue]:
    """Return the value of every policy for the world's users with two or more ratings in `test`; all see the same
    noise."""
    candidates = find_candidates(test)
    users = candidates.user[candidates.start]
    who = np.tile(np.searchsorted(simulator.world.users, users), replicates)  # [B]
    worths = {}
    for name, score in scores.items():
        shown = _exposure(score[users], simulator.world.steps, replicates, seed)
        responses = simulator.simulate(who, shown, seed)
        chosen = choice_values(candidates, greedy_weights(candidates, candidates.look_up(score)))
        worths[name] = PolicyValue(float(responses.likes.mean()), float(chosen.mean()))
    return worths


def _exposure(score: Scores, steps: int, replicates: int, seed: int) -> NDArray[np.intp]:
    """Return the items [replicates x U', S] that a policy with scores [U', I] shows: the best S, best first.

    Each replicate puts equal scores in a new random order, so a constant score is the random policy.
    """
    rng = generator(seed, "simulator card/ties")
    shown = []
    for _ in range(replicates):
        order = rng.permutation(score.shape[1])
        cost = -score[:, order]
        top = np.argpartition(cost, steps - 1, axis=1)[:, :steps]
        best_first = np.argsort(np.take_along_axis(cost, top, axis=1), axis=1)
        shown.append(order[np.take_along_axis(top, best_first, axis=1)])
    return np.concatenate(shown)
