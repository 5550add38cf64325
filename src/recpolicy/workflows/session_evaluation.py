"""Evaluate policies and the baselines in simulated sessions of the training world and the evaluation world.

A policy of single rounds leads a session by its best items that the session has not shown.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, MissingExtraError
from recpolicy.core.files import content_digest, write_json
from recpolicy.core.optional_deps import require_extra
from recpolicy.core.seeds import generator
from recpolicy.core.statistics import Interval, paired_difference
from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.core.text import format_table
from recpolicy.data.splits import Split
from recpolicy.evaluation.policy_scores import baseline_tables
from recpolicy.inference.predictor import Policy
from recpolicy.models.session_world import SessionWorld
from recpolicy.models.session_worlds import TwoWorlds
from recpolicy.workflows.held_out_evaluation import METRICS_FILE, check_trained_on, get_rating_model
from recpolicy.workflows.session_training import SessionTrainConfig, make_worlds, session_config
from recpolicy.workflows.training_data import coerce

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SESSIONS_PER_USER = 4


@dataclass(frozen=True)
class Returns:
    """One policy's sessions in one world."""

    reward: Interval
    """Mean reward of a session, with its user-bootstrap interval."""
    length: float
    """Mean number of recommended items."""
    like_share: float
    """Likes per recommended item."""
    gain: Interval | None
    """Reward minus that of the greedy rating model in the same sessions; None for that policy itself."""


@dataclass(frozen=True)
class SessionEvaluation:
    """Returns of every policy in both worlds."""

    training_world: Mapping[str, Returns]
    evaluation_world: Mapping[str, Returns]

    def table(self) -> pd.DataFrame:
        """Return all figures as text, one row per policy, the best in the evaluation world first."""
        rows = {
            name: {
                "evaluation-world reward": str(returns.reward),
                "gain on rating_model": "" if returns.gain is None else str(returns.gain),
                "items": f"{returns.length:.1f}",
                "likes per item": f"{returns.like_share:.3f}",
                "training-world reward": str(self.training_world[name].reward),
            }
            for name, returns in sorted(self.evaluation_world.items(), key=lambda item: -item[1].reward.value)
        }
        table = pd.DataFrame.from_dict(rows, orient="index")
        table.index.name = "policy"
        return table

    def show(self) -> None:
        """Print all figures."""
        print(format_table(self.table(), "Simulated sessions: reward of a session, 95 % intervals over users"))

    def plot(self) -> "Figure":
        """Return a plot of the reward of a session, per policy and world.

        Raises:
            MissingExtraError: The extra `report`, which draws the plots, is not installed.
        """
        require_extra("report", "a plot")
        from recpolicy.evaluation.plots import session_rewards_figure

        worlds = (self.evaluation_world, self.training_world)
        return session_rewards_figure(*({name: returns.reward for name, returns in world.items()} for world in worlds))

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""

        def plain(returns: Returns) -> dict[str, Any]:
            gain = returns.gain
            return {
                "reward": returns.reward.as_dict(), "gain_on_rating_model": None if gain is None else gain.as_dict(),
                "length": returns.length, "like_share": returns.like_share,
            }  # fmt: skip

        worlds = {"training_world": self.training_world, "evaluation_world": self.evaluation_world}
        return {
            world: {name: plain(returns) for name, returns in policies.items()} for world, policies in worlds.items()
        }


def evaluate_sessions(
    policies: Mapping[str, Policy],
    split: Split,
    *,
    worlds: TwoWorlds | None = None,
    seed: int = 0,
    out: Path | None = None,
) -> SessionEvaluation:
    """Evaluate policies of sessions or single rounds, and the baselines, in simulated sessions, greedily.

    Policies may differ in agent, view and embeddings. Catalog, reward and length of sessions must be the same, and,
    without `worlds`, also the simulator and the seed. Policies of single rounds have no settings of sessions: they take
    those of the first session policy, or the defaults.

    Args:
        policies: The policies by name.
        split: The split that all of them were trained on.
        worlds: The simulated worlds; without them, they are fitted.
        seed: Seed of the sessions and the intervals.
        out: A folder; its metrics.json gets the key `sessions`.

    Returns:
        Reward, length and likes of sessions per policy, in the training world and the evaluation world.

    Raises:
        ConfigError: There is no policy, or two are not comparable.
        DataError: A policy was trained on another train part, so it may have seen test ratings.
        MissingExtraError: The extra `train`, which simulates sessions, is not installed.
    """
    if not policies:
        raise ConfigError("evaluate_sessions: no policies given; expected at least one")
    require_extra("train", "a simulation of sessions")
    silence_libraries()
    for name, policy in policies.items():
        check_trained_on(name, policy, split)
    check_comparable(policies, own_worlds=worlds is not None)
    first = next((policy for policy in policies.values() if policy.sequential), next(iter(policies.values())))
    model = get_rating_model(first, split.train)
    tables = {name: table.score for name, table in baseline_tables(split.train, model).items()}
    both = worlds or make_worlds(split, session_settings(first), first.metadata["seed"])
    result = SessionEvaluation(
        *(_returns(policies, tables, world, seed) for world in (both.training_world, both.evaluation_world))
    )
    if out is not None:
        _store(out, result.as_dict())
    return result


