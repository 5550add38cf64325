"""Off-policy evaluation by every estimator: of one policy on one log, and the report card of the estimators themselves.

U users, An items of the catalogue, N rounds.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from recpolicy.core.config import as_dict
from recpolicy.core.errors import ConfigError
from recpolicy.core.files import write_json
from recpolicy.core.optional_deps import require_extra
from recpolicy.data.bandit_log import BanditLog
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.ratings import Ratings
from recpolicy.inference.predictor import Policy
from recpolicy.models.rating_model import RatingModel, check_positive
from recpolicy.ope.benchmark.logged_world import CardWorld, like_actions
from recpolicy.ope.benchmark.score_estimators import CardConfig, estimator_card
from recpolicy.ope.benchmark.scores import EstimatorCard
from recpolicy.ope.estimate import OffPolicyConfig, estimates_from, evidence, gains_from
from recpolicy.ope.results import Estimates, Gain
from recpolicy.workflows.artifacts import refuse_file
from recpolicy.workflows.compatibility import refuse_learnt, refuse_other_kind
from recpolicy.workflows.interaction_logs import EVALUATION, LogConfig, logging_probabilities, read_rounds
from recpolicy.workflows.log_evaluation import compare_on_log
from recpolicy.workflows.train import TrainConfig, training_world
from recpolicy.workflows.training_features import prepare, settings_of

if TYPE_CHECKING:
    from recpolicy.evaluation.report_page import ReportContent

CARD_FILE, PAGE_FILE = "estimators.json", "estimators.html"
ITEMS = 100
"""Size of the card's catalogue where the settings are silent."""
GAINS = ("ips", "snips", "dr", "sndr")
"""Estimators whose gain over an incumbent is told."""
NEAR, FAR = "near", "far"
"""The card's logging policies: the target with more chance in it, and the uniform choice."""

_NOTES = (
    "The world is simulated: its expected ratings are those of a model fitted on the train part, its ratings are drawn"
    " around them, and what the target policy earns is enumerated, not estimated. Users of a log are drawn from the"
    " simulated ones, each with a few rounds; intervals are by user.",
    "The reward model that the estimators are given is the rating model that the target ranks by, of another class than"
    " the world. It is therefore wrong, and most where the target acts: dm shows by how much.",
    "A relative error on a scale of 1..5 looks small. What the target gains over the logging policy, in the summary, is"
    " the better measure of what an error matters.",
    "dm and mips have a bias that their intervals do not count: the reward model's, and that of the clusters (items of"
    " like mean estimates). Figures of coverage leave them out.",
)


@dataclass(frozen=True, kw_only=True)
class ReportConfig(CardConfig):
    """The card's settings, and the policies: softmaxes over the rating model's estimates, in stars."""

    target_temperature: float = 0.1
    """Of the policy to be judged; the smaller, the greedier."""
    near_temperature: float = 0.3
    """Of the logging policy near to it."""
    near_floor: float = 0.1
    """Its share of uniform choices. The other logging policy is uniform throughout."""
    clusters: int = 20
    """Groups of items for mips."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "target_temperature", "near_temperature", "clusters")
        if not 0 < self.near_floor <= 1:
            raise ConfigError(f"ReportConfig.near_floor is {self.near_floor}; expected above 0 and at most 1")


QUICK: Mapping[str, Any] = {"sizes": (1_000, 10_000), "repetitions": 60, "resamples": 200}
"""Settings of a run that takes a minute."""


def report_estimators(
    fit: Ratings,
    out: str | Path | None = None,
    *,
    config: ReportConfig | Mapping[str, Any] | None = None,
    train: TrainConfig | Mapping[str, Any] | None = None,
    model: RatingModel | None = None,
    model_config: Any = None,
    seed: int = 0,
    workers: int | None = None,
    show_progress: bool | None = None,
) -> EstimatorCard:
    """Return the report card of the estimators in a world fitted on `fit`; writes JSON and page to the folder `out`.

    Of `train` the settings of features and world are used; 100 items unless it says otherwise. `workers` threads
    (None: as many as cores) change nothing in the card. Raises ConfigError for settings unknown or out of range.
    """
    require_extra("train", "the report card of the estimators")
    if out is not None:
        refuse_file(Path(out))
    settings = settings_of(ReportConfig, config, "card")
    training = train if isinstance(train, TrainConfig) else {"items": min(ITEMS, fit.shape[1]), **(train or {})}
    world = card_world(fit, settings, settings_of(TrainConfig, training, "train"), model, model_config, seed)
    card = estimator_card(world, settings, seed, workers=workers or os.cpu_count() or 1, show_progress=show_progress)
    if out is not None:
        write_json(Path(out) / CARD_FILE, {**card.as_dict(), "config": as_dict(settings), "fit": fit.digest})
        _write_page(card, settings, Path(out) / PAGE_FILE)
    return card


def card_world(
    fit: Ratings,
    settings: ReportConfig,
    training: TrainConfig,
    model: RatingModel | None = None,
    model_config: Any = None,
    seed: int = 0,
) -> CardWorld:
    """The training world with the rating model's estimates as reward model, and the card's three policies."""
    features = prepare(fit, training, model=model, model_config=model_config, seed=seed)
    world = training_world(fit, training, seed)
    score = features.model.mean[:, features.catalogue]
    loggers = {
        NEAR: logging_probabilities(score, LogConfig(temperature=settings.near_temperature, floor=settings.near_floor)),
        FAR: logging_probabilities(score, LogConfig(floor=1.0)),
    }
    return CardWorld(
        expected=world.expected[:, features.catalogue], scale=world.scale,
        target=logging_probabilities(score, LogConfig(temperature=settings.target_temperature, floor=0.0)),
        loggers=loggers, q=np.clip(score, *world.scale), context=features.context,
        clusters=like_actions(score, settings.clusters), name=f"{world.name} on {fit.name}",
    )  # fmt: skip


@dataclass(frozen=True)
class PolicyEstimates:
    """What a log says of a policy, by every estimator."""

    log: str
    logged: float
    """Mean logged reward."""
    estimates: Estimates
    gains: Mapping[str, Gain] = field(default_factory=dict)
    """Over the incumbent, by GAINS; empty without one."""

    def gain_table(self, margin: float = 0.0) -> pd.DataFrame:
        """The gains as text for people, with the verdict by the bootstrap interval."""
        rows = [
            {
                "candidate": f"{one.candidate.value:.3f}", "incumbent": f"{one.incumbent.value:.3f}",
                "gain": f"{one.value:+.3f}",
                **{kind: f"[{found.lo:+.3f}, {found.hi:+.3f}]" for kind, found in one.intervals.items()},
                "verdict": one.verdict(margin),
            }
            for one in self.gains.values()
        ]  # fmt: skip
        return pd.DataFrame(rows, index=pd.Index(list(self.gains), name="estimator")).fillna("–")

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON-able values."""
        gains = {name: {**one.as_dict(), "verdict": one.verdict()} for name, one in self.gains.items()}
        return {"log": self.log, "logged": self.logged, **self.estimates.as_dict(), "gains": gains}


