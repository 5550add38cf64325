"""The validation card of the session simulator, on users outside the training of its response models.

We split the users into two halves. Response models (calibration, history, levels, continuation) learn from one half,
the rating model from the training ratings of all users. The card compares the simulator with the held-out users:

- likes, on their *test* ratings: AUC, ECE, Brier score, log-loss. History is that of their real sessions.
- sessions of their training ratings against simulated ones with the same exposure: the items that the user really rated
  from the session's start on, the user's following ones if the simulated session outlives the real one (after the last
  come the first). Expected ratings of these cells are cross-fitted, so no simulated response has seen the real one.
  Lengths and engagement (sum of the watch fractions) are cut at S items on both sides.
- rankings of policies: likes per simulated session against held-out choice, for users with two or more test ratings.

Simulated sessions use the step that agents train in (session_rollout.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.config import Count, CountOrZero, Fraction, Number, as_dict, config_dataclass
from recpolicy.core.errors import DataError
from recpolicy.core.seeds import generator
from recpolicy.core.types import Array
from recpolicy.data.rating_sessions import split_into_sessions
from recpolicy.data.ratings import Ratings, genre_matrix
from recpolicy.data.splits import Split
from recpolicy.evaluation.gate import Criterion
from recpolicy.evaluation.session_rollout import SessionResponses, SessionSimulator
from recpolicy.evaluation.simulator_gates import (
    PolicyValue,
    SimulatorCard,
    ValidationData,
    auc,
    calibration_error,
    genre_transitions,
    ks_critical_value,
    ks_statistic,
    log_loss,
    rank_agreement,
    total_variation,
)
from recpolicy.evaluation.simulator_intervals import HeldOutLikes, SessionSums, card_intervals
from recpolicy.evaluation.simulator_policies import policy_scores, policy_values
from recpolicy.models.logistic import sigmoid
from recpolicy.models.own_like_model import OwnLikeModel
from recpolicy.models.rating_models import fit_rating_model
from recpolicy.models.session_history import compute_history
from recpolicy.models.session_world import LIKE_LEVEL, QUARTERS, SessionWorld
from recpolicy.models.session_worlds import halves, joined, of_users
from recpolicy.models.user_model import SessionWorldConfig, UserModel, fit_user_model, world_from_user_model
from recpolicy.models.user_model_fits import watch_levels


@config_dataclass
class CardConfig:
    """Settings of the validation, including deliberate faults."""

    replicates: Count = 50
    """Simulated sessions for each real one, and for each user and policy."""
    resamples: CountOrZero = 200
    """Resamples of the held-out users for the intervals; 0 leaves them out."""
    bayesian: bool = True
    """True adds the Bayesian factorization machine to the policies; its first fit takes a minute."""
    min_like_auc: Fraction = 0.79
    """Limit of the first gate: on MovieLens 100K, above that of a model without preferences. Clicks are harder to order
    than ratings, so a click log needs a limit of its own, above the card's bias-only AUC."""
    shift_like: Number = 0.0
    """Added to the log-odds of every like: a simulator that is wrong on purpose, to see gates fail."""
    shift_stay: Number = 0.0
    """The same for going on."""


@dataclass(frozen=True)
class RealSessions:
    """M sessions of held-out users, with the items that a simulated one in their place would show."""

    user: NDArray[np.int32]  # [M] rows of the users table
    item: NDArray[np.int32]  # [M, S] from the session's start on
    responses: SessionResponses
    """Lengths cut at S and real levels; levels past the length belong to later sessions."""


