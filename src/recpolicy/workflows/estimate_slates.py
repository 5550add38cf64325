"""Off-policy evaluation of a policy by the pages of another: what it would have earned per page, by every estimator.

N pages, K slots, An items of the log's catalogue. The policy fills a page without exploring: each slot with the item
it scores best of those that the slot can still show, ties sharing alike.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.data.slate_log import SlateLog, open_to
from recpolicy.data.slate_log_files import SLATES, is_slate_log
from recpolicy.inference.action_distributions import greedy
from recpolicy.inference.predictor import Policy
from recpolicy.ope.fqe import FQEConfig
from recpolicy.ope.multi_step import SequenceConfig
from recpolicy.ope.pseudo_inverse import general_weights, without_repeats_moments
from recpolicy.ope.slate_estimate import estimate_slates, slate_gains
from recpolicy.ope.slates import LoggedSlates
from recpolicy.ope.step_models import StepModel, by_position, linear_model
from recpolicy.workflows.compatibility import refuse_learnt, refuse_other_ids, refuse_other_kind
from recpolicy.workflows.estimate import PolicyEstimates
from recpolicy.workflows.training_features import settings_of

_PAGES_AT_ONCE, _WEIGHTS_AT_ONCE = 4_096, 65_536
_MOST_CELLS = 500
"""Slots times items up to which pages without shelves get weights: a matrix of so many rows is inverted."""
_UNIFORM = 1e-9
RIDGE = 1.0
"""Slots' worth of pull on the reward model's weights: all items of a shelf may have the same rating estimate."""

Array = NDArray[np.float64]


def estimate_slate_policy(
    policy: Policy,
    log: SlateLog,
    incumbent: Policy | None = None,
    *,
    config: SequenceConfig | Mapping[str, Any] | None = None,
    seed: int = 0,
) -> PolicyEstimates:
    """Estimate what the policy, without exploring, would have earned per page of `log`, by every estimator of slates.

    With an incumbent also the gain over it, paired page by page. cascade_dr reads the policy's own rating estimates.
    Rewards are known to lie on the log's scale. Raises ConfigError for a policy of sessions and settings unknown or out
    of range, DataError for a catalogue that the policy does not have and for an incumbent of other users or items.
    """
    _check("the policy", policy, log)
    if incumbent is not None:
        _check("the incumbent", incumbent, log)
        refuse_other_ids(policy, incumbent)
    settings = config if isinstance(config, SequenceConfig) else _settings(config, log, seed)
    slates, model = _seen_by(policy, log, settings)
    estimates = estimate_slates(slates, None, settings, model=model)
    gains = {}
    if incumbent is not None:
        other, other_model = _seen_by(incumbent, log, settings)
        gains = slate_gains(slates, other, None, settings, model=model, incumbent_model=other_model)
    return PolicyEstimates(log.name, float(log.reward.mean()), estimates, gains)


def slates_of(policy: Policy, log: SlateLog) -> tuple[LoggedSlates, Array, Array]:
    """The log as estimators read it, and the policy's rating estimates, both [N, K]: of the items shown, of its own.

    The second are on average over what the policy would show in a slot below the items that were shown.
    """
    score, rating = (table[:, log.catalogue] for table in policy.scores())
    prob, shown, wanted = (np.empty(log.slate.shape) for _ in range(3))
    arm = log.arm
    for first in range(0, len(log), _PAGES_AT_ONCE):
        part = slice(first, first + _PAGES_AT_ONCE)
        user = log.user[part]
        for slot in range(log.slots):
            among, fresh = open_to(slot, arm[part], log.shelves, len(log.catalogue))
            chosen, rated = greedy(score[np.ix_(user, among)], fresh), rating[np.ix_(user, among)]  # [n, M]
            here = np.searchsorted(among, arm[part, slot])[:, np.newaxis]
            prob[part, slot] = np.take_along_axis(chosen, here, axis=1)[:, 0]
            shown[part, slot] = np.take_along_axis(rated, here, axis=1)[:, 0]
            wanted[part, slot] = np.einsum("nm,nm->n", chosen, rated)
    slates = LoggedSlates(
        np.exp(log.log_propensity), prob, log.reward, log.user, slot_reward=log.slot_reward,
        independent=log.shelves is not None, pseudo_weight=_pseudo_weights(score, log),
    )  # fmt: skip
    return slates, shown, wanted


def _seen_by(policy: Policy, log: SlateLog, settings: SequenceConfig) -> tuple[LoggedSlates, StepModel | None]:
    """The log as estimators read it, and a model of what the slots earn where the log tells it."""
    slates, shown, wanted = slates_of(policy, log)
    if slates.slot_reward is None:
        return slates, None
    features, expected = (by_position(np.stack([np.ones_like(one), one], axis=2)) for one in (shown, wanted))
    return slates, linear_model(slates.trajectories(), features, expected, settings, FQEConfig(ridge=RIDGE))


def _pseudo_weights(score: NDArray[np.floating], log: SlateLog) -> Array | None:
    """Weights [N] of pages without shelves; None unless they were drawn evenly, from few items."""
    actions = len(log.catalogue)
    if log.shelves is not None or log.slots * actions > _MOST_CELLS:
        return None
    even = -np.log(actions - np.arange(log.slots))
    if np.abs(log.log_propensity - even).max() > _UNIFORM:
        return None
    people, who = np.unique(log.user, return_inverse=True)
    wanted, moments = _page_of(score[people], log.slots), without_repeats_moments(log.slots, actions)
    blocks = range(0, len(log), _WEIGHTS_AT_ONCE)
    parts = [slice(first, first + _WEIGHTS_AT_ONCE) for first in blocks]
    return np.concatenate([general_weights(moments, wanted[who[part]], log.arm[part]) for part in parts])


def _page_of(score: NDArray[np.floating], slots: int) -> Array:
    """Chance of each item in each slot [n, K A] of the policy's own page: its best items in order; ties by row."""
    best = np.argsort(-score, axis=1, kind="stable")[:, :slots]
    chance = np.zeros((len(score), slots, score.shape[1]))
    np.put_along_axis(chance, best[:, :, np.newaxis], 1.0, axis=2)
    return chance.reshape(len(score), -1)


def _settings(config: Mapping[str, Any] | None, log: SlateLog, seed: int) -> SequenceConfig:
    given = {"seed": seed, "reward_range": log.scale, **(config or {})}
    found: SequenceConfig = settings_of(SequenceConfig, given, "off_policy")
    return found


def _check(who: str, policy: Policy, log: SlateLog) -> None:
    artifact = policy.artifact
    refuse_other_kind(policy, False, log.name)
    refuse_learnt(who, policy, log.name, log.digest)
    strange = ~np.isin(log.catalogue, artifact.catalogue)
    if strange.any():
        raise DataError(
            f"{log.name}: {int(strange.sum())} of the {len(log.catalogue)} items of its pages are not in the catalogue"
            f" of {artifact.agent}; judge a policy of that catalogue"
        )


def holds_slates(path: Path) -> bool:
    """Whether this folder or file is a log of slates."""
    return (path / SLATES).exists() if path.is_dir() else is_slate_log(path)
