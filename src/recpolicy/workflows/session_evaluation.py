"""Evaluate policies and the baselines in simulated sessions of the training world and the evaluation world.

A policy of single rounds leads a session by its best items that the session has not shown. If the session policies
learned from slates of K items, all show slates: the K best items at once.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, MissingExtraError
from recpolicy.core.files import write_json
from recpolicy.core.optional_deps import require_extra
from recpolicy.core.seeds import generator
from recpolicy.core.statistics import Interval, paired_difference
from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.core.text import format_table
from recpolicy.data.splits import Split
from recpolicy.evaluation.policy_scores import baseline_tables
from recpolicy.inference.predictor import Policy
from recpolicy.models.own_like_model import LikeFunction, OwnLikeModel, read_like_model
from recpolicy.models.session_world import SIMILARITIES, SessionWorld
from recpolicy.models.session_worlds import TwoWorlds, fit_evaluation_worlds
from recpolicy.workflows.held_out_evaluation import METRICS_FILE, check_trained_on, get_rating_model
from recpolicy.workflows.session_plan import LIKE_MODEL
from recpolicy.workflows.session_players import (
    SESSIONS_PER_USER,
    check_comparable,
    greedy_choice,
    group_by_observations,
    policy_environment,
    session_settings,
)
from recpolicy.workflows.session_settings import make_worlds
from recpolicy.workflows.world_ensemble import EnsembleReturns, ensemble_returns, play_ensemble

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ENSEMBLE_NOTE = (
    "Over worlds: 95 % limits from {worlds} versions of the evaluation world, each fitted on a random half of its"
    " users. They include the uncertainty of the fitted simulator; limits by users take the world as given."
)
MAX_SESSIONS = 1_000_000
"""Most sessions of a policy; bounds memory and time."""


@dataclass(frozen=True)
class Returns:
    """One policy's sessions in one world."""

    reward: Interval
    """Mean reward of a session, with its user-bootstrap interval."""
    length: float
    """Mean number of recommended items, or of slates."""
    like_share: float
    """Likes per recommended item, or per slate, of which the user likes one item at most."""
    gain: Interval | None
    """Reward minus that of the greedy rating model in the same sessions; None for that policy itself."""


@dataclass(frozen=True)
class SessionEvaluation:
    """Returns of every policy in both worlds."""

    training_world: Mapping[str, Returns]
    evaluation_world: Mapping[str, Returns]
    sessions: int
    """Simulated sessions of each policy in the evaluation world."""
    notes: tuple[str, ...] = ()
    ensemble: Mapping[str, EnsembleReturns] | None = None
    """Returns in an ensemble of evaluation worlds, with intervals that include the uncertainty of the simulator."""
    slate_size: int = 1
    """Number of items shown at once."""

    def table(self) -> pd.DataFrame:
        """Return all figures as text, one row per policy, the best in the evaluation world first."""
        unit = "slate" if self.slate_size > 1 else "item"
        rows = {
            name: {
                "evaluation-world reward": str(returns.reward),
                "gain on rating_model": "" if returns.gain is None else str(returns.gain),
                **self._over_worlds(name),
                f"{unit}s": f"{returns.length:.1f}",
                f"likes per {unit}": f"{returns.like_share:.3f}",
                "training-world reward": str(self.training_world[name].reward),
            }
            for name, returns in sorted(self.evaluation_world.items(), key=lambda item: -item[1].reward.value)
        }
        table = pd.DataFrame.from_dict(rows, orient="index")
        table.index.name = "policy"
        return table

    def _over_worlds(self, policy: str) -> dict[str, str]:
        """Return the cells of the ensemble for a policy: the limits only, for the values are those of one world."""
        if self.ensemble is None:
            return {}
        played = self.ensemble.get(policy)
        intervals = (None, None) if played is None else (played.reward, played.gain)
        limits = ["" if each is None else f"[{each.lo:.3f}, {each.hi:.3f}]" for each in intervals]
        return {"reward over worlds": limits[0], "gain over worlds": limits[1]}

    def show(self) -> None:
        """Print all figures."""
        slates = f" of slates of {self.slate_size} items" if self.slate_size > 1 else ""
        print(format_table(self.table(), f"Simulated sessions{slates}: reward of a session, 95 % intervals over users"))
        for note in (f"{self.sessions:,} sessions of each policy in the evaluation world.", *self.notes):
            print(f"\n{note}")

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
        figures = {
            world: {name: plain(returns) for name, returns in policies.items()} for world, policies in worlds.items()
        }
        over = None if self.ensemble is None else {name: each.as_dict() for name, each in self.ensemble.items()}
        return {
            **figures, "sessions": self.sessions, "notes": list(self.notes),
            **({"slate_size": self.slate_size} if self.slate_size > 1 else {}),
            **({} if over is None else {"ensemble": over}),
        }  # fmt: skip