def evaluate_or_read_sessions(
    policy: Policy, split: Split, folder: Path, seed: int, stored: Mapping[str, Any]
) -> tuple[SessionEvaluation | None, list[str]]:
    """Evaluate one session policy in simulated sessions; without the extra `train`, take the stored figures.

    Args:
        policy: The policy.
        split: The split that it was trained on.
        folder: Its artifact; its metrics.json gets the key `sessions`.
        seed: Seed of the sessions and the intervals.
        stored: The content of an earlier metrics.json, see `read_metrics`.

    Returns:
        The evaluation, None where there is none; and notes: where it comes from, or why it is left out.
    """
    try:
        return evaluate_sessions({policy.artifact.agent: policy}, split, seed=seed, out=folder), []
    except MissingExtraError as error:
        same = stored.get("test_digest") == split.test.digest and stored.get("seed") == seed
        if "sessions" not in stored or not same:
            return None, [f"Simulated sessions are left out: {error}"]
    _store(folder, stored["sessions"])
    worlds = (stored["sessions"][world] for world in ("training_world", "evaluation_world"))
    sessions = SessionEvaluation(*({name: _from_dict(plain) for name, plain in world.items()} for world in worlds))
    return sessions, [f"Figures of simulated sessions come from an earlier evaluation, in {METRICS_FILE}."]


def _from_dict(plain: Mapping[str, Any]) -> Returns:
    gain = plain["gain_on_rating_model"]
    return Returns(
        Interval(**plain["reward"]), plain["length"], plain["like_share"], None if gain is None else Interval(**gain)
    )


def _store(folder: Path, sessions: Mapping[str, Any]) -> None:
    """Write the figures of sessions into metrics.json of an artifact."""
    write_json(folder / METRICS_FILE, {**read_metrics(folder), "sessions": sessions})


def read_metrics(folder: Path) -> dict[str, Any]:
    """Return the content of metrics.json of an artifact; empty if it was not evaluated."""
    path = folder / METRICS_FILE
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def check_comparable(policies: Mapping[str, Policy], *, own_worlds: bool) -> None:
    """Raise ConfigError unless all policies were trained for the same sessions."""

    def comparable_settings(policy: Policy) -> dict[str, Any]:
        if not policy.sequential:
            return {"action_items": policy.artifact.action_items.tolist()}
        train = policy.metadata["config"]["train"]
        same = {name: train[name] for name in ("reward", "reward_decay", "max_episode_steps")}
        worlds = {} if own_worlds else {"simulator": train["simulator"], "seed": policy.metadata["seed"]}
        return {**same, **worlds, "action_items": policy.artifact.action_items.tolist()}

    first = next((name for name, policy in policies.items() if policy.sequential), next(iter(policies)))
    others = [name for name in policies if name != first]
    expected = comparable_settings(policies[first])
    for name in others:
        for setting, value in comparable_settings(policies[name]).items():
            if value != expected[setting]:
                raise ConfigError(
                    f"{first} and {name} were trained with different {setting}: their sessions cannot be compared;"
                    " evaluate them one by one"
                )


def session_settings(policy: Policy) -> SessionTrainConfig:
    """Return the settings of sessions that a policy was trained with; the defaults for a policy of single rounds."""
    if not policy.sequential:
        return SessionTrainConfig()
    settings: SessionTrainConfig = coerce(SessionTrainConfig, policy.metadata["config"]["train"], "train")
    return settings


def _returns(
    policies: Mapping[str, Policy], tables: Mapping[str, NDArray[np.floating]], world: SessionWorld, seed: int
) -> dict[str, Returns]:
    from recpolicy.evaluation.sessions import SessionRunner, by_table, session_baselines

    runners: dict[str, Any] = {}  # compiled once for all policies with the same observations
    environments, results_by_policy = {}, {}
    sequential = {name: policy for name, policy in policies.items() if policy.sequential}
    # Tables of scores need any environment: that of a session policy, or of the first policy.
    for name, policy in (sequential or dict([next(iter(policies.items()))])).items():
        environments[name] = environment = policy_environment(policy, session_settings(policy), world, seed)
        artifact = policy.artifact
        sees = content_digest(
            artifact.context, artifact.item, [environment.config.view, str(environment.config.last_n)]
        )
        runner = runners.setdefault(sees, SessionRunner(environment))
        if policy.sequential:
            results_by_policy[name] = runner.run(greedy_choice(policy), seed)
    first = next(iter(environments))
    action_items = policies[first].artifact.action_items
    choices = session_baselines(environments[first], {name: table[:, action_items] for name, table in tables.items()})
    choices |= {
        name: by_table(policy.scores()[0][world.users][:, action_items])
        for name, policy in policies.items()
        if not policy.sequential
    }
    runner = next(iter(runners.values()))
    results_by_policy |= {name: runner.run(choose, seed) for name, choose in choices.items()}
    reference = results_by_policy["rating_model"].by_user(results_by_policy["rating_model"].reward)
    returns = {}
    for name, results in results_by_policy.items():
        earned = results.by_user(results.reward)
        rng = generator(seed, "evaluation/sessions")
        gain = None if name == "rating_model" else paired_difference(earned, reference, rng)
        shown = results.length.sum()
        returns[name] = Returns(
            results.interval(generator(seed, "evaluation/sessions")), float(results.length.mean()),
            float(results.likes.sum() / shown), gain,
        )  # fmt: skip
    return returns


def policy_environment(policy: Policy, settings: SessionTrainConfig, world: SessionWorld, seed: int) -> Any:
    """Return the environment of `world` with the observations and the catalogue of the policy."""
    from recpolicy.environments.session import SessionEnvironment

    artifact, config = policy.artifact, session_config(settings, SESSIONS_PER_USER * len(world.users))
    return SessionEnvironment(world, artifact.context, artifact.item, artifact.action_items, config, seed)


def greedy_choice(policy: Policy) -> Any:
    """Return the choice of a session policy without exploration, as `SessionPlayer.play` takes it."""
    from recpolicy.evaluation.sessions import best

    width = policy.artifact.context.shape[1]

    def choose(_: Any, observation: Any, mask: Any, rng: np.random.Generator) -> Any:
        return best(policy.session_scores(observation[:, :width], observation[:, width:]), mask, rng)

    return choose