def estimate_policy(
    policy: Policy,
    log: BanditLog,
    incumbent: Policy | None = None,
    *,
    config: OffPolicyConfig | Mapping[str, Any] | None = None,
    seed: int = 0,
) -> PolicyEstimates:
    """Estimate what the policy, without exploring, would have earned in the rounds of `log`, by every estimator.

    With an incumbent also the gain over it by those in GAINS, paired round by round. Rewards are known to lie on the
    log's scale. Raises DataError where one of the two has learnt from these very rounds, or knows other users or items
    than the other; ConfigError for settings unknown or out of range.
    """
    if incumbent is not None:
        refuse_other_kind(incumbent, False, log.name)
        refuse_learnt("the incumbent", incumbent, log.name, log.digest)
    trial = compare_on_log(policy, incumbent, log, seed)
    settings = _settings_of(config, log, seed)
    choices = replace(trial.choices, context=log.contexts(policy.artifact.context))  # mrdr fits a model of its own
    candidate = evidence(choices, trial.candidate, settings, q=trial.q)
    estimates = estimates_from(candidate, None, settings)
    gains = {}
    if trial.incumbent is not None:
        gains = gains_from(candidate, candidate.seen_by(trial.incumbent), GAINS, settings)
    return PolicyEstimates(log.name, float(log.reward.mean()), estimates, gains)


def rounds_for(policy: Policy, path: Path) -> BanditLog:
    """Read a file of rounds that `recpolicy log ingest` wrote, or the rounds for evaluation in its folder."""
    return read_rounds(path / EVALUATION if path.is_dir() else path, IdVocabulary.from_policy(policy))


def _settings_of(config: OffPolicyConfig | Mapping[str, Any] | None, log: BanditLog, seed: int) -> OffPolicyConfig:
    if isinstance(config, OffPolicyConfig):
        return config
    found: OffPolicyConfig = settings_of(
        OffPolicyConfig, {"seed": seed, "reward_range": log.scale, **(config or {})}, "off_policy"
    )
    return found


def _write_page(card: EstimatorCard, settings: ReportConfig, path: Path) -> None:
    from recpolicy.evaluation.report_page import write_report

    write_report(path, _page_of(card, settings))


def _page_of(card: EstimatorCard, settings: ReportConfig) -> "ReportContent":
    from recpolicy.core.plotting import to_svg
    from recpolicy.evaluation.report_page import ReportContent
    from recpolicy.ope.benchmark.score_plots import coverage_figure, error_figure

    tables, figures = [("Which estimator for which log", card.recommendations())], []
    for logging_policy in card.loggers:
        tables.append(
            (f"Relative error (%) by log size, {logging_policy} logging policy", card.error_table(logging_policy))
        )
        figures.append((f"Relative error, {logging_policy} logging policy", to_svg(error_figure(card, logging_policy))))
        for cell in card.of(logging_policy):
            what = f"{logging_policy} logging policy, {cell.repetitions} logs of {cell.rounds:,} rounds"
            tables.append((f"Coverage (%) ± mean half-width, {what}", card.coverage_table(logging_policy, cell.rounds)))
            figures.append((f"Coverage, {what}", to_svg(coverage_figure(card, logging_policy, cell.rounds))))
    return ReportContent(
        title="Report card of the off-policy estimators",
        summary=[
            ("world", f"{card.world}, {card.users:,} users, {card.actions:,} items"),
            ("true value of the target", f"{card.truth:.4f}"),
            *((f"{name} logging policy", card.about_logger(name)) for name in card.loggers),
            ("settings", ", ".join(f"{name} {value}" for name, value in as_dict(settings).items())),
            ("seed", str(card.seed)),
        ],
        tables=tables,
        figures=figures,
        notes=_NOTES,
    )