def validate_world(
    split: Split,
    world_config: SessionWorldConfig | None = None,
    card_config: CardConfig | None = None,
    seed: int = 0,
    like_model: OwnLikeModel | None = None,
) -> SimulatorCard:
    """Fit a simulator on one half of the users and compare it with the other half.

    A like model of your own replaces the fitted one. Nobody cross-fits it: what it saw of these users is not known.

    Raises DataError without timestamps or where the held-out users have no test ratings.
    """
    config, card = world_config or SessionWorldConfig(), card_config or CardConfig()
    learn, held = halves(split.train, seed)
    test = of_users(split.test, held, "held-out users")
    if not len(test):
        raise DataError(f"{split.test.name}: no test ratings of the {len(held)} held-out users")
    responses = fit_user_model(split.train, learn, config, seed, like_model)
    world = world_from_user_model(responses, held, seed)
    world = replace(world, like=world.like + np.float32(card.shift_like), stay=world.stay + np.float32(card.shift_stay))
    odds, like, exact, user, item = _test_likes(split, held, responses, config, like_model)
    real = real_sessions(of_users(split.train, held, "held-out users"), config, world.watch)
    crossed = SessionSimulator(_cross_fitted_world(world, split.train, responses, card.shift_like))
    who = np.searchsorted(world.users, real.user)
    simulated = crossed.simulate(np.tile(who, card.replicates), np.tile(real.item, (card.replicates, 1)), seed)
    # A model without preferences; the first gate must reject it.
    bias = fit_rating_model(split.train, "bias").mean[user, item].astype(np.float64)
    policies = policy_values(
        SessionSimulator(world), policy_scores(split.train, card.bayesian, seed), test, card.replicates, seed
    )
    odds = odds + card.shift_like
    evidence = ValidationData(
        sigmoid(odds), like, real.responses.length, simulated.length, real.responses.engagement, simulated.engagement
    )
    counts = {
        "users learnt from": len(learn), "held-out users": len(held), "with test ratings": len(np.unique(test.user)),
        "test ratings": len(test), "real sessions": len(real.user), "simulated sessions": len(simulated.length),
    }  # fmt: skip
    return SimulatorCard(
        world=world.name, split=split.name, train_digest=split.train.digest, test_digest=split.test.digest, seed=seed,
        clicks=bool((split.train.source or {}).get("signals")) or split.train.watch is not None,
        config=as_dict(config), counts=counts, policies=policies, evidence=evidence,
        gates=_gates(evidence, _transition_distance(split.train, real, simulated), policies, card.min_like_auc),
        figures=_figures(evidence, odds, auc(like, bias)) | _own_figures(responses, exact, like)
        | context_figures(split.train, responses),
        intervals=card_intervals(
            HeldOutLikes(user, like, evidence.probability, bias), _session_sums(real, simulated, split.train.shape[0]),
            generator(seed, "simulator card/intervals"), card.resamples,
        ),
    )  # fmt: skip


def real_sessions(ratings: Ratings, config: SessionWorldConfig, watch: tuple[float, ...] = QUARTERS) -> RealSessions:
    """Return the sessions of the ratings, each with the user's S items from its start on, the first ones after the
    last.

    Engagement is at the resolution of the simulator: `watch` is the watch fraction of each level.
    """
    sessions = split_into_sessions(ratings, config.gap_minutes)
    user = ratings.user[sessions.rows]
    first = np.searchsorted(user, sessions.user)  # [M] where the user's ratings begin
    count = np.searchsorted(user, sessions.user, "right") - first
    place = (sessions.start - first)[:, None] + np.arange(config.max_steps)
    row = sessions.rows[first[:, None] + place % count[:, None]]  # [M, S]
    level = watch_levels(ratings.rating[row], ratings.scale)
    return RealSessions(
        sessions.user, ratings.item[row], SessionResponses(np.minimum(sessions.length, config.max_steps), level, watch)
    )


def _test_likes(
    split: Split, held: NDArray[np.int32], responses: UserModel, config: SessionWorldConfig,
    like_model: OwnLikeModel | None,
) -> tuple[Array, NDArray[np.bool_], Array | None, NDArray[np.int32], NDArray[np.int32]]:  # fmt: skip
    """Return log-odds of a like, outcome, own log-odds, user and item of the held-out users' test ratings, [N] each.

    Own log-odds are those of an own like model itself, without the approximation that is simulated. All are in session
    order.

    History is made of all that they rated before in the session, in either part.
    """
    every = joined(split.train, split.test, split.name)
    in_test = np.arange(len(every)) >= len(split.train)
    mine = np.isin(every.user, held)
    ratings, in_test = every.take(mine), in_test[mine]
    blocks = split_into_sessions(ratings, config.gap_minutes).cut(config.max_steps)
    user, item = ratings.user[blocks.rows], ratings.item[blocks.rows]
    like = watch_levels(ratings.rating[blocks.rows], ratings.scale) >= LIKE_LEVEL
    history = compute_history(blocks, item, like, responses.tastes)
    context = None if ratings.context is None else ratings.context[blocks.rows]
    odds = responses.like_odds(user, item, history, context)
    tested = in_test[blocks.rows]
    exact = None if like_model is None else like_model.session_odds(ratings, blocks, like, config.max_steps)[tested]
    return odds[tested], like[tested], exact, user[tested], item[tested]


