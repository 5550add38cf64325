"""`recpolicy study retention`: does a retention agent bring users back sooner, where it can and where it cannot?

W users of the evaluation world. Agents train in the training world and are evaluated in chains of sessions of the
evaluation world, with the same users and random numbers. Differences are paired by user: means over training seeds,
with a bootstrap over users. All returns are simulated, and the influence of recommendations on them is assumed.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from recpolicy.core.config import Count, Size, config_dataclass
from recpolicy.core.errors import ConfigError
from recpolicy.core.files import write_json
from recpolicy.core.optional_deps import require_extra
from recpolicy.core.progress import progress
from recpolicy.core.seeds import generator
from recpolicy.core.statistics import Interval, mean_interval, paired_difference
from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.data.splits import Split
from recpolicy.inference.predictor import Policy
from recpolicy.models.session_worlds import TwoWorlds
from recpolicy.workflows.artifacts import check_writable_folder
from recpolicy.workflows.logging_policies import Days

if TYPE_CHECKING:
    from recpolicy.training.retention_loop import ChainResults

LABEL = "simulated; the influence of recommendations on the return is assumed"
CONFLICT, ALIGNED, CONTROL = "conflict", "aligned", "control"
EFFECTS: Mapping[str, tuple[float, float, float]] = {
    CONFLICT: (1.0, 1.0, 4.0), ALIGNED: (1.0, 4.0, 0.0), CONTROL: (0.0, 1.0, 4.0),
}  # fmt: skip
"""Assumed influence, weight of likes and weight of novelty in each world."""
_PURE = {"lambda_immediate": 0.0, "rnd_coef": 0.0}
_NAIVE = {**_PURE, "regularizer": 0.0, "normalize_returns": False, "activity_actors": False}
IMMEDIATE, RLUR_ROW = "immediate", "rlur"
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    IMMEDIATE: {"lambda_return": 0.0},
    RLUR_ROW: {},
    "td3_gamma_0": {**_NAIVE, "gamma_sessions": 0.0, "gamma_requests": 0.0},
    "td3_gamma_0.9": {**_NAIVE, "gamma_sessions": 0.9, "gamma_requests": 0.9},
    "rlur_discount_per_request": {"gamma_requests": 0.95},
    "rlur_without_rnd": {"rnd_coef": 0.0},
    "rlur_without_normalizer": {"normalize_returns": False},
    "rlur_one_actor": {"activity_actors": False},
    "rlur_without_regularizer": {"regularizer": 0.0},
    "rlur_regularizer_1.5": {"regularizer": 1.5},
}
"""Settings of RLUR that make the immediate agent, the naive agents and the ablations."""
ABLATIONS = tuple(name for name in VARIANTS if name.startswith("rlur_"))
FRONTIER: Mapping[str, Mapping[str, Any]] = {
    "lambda_1": {"lambda_return": 1.0}, "lambda_3": {"lambda_return": 3.0}, "lambda_30": {"lambda_return": 30.0},
    "return_only": _PURE,
}  # fmt: skip
"""Further weights of the return between the immediate agent (0) and the return alone; RLUR has 10."""


@config_dataclass
class RetentionStudyConfig:
    """Settings of the study."""

    items: Size = 200
    """Size of the catalog."""
    seeds: Size = 3
    """Number of training seeds."""
    blocks: Count = 20
    """Blocks of 256 chains with 50 requests in each training."""
    chains: Size = 10
    """Chains of each user in an evaluation."""
    sessions: Size = 10
    """Sessions in a chain."""
    horizon: Days = 14.0
    """Days in which sessions are counted, the second measure."""


QUICK: Mapping[str, int] = {"seeds": 1, "blocks": 4, "chains": 2}
"""A small part of the study."""


@dataclass(frozen=True)
class RetentionStudy:
    """Results per world and policy; each is the mean over seeds, per user."""

    results: Mapping[str, Mapping[str, "ChainResults"]]
    by_seed: Mapping[str, Mapping[str, list["ChainResults"]]]
    independent: Mapping[str, "ChainResults"]
    """The immediate agent and RLUR in the control, with random numbers of their own."""
    facts: Mapping[str, Any]
    """The return model, its calibration and the settings."""

    def days_gain(self, world: str, name: str, reference: str = IMMEDIATE) -> Interval:
        """Return the days sooner than the reference, paired by user."""
        results = self.results[world]
        return paired_difference(results[reference].days, results[name].days, generator(0, "retention study"))

    def independent_gain(self) -> Interval:
        """Return RLUR's gain in the control with independent random numbers; paired ones give exactly 0."""
        both = self.independent
        return paired_difference(both[IMMEDIATE].days, both[RLUR_ROW].days, generator(0, "retention study"))

    def table(self, world: str) -> pd.DataFrame:
        """Return all figures of a world as text, the policy with the fewest days first."""
        results = self.results[world]
        rng, rows = generator(0, "retention study"), {}
        for name, result in sorted(results.items(), key=lambda row: float(row[1].days.mean())):
            rows[name] = {
                "days": str(mean_interval(result.days, rng)),
                "days sooner": "" if name == IMMEDIATE else str(self.days_gain(world, name)),
                "day 1": f"{result.day_1.mean():.3f}",
                "at cap": f"{result.cap.mean():.3f}",
                "likes": str(mean_interval(result.likes, rng)),
                "novelty": f"{result.novelty.mean():.3f}",
                "sessions in horizon": f"{result.sessions.mean():.2f}",
            }
        table = pd.DataFrame.from_dict(rows, orient="index")
        table.index.name = "policy"
        return table

    def figures(self) -> dict[str, float]:
        """Return all numbers by name."""
        found: dict[str, float] = {}
        for world, results in self.results.items():
            for name, result in results.items():
                for part in ("days", "day_1", "cap", "likes", "requests", "novelty", "sessions"):
                    found[f"{world}_{name}_{part}"] = float(getattr(result, part).mean())
                for part in ("days", "likes"):
                    interval = mean_interval(getattr(result, part), generator(0, "retention study"))
                    found |= {f"{world}_{name}_{part}_lo": interval.lo, f"{world}_{name}_{part}_hi": interval.hi}
                if name != IMMEDIATE:
                    found |= _named(f"{world}_{name}_days_gain", self.days_gain(world, name))
                if name in ABLATIONS:
                    found |= _named(f"{world}_{name}_loss", self.days_gain(world, RLUR_ROW, reference=name))
        found |= _named("days_gain_conflict", self.days_gain(CONFLICT, RLUR_ROW))
        found |= _named("days_gain_aligned", self.days_gain(ALIGNED, RLUR_ROW))
        found |= _named("days_gain_control", self.independent_gain())
        found |= _named("days_gain_control_paired", self.days_gain(CONTROL, RLUR_ROW))
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {"label": LABEL, "figures": self.figures(), **self.facts}

    def trials(self) -> dict[str, list[float]]:
        """Return the mean days of each training seed."""
        return {
            f"{world}_{name}_days": [float(result.days.mean()) for result in results]
            for world, rows in self.by_seed.items()
            for name, results in rows.items()
        }


