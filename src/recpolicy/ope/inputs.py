"""What the estimators read, drawn from log and target: weights, reward models, replay and clusters."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.seeds import generator
from recpolicy.ope.estimator_specs import Evidence
from recpolicy.ope.estimators import direct_terms
from recpolicy.ope.results import ModelFit
from recpolicy.ope.reward_model import CrossFitted, RewardModelConfig, fit_reward_model, mrdr_weights
from recpolicy.ope.rounds import ActionTable, LoggedChoices, Target, check_distribution, check_support
from recpolicy.ope.weights import importance_weights

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
    lender: "Sources | None" = None
    """Sources of the same rounds whose fitted reward model serves here, too: it owes nothing to the target."""
    _scanned: dict[str, tuple[Array, Array]] = field(default_factory=dict)
    """Expected reward under the target and predicted reward of the logged action, by source."""

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

    def seen_by(self, target: Target) -> "Sources":
        """The same rounds and reward model with another target."""
        return replace(self, target=target, fits={}, lender=self, _scanned={})

    @cached_property
    def log(self) -> Evidence:
        """Weights and rewards."""
        weight = importance_weights(self.target.prob, self.rounds.logged_prob)
        return _without_model(weight, self.rounds.reward.astype(np.float64))

    @cached_property
    def modelled(self) -> Evidence:
        """With the given reward model, or a cross-fitted one."""
        return self._with_model("model", foreknown=self.q is not None)

    @cached_property
    def mrdr(self) -> Evidence:
        """With a reward model that is cross-fitted so as to make DR least variable."""
        return self._with_model("mrdr", foreknown=False)

    @cached_property
    def fitted(self) -> CrossFitted:
        """The reward model of these rounds where none is given."""
        return fit_reward_model(self.rounds, self.model, self.seed) if self.lender is None else self.lender.fitted

    @cached_property
    def replay(self) -> Evidence:
        """Weight A where an action drawn from the target is the logged one, else 0, so that weights are 1 on average as
        all others are; refuses logs not uniform."""
        misfit = uniform_misfit(self.rounds)
        if misfit is not None:
            raise DataError(
                f"replay: {misfit}; plain replay is biased unless every action was logged with probability 1/A: use "
                "snips, which weighs the rounds"
            )
        draw = generator(self.seed, "off_policy/replay").random(len(self.rounds))
        return _without_model((draw < self.target.prob) / self.rounds.logged_prob, self.log.reward)

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

    def read(self, sources: Collection[str]) -> None:
        """Read the tables of all actions now, once for all of these sources; else each reads them when asked for."""
        missing = [source for source in ("model", "mrdr") if source in sources and source not in self._scanned]
        if missing:
            table = self._table("a reward model")
            self._scanned.update(self._scan({source: self._rows_of(source) for source in missing}, table))

    def _rows_of(self, source: str) -> ActionTable:
        if source == "model":
            return self.fitted.rows if self.q is None else self.q
        weight = mrdr_weights(self.log.weight, self.rounds.logged_prob)
        return fit_reward_model(self.rounds, self.model, self.seed, weight).rows

    def _with_model(self, source: str, *, foreknown: bool) -> Evidence:
        self.read([source])
        direct, predicted = self._scanned[source]
        self.fits[source] = ModelFit.of(predicted, self.log.reward)
        return Evidence(self.log.weight, self.log.reward, direct, predicted, foreknown)

    def _scan(self, models: Mapping[str, ActionTable], table: ActionTable) -> dict[str, tuple[Array, Array]]:
        """Expected reward under the target and predicted reward of the logged action, both [N], block by block."""
        rounds = self.rounds
        found = {source: (np.empty(len(rounds)), np.empty(len(rounds))) for source in models}
        rows_of = [rounds.blocks(q, "predicted rewards") for q in models.values()]
        for (part, wanted), *predictions in zip(rounds.blocks(table, "target probabilities"), *rows_of, strict=True):
            check_distribution(wanted, part.start, "target probabilities")
            self._check_logged(part, wanted)
            for (direct, predicted), (_, reward) in zip(found.values(), predictions, strict=True):
                if not np.isfinite(reward).all():
                    raise DataError(f"predicted rewards: rounds {part.start}..{part.stop - 1} hold numbers not finite")
                bounded = np.clip(reward, *self.reward_range) if self.reward_range else reward
                direct[part] = direct_terms(wanted, bounded)
                predicted[part] = rounds.at_logged(part, bounded)
        return found

    def _check_logged(self, part: slice, wanted: NDArray[np.floating]) -> None:
        off = np.abs(self.rounds.at_logged(part, wanted) - self.target.prob[part])
        if off.max() > _TOLERANCE:
            row = int(off.argmax())
            raise DataError(
                f"round {part.start + row}: target.prob is {self.target.prob[part][row]:.6g}, its table says "
                f"{wanted[row, self.rounds.action[part][row]]:.6g} for the logged action"
            )

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