def _own_figures(responses: UserModel, exact: Array | None, like: NDArray[np.bool_]) -> dict[str, float]:
    """Return figures of an own like model; none for the fitted one."""
    if exact is None or responses.history_fit is None:
        return {}
    return {
        "like AUC of the own like model itself": auc(like, exact),
        "history of the own like model, explained share": responses.history_fit.explained,
        "history of the own like model, error of P(like)": responses.history_fit.error,
    }


def context_figures(train: Ratings, responses: UserModel) -> dict[str, float]:
    """Return what a simulation in each user's usual context leaves out; nothing for ratings without contexts."""
    if not responses.like.context:
        return {}
    odds = responses.like.context_odds(train.context)
    usual = responses.usual_context[train.user]
    start = responses.like.intercept + responses.like.slope * responses.expected
    return {
        "context, standard deviation of its log-odds within users": float(np.sqrt(np.mean((odds - usual) ** 2))),
        "context, mean P(like) in the usual one minus in the real ones": float(
            np.mean(sigmoid(start + usual) - sigmoid(start + odds))
        ),
    }


def _cross_fitted_world(world: SessionWorld, train: Ratings, responses: UserModel, shift: float) -> SessionWorld:
    """Return the world with the log-odds of rated items from models that were not fitted on the rating."""
    like = world.like.copy()
    mine = np.flatnonzero(np.isin(train.user, world.users))
    place = np.searchsorted(world.users, train.user[mine])
    start = responses.like.intercept + responses.like.slope * responses.expected[mine] + shift
    like[place, train.item[mine]] = start + responses.usual_context[train.user[mine]]
    return replace(world, like=like)


def _transition_distance(train: Ratings, real: RealSessions, simulated: SessionResponses) -> float:
    _, genres = genre_matrix(train.items)
    replicates = len(simulated.length) // len(real.user)
    real_transitions, simulated_transitions = (
        genre_transitions(genres, item, responses.shown & (responses.level >= LIKE_LEVEL))
        for item, responses in ((real.item, real.responses), (np.tile(real.item, (replicates, 1)), simulated))
    )
    return total_variation(real_transitions, simulated_transitions)


def _gates(
    evidence: ValidationData, transitions: float, policies: Mapping[str, PolicyValue], min_auc: float
) -> tuple[Criterion, ...]:
    e = evidence
    return (
        Criterion("like AUC", auc(e.like, e.probability), min_auc, at_least=True),
        Criterion("like ECE", calibration_error(e.probability, e.like), 0.03, at_least=False),
        Criterion("session length KS", ks_statistic(e.real_length, e.simulated_length), 0.10, at_least=False),
        Criterion("engagement KS", ks_statistic(e.real_engagement, e.simulated_engagement), 0.15, at_least=False),
        Criterion("genre transition TV", transitions, 0.10, at_least=False),
        Criterion("policy ranking tau", rank_agreement(policies), 0.60, at_least=True),
    )


def _figures(evidence: ValidationData, odds: Array, bias_only: float) -> dict[str, float]:
    e = evidence
    return {
        "like Brier score": float(np.mean((e.probability - e.like) ** 2)),
        "like log-loss": log_loss(odds, e.like),
        "bias-only AUC (negative control)": bias_only,
        "KS critical value at 5 %": ks_critical_value(len(e.real_length), len(e.simulated_length)),
        "mean session length, real": float(e.real_length.mean()),
        "mean session length, simulated": float(e.simulated_length.mean()),
        "mean engagement, real": float(e.real_engagement.mean()),
        "mean engagement, simulated": float(e.simulated_engagement.mean()),
    }


def _session_sums(
    real: RealSessions, simulated: SessionResponses, users: int
) -> dict[str, tuple[SessionSums, SessionSums]]:
    """Return lengths and engagement of real and simulated sessions, summed by user [U]."""
    again = np.tile(real.user, len(simulated.length) // len(real.user))
    sides = ((real.user, real.responses), (again, simulated))
    length, engagement = (
        [SessionSums.of(user, getattr(responses, name), users) for user, responses in sides]
        for name in ("length", "engagement")
    )
    return {"mean session length": (length[0], length[1]), "mean engagement": (engagement[0], engagement[1])}