def run_retention_study(
    parts: Split, config: RetentionStudyConfig | None = None, *, policy: Policy | None = None,
    worlds: TwoWorlds | None = None, out: Path | None = None, seed: int = 0, show_progress: bool | None = None,
) -> RetentionStudy:  # fmt: skip
    """Train and evaluate all agents in the conflict world, and two of them in the aligned world and the control.

    Args:
        parts: The split, with timestamps; worlds and return times are fitted on it.
        config: Settings.
        policy: The policy whose heads are weighted, trained on this split; None takes the rating model.
        worlds: The simulated worlds; without them, they are fitted.
        out: A folder; `retention.json` is written into it.
        seed: Seed of the worlds; training seeds are 0, 1, ...
        show_progress: Show a progress bar; None shows it on a terminal, and lines elsewhere.

    Raises:
        ConfigError: `out` has a study already.
        ArtifactError: `out` is a file.
        DataError: The ratings have no times, no user comes back, or a head has one value only.
    """
    require_extra("train", "a simulation of sessions")
    config = config or RetentionStudyConfig()
    target = None if out is None else out / "retention.json"
    if target is not None and target.exists():
        raise ConfigError(f"{target}: already exists; choose another folder")
    if out is not None:
        check_writable_folder(out)
    silence_libraries()
    from recpolicy.environments.session_retention import RetentionConfig
    from recpolicy.training.retention_loop import mean_results
    from recpolicy.workflows.retention_world import make_retention_worlds

    if policy is None:
        policy = _rating_model_policy(parts, config.items, seed)
    settings = RetentionConfig()
    made = make_retention_worlds(policy, parts, worlds or _worlds(parts, settings.requests, seed), settings, seed)
    agents = _Agents(made.training, made.evaluation, config)
    by_seed: dict[str, dict[str, list[ChainResults]]] = {}
    independent: dict[str, list[ChainResults]] = {IMMEDIATE: [], RLUR_ROW: []}
    both = {name: VARIANTS[name] for name in (IMMEDIATE, RLUR_ROW)}
    plan = {CONFLICT: {**VARIANTS, **FRONTIER}, ALIGNED: both, CONTROL: both}
    total = config.seeds * (sum(map(len, plan.values())) + 3)
    with progress("retention study", total, unit="agents", show=show_progress) as shown:
        for world, variants in plan.items():
            agents.enter(world)
            rows = by_seed[world] = {}
            for number in range(config.seeds):
                for name, run in agents.rivals.items() if world == CONFLICT else ():
                    rows.setdefault(name, []).append(run(number))
                    shown.advance(1, f"{world}: {name}")
                for name, changed in variants.items():
                    rows.setdefault(name, []).append(agents.rlur(changed, number))
                    if world == CONTROL:
                        independent[name].append(agents.evaluate(1_000 + number + 100 * (name == RLUR_ROW)))
                    shown.advance(1, f"{world}: {name}")
            if world == CONFLICT:
                rows["rating_formula"] = [agents.rating_formula(number) for number in range(config.seeds)]
    study = RetentionStudy(
        {world: {name: mean_results(each) for name, each in rows.items()} for world, rows in by_seed.items()},
        by_seed, {name: mean_results(each) for name, each in independent.items()},
        {
            "return_model": _plain(made.model, ("mean", "std", "users", "gaps", "late", "censored", "left")),
            "calibration": _plain(made.calibration, tuple(made.calibration.__dataclass_fields__)),
            "effects": {world: list(EFFECTS[world]) for world in plan},
            "evaluation_users": made.evaluation.users, "seeds": config.seeds, "blocks": config.blocks,
            "chains": config.chains, "sessions": config.sessions, "horizon_days": config.horizon,
        },
    )  # fmt: skip
    if target is not None:
        write_json(target, study.as_dict())
    return study


