"""Evaluate session policies and the baselines in simulated sessions of the training world and the evaluation world."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError
from recpolicy.core.files import content_digest, write_json
from recpolicy.core.seeds import generator
from recpolicy.core.statistics import Interval, paired_difference
from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.data.splits import Split
from recpolicy.evaluation.policy_scores import baseline_tables
from recpolicy.inference.predictor import Policy
from recpolicy.models.rating_models import fit_rating_model
from recpolicy.models.session_world import SessionWorld
from recpolicy.models.session_worlds import TwoWorlds
from recpolicy.workflows.evaluate import METRICS_FILE, refuse_seen_rows
from recpolicy.workflows.train_sessions import SessionTrainConfig, session_config, worlds_of
from recpolicy.workflows.training_features import settings_of

SESSIONS_PER_USER = 4


@dataclass(frozen=True)
class Returns:
    """One policy's sessions in one world."""

    reward: Interval
    """Mean reward of a session, with its user-bootstrap interval."""
    length: float
    """Mean number of items shown."""
    like_share: float
    """Likes per item shown."""
    gain: Interval | None
    """Reward beyond rating-model greedy in the same sessions; None for that policy itself."""


@dataclass(frozen=True)
class SessionEvaluation:
    """Returns of every policy in both worlds."""

    train: Mapping[str, Returns]
    evaluation_world: Mapping[str, Returns]

    def table(self) -> pd.DataFrame:
        """All figures as text, one row a policy, the best in the evaluation world first."""
        rows = {
            name: {
                "evaluation_world reward": str(returns.reward),
                "gain on rating_model": "" if returns.gain is None else str(returns.gain),
                "items": f"{returns.length:.1f}",
                "likes per item": f"{returns.like_share:.3f}",
                "training-world reward": str(self.train[name].reward),
            }
            for name, returns in sorted(self.evaluation_world.items(), key=lambda item: -item[1].reward.value)
        }
        table = pd.DataFrame.from_dict(rows, orient="index")
        table.index.name = "policy"
        return table

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON-able values."""

        def plain(returns: Returns) -> dict[str, Any]:
            gain = returns.gain
            return {
                "reward": _plain(returns.reward), "gain_on_rating_model": None if gain is None else _plain(gain),
                "length": returns.length, "like_share": returns.like_share,
            }  # fmt: skip

        worlds = {"train": self.train, "evaluation_world": self.evaluation_world}
        return {where: {name: plain(one) for name, one in found.items()} for where, found in worlds.items()}


def evaluate_sessions(
    policies: Mapping[str, Policy],
    split: Split,
    *,
    worlds: TwoWorlds | None = None,
    seed: int = 0,
    out: Path | None = None,
) -> SessionEvaluation:
    """Play the named session policies, greedily, beside the baselines; adds `sessions` to metrics.json in `out`.

    Policies may differ in agent, view and embeddings; catalogue, reward and length of sessions must be the same, and,
    unless `worlds` are handed in, the simulator and the seed that parts the users. Raises DataError as
    recpolicy.workflows.evaluate.evaluate does, ConfigError for policies that are none of sessions or not comparable.
    """
    if not policies:
        raise ConfigError("evaluate_sessions: no policies given; expected at least one")
    silence_libraries()
    for name, policy in policies.items():
        refuse_seen_rows(name, policy, split)
        if not policy.sequential:
            raise ConfigError(f"{name} ({policy.artifact.agent}) was not trained in sessions")
    refuse_unlike(policies, own_worlds=worlds is not None)
    first = next(iter(policies.values()))
    described = first.metadata["rating_model"]
    model_config = first.metadata["config"]["rating_model"]
    model = fit_rating_model(split.train, described["name"], model_config, seed=described["seed"])
    tables = {name: table.score for name, table in baseline_tables(split.train, model).items()}
    made = worlds or worlds_of(split, _settings(first), first.metadata["seed"])
    verdict = SessionEvaluation(
        *(_returns(policies, tables, world, seed) for world in (made.train, made.evaluation_world))
    )
    if out is not None:
        path = out / METRICS_FILE
        before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        write_json(path, {**before, "sessions": verdict.as_dict()})
    return verdict


def refuse_unlike(policies: Mapping[str, Policy], *, own_worlds: bool) -> None:
    """Raise ConfigError when policies were not made for the same sessions."""

    def sessions_of(policy: Policy) -> dict[str, Any]:
        train = policy.metadata["config"]["train"]
        same = {name: train[name] for name in ("reward", "reward_decay", "max_episode_steps")}
        worlds = {} if own_worlds else {"simulator": train["simulator"], "seed": policy.metadata["seed"]}
        return {**same, **worlds, "catalogue": policy.artifact.catalogue.tolist()}

    (first, *others) = policies
    expected = sessions_of(policies[first])
    for name in others:
        for setting, value in sessions_of(policies[name]).items():
            if value != expected[setting]:
                raise ConfigError(
                    f"{first} and {name} were trained with different {setting}: their sessions cannot be compared;"
                    " evaluate them one by one"
                )


def _settings(policy: Policy) -> SessionTrainConfig:
    settings: SessionTrainConfig = settings_of(SessionTrainConfig, policy.metadata["config"]["train"], "train")
    return settings


def _returns(
    policies: Mapping[str, Policy], tables: Mapping[str, NDArray[np.floating]], world: SessionWorld, seed: int
) -> dict[str, Returns]:
    from recpolicy.evaluation.sessions import SessionPlayer, session_baselines

    player_of: dict[str, Any] = {}  # compiled once for all policies that see the same of a session
    environments, played = {}, {}
    for name, policy in policies.items():
        environments[name] = environment = _environment(policy, world, seed)
        artifact = policy.artifact
        sees = content_digest(
            artifact.context, artifact.item, [environment.config.view, str(environment.config.last_n)]
        )
        player = player_of.setdefault(sees, SessionPlayer(environment))
        played[name] = player.play(_greedy(policy), seed)
    first = next(iter(policies))
    catalogue = policies[first].artifact.catalogue
    choices = session_baselines(environments[first], {name: table[:, catalogue] for name, table in tables.items()})
    player = next(iter(player_of.values()))
    played |= {name: player.play(choose, seed) for name, choose in choices.items()}
    reference = played["rating_model"].by_user(played["rating_model"].reward)
    found = {}
    for name, results in played.items():
        earned = results.by_user(results.reward)
        rng = generator(seed, "evaluation/sessions")
        gain = None if name == "rating_model" else paired_difference(earned, reference, rng)
        shown = results.length.sum()
        found[name] = Returns(
            results.interval(generator(seed, "evaluation/sessions")), float(results.length.mean()),
            float(results.likes.sum() / shown), gain,
        )  # fmt: skip
    return found


def _environment(policy: Policy, world: SessionWorld, seed: int) -> Any:
    """Sessions as the policy sees them."""
    from recpolicy.environments.session import SessionEnvironment

    artifact, config = policy.artifact, session_config(_settings(policy), SESSIONS_PER_USER * len(world.users))
    return SessionEnvironment(world, artifact.context, artifact.item, artifact.catalogue, config, seed)


def _greedy(policy: Policy) -> Any:
    from recpolicy.evaluation.sessions import best

    width = policy.artifact.context.shape[1]

    def choose(_: Any, observation: Any, mask: Any, rng: np.random.Generator) -> Any:
        return best(policy.session_scores(observation[:, :width], observation[:, width:]), mask, rng)

    return choose


def _plain(interval: Interval) -> dict[str, float]:
    return {"value": interval.value, "lo": interval.lo, "hi": interval.hi}