def evaluate_sessions(
    policies: Mapping[str, Policy],
    split: Split,
    *,
    worlds: TwoWorlds | None = None,
    ensemble: int | None = None,
    sessions: int | None = None,
    like_model: "str | Path | LikeFunction | None" = None,
    seed: int = 0,
    out: Path | None = None,
) -> SessionEvaluation:
    """Evaluate policies of sessions or single rounds, and the baselines, in simulated sessions, greedily.

    Policies may differ in agent, view and embeddings. Catalog, reward and length of sessions must be the same, and,
    without `worlds`, also the simulator and the seed. Policies of single rounds have no settings of sessions: they take
    those of the first session policy, or the defaults. Policies that learned from slates show slates, with the
    baselines; `evaluate_slates` simulates other slate sizes.

    Args:
        policies: The policies by name.
        split: The split that all of them were trained on.
        worlds: The simulated worlds; without them, they are fitted, with `like_model`.
        ensemble: Number K of evaluation worlds, fitted on half-samples of the users (`fit_evaluation_worlds`). Their
            spread gives intervals that include the uncertainty of the simulator. None fits no further world.
        sessions: Number of sessions in each world; None simulates SESSIONS_PER_USER of each user.
        like_model: Your own P(like), which replaces the fitted model in all worlds; see `read_like_model`.
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
    if worlds is not None and (like_model is not None or ensemble is not None):
        raise ConfigError("worlds are given, so nothing is fitted here: leave out like_model and ensemble")
    if sessions is not None and not 2 <= sessions <= MAX_SESSIONS:
        raise ConfigError(f"sessions is {sessions}; expected 2 to {MAX_SESSIONS:,}")
    require_extra("train", "a simulation of sessions")
    silence_libraries()
    for name, policy in policies.items():
        check_trained_on(name, policy, split)
    check_comparable(policies, own_worlds=worlds is not None)
    first = next((policy for policy in policies.values() if policy.sequential), next(iter(policies.values())))
    model = get_rating_model(first, split.train)
    tables = {name: table.score for name, table in baseline_tables(split.train, model).items()}
    own = None if like_model is None else read_like_model(like_model, split.train)
    both = worlds or make_worlds(split, session_settings(first), first.metadata["seed"], own)
    training, evaluation = (
        _returns(policies, tables, world, sessions or SESSIONS_PER_USER * len(world.users), seed)
        for world in (both.training_world, both.evaluation_world)
    )
    count = sessions or SESSIONS_PER_USER * len(both.evaluation_world.users)
    notes, over_worlds = (*_circular(policies), *_like_model_notes(policies, own)), None
    if ensemble is not None:
        settings = session_settings(first)
        config = replace(settings.simulator, max_steps=settings.max_episode_steps)
        fitted = fit_evaluation_worlds(split, ensemble, config, first.metadata["seed"], own)
        rewards = play_ensemble(policies, tables, fitted, count, seed)
        full = {name: returns.reward.value for name, returns in evaluation.items()}
        over_worlds = ensemble_returns(rewards, full, "rating_model")
        notes = (*notes, _ENSEMBLE_NOTE.format(worlds=ensemble))
    result = SessionEvaluation(training, evaluation, count, notes, over_worlds, session_settings(first).slate_size)
    if out is not None:
        _store(out, result.as_dict())
    return result


def evaluate_or_read_sessions(
    policy: Policy,
    split: Split,
    folder: Path,
    seed: int,
    stored: Mapping[str, Any],
    sessions: int | None = None,
    ensemble: int | None = None,
    like_model: "str | Path | LikeFunction | None" = None,
) -> tuple[SessionEvaluation | None, list[str]]:
    """Evaluate one session policy in simulated sessions; without the extra `train`, take the stored figures.

    Args:
        policy: The policy.
        split: The split that it was trained on.
        folder: Its artifact; its metrics.json gets the key `sessions`.
        seed: Seed of the sessions and the intervals.
        stored: The content of an earlier metrics.json, see `read_metrics`.
        sessions: Number of sessions in each world; None simulates SESSIONS_PER_USER of each user.
        ensemble: Number of further evaluation worlds, see `evaluate_sessions`.
        like_model: Your own P(like), see `evaluate_sessions`.

    Returns:
        The evaluation, None where there is none; and notes: where it comes from, or why it is left out.
    """
    try:
        mine = {policy.artifact.agent: policy}
        played = evaluate_sessions(
            mine, split, ensemble=ensemble, sessions=sessions, like_model=like_model, seed=seed, out=folder
        )
        return played, []
    except MissingExtraError as error:
        same = stored.get("test_digest") == split.test.digest and stored.get("seed") == seed
        same &= stored.get("sessions", {}).get("slate_size", 1) == session_settings(policy).slate_size
        same &= (
            ensemble is None
            and like_model is None
            and (sessions is None or stored.get("sessions", {}).get("sessions") == sessions)
        )
        if "sessions" not in stored or not same:
            return None, [f"Simulated sessions are left out: {error}"]
    _store(folder, stored["sessions"])
    training, judged = (
        {name: _from_dict(plain) for name, plain in stored["sessions"][world].items()}
        for world in ("training_world", "evaluation_world")
    )
    count, remarks = stored["sessions"].get("sessions", 0), stored["sessions"].get("notes", ())
    worlds = stored["sessions"].get("ensemble")
    over = None if worlds is None else {name: EnsembleReturns.from_dict(plain) for name, plain in worlds.items()}
    size = stored["sessions"].get("slate_size", 1)
    evaluation = SessionEvaluation(training, judged, count, tuple(remarks), over, size)
    return evaluation, [f"Figures of simulated sessions come from an earlier evaluation, in {METRICS_FILE}."]


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


def _circular(policies: Mapping[str, Policy]) -> tuple[str, ...]:
    """Return a note for each policy whose training had no feedback."""
    reward = {name: policy.metadata["config"]["train"].get("reward") for name, policy in policies.items()}
    return tuple(
        f"{name} was trained on {kind}, a circular reward: the policy sees both embeddings. It is evaluated by likes."
        for name, kind in reward.items()
        if kind in SIMILARITIES
    )


def _like_model_notes(policies: Mapping[str, Policy], own: OwnLikeModel | None) -> list[str]:
    """Return notes on an own like model of the worlds, or of a training whose worlds are not these."""
    if own is not None:
        return [
            f"P(like) in all worlds is that of {own.name}: the gap between the worlds says nothing about it."
            " Validate it: recpolicy simulator validate --like-model."
        ]
    trained = {name: policy.metadata.get(LIKE_MODEL) for name, policy in policies.items()}
    return [
        f"{name} was trained with the like model {used['name']}; these worlds have the fitted one (--like-model)."
        for name, used in trained.items()
        if used is not None
    ]


def _returns(
    policies: Mapping[str, Policy], tables: Mapping[str, NDArray[np.floating]], world: SessionWorld, sessions: int,
    seed: int,
) -> dict[str, Returns]:  # fmt: skip
    from recpolicy.evaluation.sessions import SessionRunner, by_table, session_baselines

    results_by_policy, runners = {}, []
    for group in group_by_observations(policies):  # compiled once for all policies with the same observations
        host = policies[group[0]]
        environment = policy_environment(host, session_settings(host), world, seed, sessions)
        runners.append((environment, runner := SessionRunner(environment, sessions)))
        for name in group:
            if policies[name].sequential:
                results_by_policy[name] = runner.run(greedy_choice(policies[name]), seed)
    environment, runner = runners[0]
    action_items, size = next(iter(policies.values())).artifact.action_items, max(environment.slate_size, 1)
    scores = {name: policy.scores()[0] for name, policy in policies.items() if not policy.sequential}
    if size == 1:
        choices = session_baselines(environment, {name: table[:, action_items] for name, table in tables.items()})
    else:  # the baseline that knows the fatigue chooses single items
        choices, scores = {}, {**tables, **scores}
    choices |= {name: by_table(table[world.users][:, action_items], size) for name, table in scores.items()}
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