class _Agents:
    """All agents with their compiled loops; a world is entered by assigning its effects."""

    def __init__(self, training: Any, evaluation: Any, config: RetentionStudyConfig):
        from recpolicy.agents.dual_value import DualValue
        from recpolicy.agents.rlur import RLUR
        from recpolicy.training.retention_loop import ChainEvaluation, RetentionTrainConfig, RetentionTraining
        from recpolicy.training.retention_rivals import (
            BanditPolicy,
            CrossEntropyTraining,
            DualValueTraining,
            UniformLog,
        )

        self._environments, self._config = (training, evaluation), config
        train = RetentionTrainConfig(blocks=config.blocks)
        width, heads = training.observation_width, training.head_count
        self._rlur, self._dual = RLUR(width, heads), DualValue(width, heads)
        self._training = RetentionTraining(training, self._rlur, train)
        self._dual_training = DualValueTraining(training, self._dual, train)
        self._search, self._log = CrossEntropyTraining(training, train), UniformLog(training, train)
        self._bandit = BanditPolicy(evaluation)
        play: dict[str, Any] = {"sessions": config.sessions, "chains": config.chains, "horizon": config.horizon}
        self._evaluation = ChainEvaluation(evaluation, self._rlur.actor, **play)
        self._bandit_evaluation = ChainEvaluation(evaluation, self._bandit, **play)
        self.rivals = {"dual_v": self._dual_value, "cem": self._cross_entropy, "return_bandit": self._return_bandit}

    def enter(self, world: str) -> None:
        """Set the effects of a world, the levels at which they are 0, and the costs of return days.

        The levels are the means under uniform weights, so that return days are near the fitted ones there.
        """
        from recpolicy.workflows.retention_world import normalized_scale, plain_scale

        for environment in self._environments:
            environment.effects.assign(EFFECTS[world])
        (table,) = self._log.run(0, 1)
        for environment in self._environments:
            environment.centers.assign(table.centers)
        (table,) = self._log.run(0, 1)
        self._level = table.requests, table.likes.mean() / table.requests
        features = self._environments[0].context.numpy()
        self._normalized = normalized_scale(table.days, table.user, features)
        self._plain = plain_scale(table.days, len(features))

    def evaluate(self, seed: int) -> "ChainResults":
        """Return the results of the agent that RLUR's actor holds now."""
        return self._evaluation.run(seed)

    def rlur(self, changed: Mapping[str, Any], seed: int) -> "ChainResults":
        """Train a variant of RLUR and return its results."""
        from recpolicy.agents.rlur import RLURConfig, start_levels

        settings = RLURConfig(**changed)
        scale = self._normalized if settings.normalize_returns else self._plain
        self._training.cost.assign(scale.scale, scale.cap, scale.unit)
        self._rlur.restart(settings, seed, start_levels(settings, *self._level))
        self._training.run(seed)
        return self.evaluate(seed)

    def rating_formula(self, seed: int) -> "ChainResults":
        """Return the results of the weight 1 on the predicted rating and 0 on all other heads."""
        from recpolicy.workflows.retention_world import HEADS

        self._rlur.actor.assign_constant(np.array([float(name == "rating") for name in HEADS]))
        return self.evaluate(seed)

    def _dual_value(self, seed: int) -> "ChainResults":
        self._dual.restart(seed)
        self._dual_training.cost.assign(self._normalized.scale, self._normalized.cap, self._normalized.unit)
        self._dual_training.run(seed)
        self._rlur.actor.networks.copy_from(self._dual.actor.networks)
        self._rlur.actor.separate.assign(self._dual.actor.separate)
        return self.evaluate(seed)

    def _cross_entropy(self, seed: int) -> "ChainResults":
        self._search.run(self._rlur.actor, seed)
        return self.evaluate(seed)

    def _return_bandit(self, seed: int) -> "ChainResults":
        from recpolicy.training.retention_rivals import fit_bandit

        self._bandit.assign(fit_bandit(self._log.run(seed + 1, self._config.blocks), seed))
        return self._bandit_evaluation.run(seed)


def _rating_model_policy(parts: Split, items: int, seed: int) -> Policy:
    """Return the greedy policy of the rating model, whose heads are weighted."""
    from recpolicy.workflows.policy_training import train

    with tempfile.TemporaryDirectory() as folder:
        return train(
            "rating_model", parts, Path(folder) / "policy", config={"items": items, "total_timesteps": 1_000},
            seed=seed, show_progress=False,
        )  # fmt: skip


def _worlds(parts: Split, requests: int, seed: int) -> TwoWorlds:
    from recpolicy.workflows.session_settings import SessionTrainConfig, make_worlds

    return make_worlds(parts, SessionTrainConfig(max_episode_steps=max(requests, 2)), seed)


def _plain(record: Any, names: tuple[str, ...]) -> dict[str, float]:
    return {name: getattr(record, name) for name in names}


def _named(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}_lo": interval.lo, f"{name}_hi": interval.hi}
