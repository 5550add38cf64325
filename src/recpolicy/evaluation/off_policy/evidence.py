"""What the estimators read, drawn from log and target: weights, reward models, replay and clusters."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.seeds import generator
from recpolicy.evaluation.off_policy.catalogue import Evidence
from recpolicy.evaluation.off_policy.estimators import direct_terms
from recpolicy.evaluation.off_policy.results import ModelFit
from recpolicy.evaluation.off_policy.reward_model import RewardModelConfig, fit_reward_model, mrdr_weights
from recpolicy.evaluation.off_policy.rounds import (
    ActionTable,
    LoggedChoices,
    Target,
    check_distribution,
    check_support,
)
from recpolicy.evaluation.off_policy.weights import importance_weights

Array = NDArray[np.float64]
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Sources:
    """One log and one target; each kind of evidence is made when first asked for."""

    rounds: LoggedChoices
    target: Target
    q: ActionTable | None
    """Predicted rewards [N, A] that owe nothing to these rounds; None cross-fits a model."""
    clusters: NDArray[np.integer] | None  # [A]
    model: RewardModelConfig
    reward_range: tuple[float, float] | None
    seed: int
    fits: dict[str, ModelFit] = field(default_factory=dict)
    """How well each reward model fits, by source."""

    def __post_init__(self) -> None:
        if self.target.prob.shape != (len(self.rounds),):
            raise DataError(f"target: {self.target.prob.shape} probabilities; expected ({len(self.rounds)},)")
        check_support(self.rounds, self.target)

    def get(self, source: str) -> Evidence:
        """The evidence of that name; see Recipe.source."""
        return {
            "log": lambda: self.log,
            "model": lambda: self.modelled,
            "mrdr": lambda: self.mrdr,
            "replay": lambda: self.replay,
            "clusters": lambda: self.clustered,
        }[source]()

    def has(self, source: str) -> bool:
        """Whether what this evidence is made of was given."""
        if source in ("model", "mrdr"):
            return self.target.table is not None
        if source == "replay":
            return uniform_misfit(self.rounds) is None
        if source == "clusters":
            given = (self.target.table, self.clusters, self.rounds.logging_probs)
            return all(one is not None for one in given)
        return True

    @cached_property
    def log(self) -> Evidence:
        """Weights and rewards."""
        weight = importance_weights(self.target.prob, self.rounds.logged_prob)
        return _without_model(weight, self.rounds.reward.astype(np.float64))

    @cached_property
    def modelled(self) -> Evidence:
        """With the given reward model, or a cross-fitted one."""
        q = fit_reward_model(self.rounds, self.model, self.seed).rows if self.q is None else self.q
        return self._with_model(q, "model", foreknown=self.q is not None)

    @cached_property
    def mrdr(self) -> Evidence:
        """With a reward model that is cross-fitted so as to make DR least variable."""
        weight = mrdr_weights(self.log.weight, self.rounds.logged_prob)
        q = fit_reward_model(self.rounds, self.model, self.seed, weight).rows
        return self._with_model(q, "mrdr", foreknown=False)

    @cached_property
    def replay(self) -> Evidence:
        """Weight 1 where an action drawn from the target is the logged one, else 0; refuses logs not uniform."""
        misfit = uniform_misfit(self.rounds)
        if misfit is not None:
            raise DataError(
                f"replay: {misfit}; plain replay is biased unless every action was logged with probability 1/A: use "
                "snips, which weighs the rounds"
            )
        draw = generator(self.seed, "off_policy/replay").random(len(self.rounds))
        return _without_model((draw < self.target.prob).astype(np.float64), self.log.reward)

    @cached_property
    def clustered(self) -> Evidence:
        """Weights of clusters of actions in place of actions (MIPS)."""
        rounds, table = self.rounds, self._table("mips")
        if self.clusters is None or rounds.logging_probs is None:
            raise ConfigError(
                "estimator 'mips' needs `clusters` [A] and the log's `logging_probs` [N, A]: how likely a cluster was "
                "to be logged cannot be told from the logged action's probability"
            )
        wanted = marginal_probs(rounds, table, self.clusters, "target probabilities")
        logged = marginal_probs(rounds, rounds.logging_probs, self.clusters, "logging_probs")
        return _without_model(importance_weights(wanted, logged), self.log.reward)

    def _with_model(self, q: ActionTable, source: str, *, foreknown: bool) -> Evidence:
        direct, predicted = self._scan(q, self._table("a reward model"))
        error = predicted - self.log.reward
        variance = float(self.log.reward.var())
        self.fits[source] = ModelFit(
            rmse=float(np.sqrt(np.mean(error**2))),
            bias=float(error.mean()),
            explained=1 - float(np.mean(error**2)) / variance if variance > 0 else float("nan"),
        )
        return Evidence(self.log.weight, self.log.reward, direct, predicted, foreknown)

    def _scan(self, q: ActionTable, table: ActionTable) -> tuple[Array, Array]:
        """Expected reward under the target and predicted reward of the logged action, both [N], block by block."""
        rounds = self.rounds
        direct, predicted = np.empty(len(rounds)), np.empty(len(rounds))
        low, high = self.reward_range or (-np.inf, np.inf)
        pairs = zip(rounds.blocks(table, "target probabilities"), rounds.blocks(q, "predicted rewards"), strict=True)
        for (part, wanted), (_, reward) in pairs:
            check_distribution(wanted, part.start, "target probabilities")
            off = np.abs(rounds.at_logged(part, wanted) - self.target.prob[part])
            if off.max() > _TOLERANCE:
                row = int(off.argmax())
                raise DataError(
                    f"round {part.start + row}: target.prob is {self.target.prob[part][row]:.6g}, its table says "
                    f"{wanted[row, rounds.action[part][row]]:.6g} for the logged action"
                )
            if not np.isfinite(reward).all():
                raise DataError(f"predicted rewards: rounds {part.start}..{part.stop - 1} hold numbers not finite")
            bounded = np.clip(reward, low, high) if self.reward_range else reward
            direct[part] = direct_terms(wanted, bounded)
            predicted[part] = rounds.at_logged(part, bounded)
        return direct, predicted

    def _table(self, who: str) -> ActionTable:
        if self.target.table is None:
            raise ConfigError(f"{who} needs the target's probabilities of all actions: give Target a table [N, A]")
        return self.target.table


def _without_model(weight: Array, reward: Array) -> Evidence:
    nothing = np.zeros(len(weight))
    return Evidence(weight, reward, nothing, nothing)


def logged_predictions(rounds: LoggedChoices, q: ActionTable) -> Array:
    """Predicted rewards [N] of the logged actions out of a table [N, A], for a look at its calibration."""
    found = np.empty(len(rounds))
    for part, rows in rounds.blocks(q, "predicted rewards"):
        found[part] = rounds.at_logged(part, rows)
    return found


def marginal_probs(rounds: LoggedChoices, table: ActionTable, clusters: NDArray[np.integer], name: str) -> Array:
    """Probability [N] of choosing any action of the logged action's cluster; clusters [A] numbers them."""
    if clusters.shape != (rounds.actions,):
        raise DataError(f"clusters: {clusters.shape}; expected ({rounds.actions},), one number an action")
    found = np.empty(len(rounds))
    mine = clusters[rounds.action]  # [N]
    for part, rows in rounds.blocks(table, name):
        check_distribution(rows, part.start, name)
        found[part] = np.where(clusters == mine[part, None], rows, 0).sum(axis=1, dtype=np.float64)
    return np.minimum(found, 1)


def uniform_misfit(rounds: LoggedChoices) -> str | None:
    """What keeps the log from being uniform over its actions, with the first such row; None if nothing does."""
    off = np.abs(rounds.logged_prob * rounds.actions - 1) > 1e-6
    if not off.any():
        return None
    row = int(np.argmax(off))
    return f"row {row} was logged with probability {rounds.logged_prob[row]:.6g}, not 1/{rounds.actions}"
