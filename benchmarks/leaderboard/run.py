"""Which agent pays? Every agent and baseline by one protocol: single rounds and sessions, five folds, five seeds.

python benchmarks/leaderboard/run.py --out benchmarks/leaderboard/results.json
python benchmarks/leaderboard/run.py --only ppo --out benchmarks/leaderboard/results.json
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import context
from leaderboard import CELLS, figures, write_readme

from recpolicy.core.tensorflow_setup import silence_libraries

silence_libraries()  # before TF-Agents is imported

from recpolicy.agents import AGENTS, BASELINES, SESSION_AGENTS  # noqa: E402
from recpolicy.core.files import content_digest, write_json  # noqa: E402
from recpolicy.core.seeds import generator  # noqa: E402
from recpolicy.core.statistics import Interval, mean_interval, paired_difference  # noqa: E402
from recpolicy.data.loaders import load_ratings  # noqa: E402
from recpolicy.data.splits import Split, split  # noqa: E402
from recpolicy.environments.session import SessionEnvironment  # noqa: E402
from recpolicy.evaluation.policy_scores import baseline_tables  # noqa: E402
from recpolicy.evaluation.sessions import SessionRunner, by_table  # noqa: E402
from recpolicy.inference.predictor import Policy, load_policy  # noqa: E402
from recpolicy.models.rating_models import fit_rating_model  # noqa: E402
from recpolicy.workflows.held_out_evaluation import evaluate, get_rating_model  # noqa: E402
from recpolicy.workflows.policy_training import train  # noqa: E402
from recpolicy.workflows.session_logs import simulate_session_log  # noqa: E402
from recpolicy.workflows.session_players import greedy_choice  # noqa: E402
from recpolicy.workflows.session_settings import SessionTrainConfig, make_worlds, session_config  # noqa: E402
from recpolicy.workflows.session_training import train_sessions  # noqa: E402

ROUNDS = {"total_timesteps": 100_000}
"""Settings of a training in single rounds: those of `recpolicy train`, but for the length."""
SESSIONS = {"total_timesteps": 60_000}
"""Settings of a training in sessions, all 1,682 items; likes are the reward."""
SESSIONS_PER_USER = 4
LOGGED_SESSIONS = 4_000
"""Sessions of the baseline `popular` that behavior_cloning imitates: some 60,000 items."""
EVALUATION_SEED = 0
"""Seed of the intervals, of the worlds and of the responses; only trainings have other seeds."""
QUICK = {"total_timesteps": 2_000, "checkpoint_every_steps": 2_000}


@cache
def parts(fold: str) -> Split:
    return split(load_ratings("ml-100k"), fold)


@cache
def worlds(fold: str) -> Any:
    return make_worlds(parts(fold), SessionTrainConfig(), EVALUATION_SEED)


class Sessions:
    """The sessions of the evaluation world of a fold, for policies with the same observations."""

    def __init__(self, fold: str):
        self._world, self._fold = worlds(fold).evaluation_world, fold
        self._runners: dict[str, SessionRunner] = {}
        self._rating_model: dict[int, np.ndarray] = {}

    def likes(self, policy: Policy) -> np.ndarray:
        """Return the mean likes per session of each user of the world [W]."""
        if policy.sequential:
            return self._by_user(policy, greedy_choice(policy))
        return self._table(policy, policy.scores()[0])

    def likes_of_rating_model(self, policy: Policy, seed: int) -> np.ndarray:
        """Return those of the greedy rating model behind the policy's features."""
        if seed not in self._rating_model:
            train_ratings = parts(self._fold).train
            table = baseline_tables(train_ratings, get_rating_model(policy, train_ratings))["rating_model"]
            self._rating_model[seed] = self._table(policy, table.score)
        return self._rating_model[seed]

    def _table(self, policy: Policy, score: np.ndarray) -> np.ndarray:
        return self._by_user(policy, by_table(score[self._world.users][:, policy.artifact.action_items]))

    def _environment(self, policy: Policy) -> SessionEnvironment:
        config = session_config(SessionTrainConfig(), SESSIONS_PER_USER * len(self._world.users))
        artifact = policy.artifact
        return SessionEnvironment(self._world, artifact.context, artifact.item, artifact.action_items, config, 0)

    def _by_user(self, policy: Policy, choose: Any) -> np.ndarray:
        sees = content_digest(policy.artifact.context, policy.artifact.item)
        if sees not in self._runners:
            self._runners = {sees: SessionRunner(self._environment(policy))}
        results = self._runners[sees].run(choose, EVALUATION_SEED)
        return results.by_user(results.likes.astype(np.float64))


@cache
def sessions(fold: str) -> Sessions:
    return Sessions(fold)


def trained(agent: str, fold: str, seed: int, folder: Path, quick: bool) -> Policy:
    """Return a policy, trained with the agent's default settings."""
    length: dict[str, Any] = QUICK if quick else {}
    if agent not in SESSION_AGENTS:
        settings = ROUNDS | ({"total_timesteps": 64} if agent in BASELINES else length)
        return train(agent, parts(fold), folder, config=settings, seed=seed, show_progress=False)
    log = None
    if not SESSION_AGENTS[agent].learns_from_simulation:
        log = simulate_session_log(
            parts(fold), folder.with_name("log"), logging_policy="popular",
            config={"sessions": 200 if quick else LOGGED_SESSIONS}, train=SESSIONS, worlds=worlds(fold), seed=seed,
            show_progress=False,
        )  # fmt: skip
    return train_sessions(
        agent, parts(fold), folder, config=SESSIONS | length, worlds=worlds(fold), log=log, seed=seed,
        show_progress=False,
    )  # fmt: skip


def cell(agent: str, fold: str, seed: int, quick: bool) -> dict[str, Any]:
    """Train and evaluate one agent on one fold with one seed."""
    fit_rating_model(parts(fold).train, seed=seed)  # cached: its time is not that of the agent
    worlds(fold)
    load = round(os.getloadavg()[0], 1)
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        policy = trained(agent, fold, seed, Path(folder) / "policy", quick)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        policy = load_policy(Path(folder) / "policy")
        held_out = evaluate({agent: policy}, parts(fold), seed=EVALUATION_SEED)
        result = held_out.evaluation.policies[agent]
        likes = sessions(fold).likes(policy)
        reference = sessions(fold).likes_of_rating_model(policy, seed)
        rng = generator(EVALUATION_SEED, "leaderboard")
        measured = {
            "choice": result.held_out_choice, "likes": mean_interval(likes, rng), "regret": held_out.regret[agent],
            "rmse": result.rmse, "coverage": result.coverage, "diversity": result.embedding_diversity,
            "training_s": round(wall, 2), "training_cpu_s": round(cpu, 2), "recommend_ms": inference_ms(policy),
        }  # fmt: skip
        if agent != "rating_model":
            measured["choice_difference"] = held_out.evaluation.difference(agent, "rating_model")
            measured["likes_difference"] = paired_difference(likes, reference, rng)
    return {
        **{name: value.as_dict() if isinstance(value, Interval) else value for name, value in measured.items()},
        "load": load, "commit": context([seed])["commit"], "date": context([seed])["date"],
    }  # fmt: skip


def inference_ms(policy: Policy) -> float:
    """Return the median time of a warm recommendation of ten items to one user."""
    users = policy.artifact.users["user_id"].tolist()[:60]
    times = []
    for user in users:
        start = time.perf_counter()
        policy.recommend(user, k=10)
        times.append(time.perf_counter() - start)
    return round(1000 * float(np.median(times[10:])), 3)


def agents() -> dict[str, str]:
    """Return the kinds of all agents by name: baselines, agents of single rounds, agents of sessions."""
    rounds = [name for name in AGENTS if name not in BASELINES]
    return (
        dict.fromkeys(BASELINES, "baseline")
        | dict.fromkeys(rounds, "rounds")
        | dict.fromkeys(SESSION_AGENTS, "sessions")
    )


def wanted(only: str | None, quick: bool) -> Iterator[tuple[str, str, int]]:
    """Yield the cells in order: the first fold of every agent, the other folds, the other seeds."""
    for fold, seed in CELLS[:1] if quick else CELLS:
        for agent in [only] if only else agents():
            yield agent, fold, seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short trainings, first fold; not for results.json")
    parser.add_argument("--only", choices=list(agents()), metavar="AGENT", help="run the cells of this agent only")
    parser.add_argument("--again", action="store_true", help="run cells that the results have, too, and replace them")
    parser.add_argument("--out", type=Path, required=True, help="results, as JSON; cells that it has are not run again")
    options = parser.parse_args()
    for agent, fold, seed in wanted(options.only, options.quick):
        key = f"{agent}/{fold}/{seed}"
        if key in read_cells(options.out) and not options.again:
            continue
        start = time.perf_counter()
        store(options.out, key, cell(agent, fold, seed, options.quick))
        print(f"{key}: {time.perf_counter() - start:.0f} s", flush=True)
    if not options.quick:
        write_readme(options.out)


def read_cells(path: Path) -> dict[str, Any]:
    """Return the cells of the results; empty if there are none yet."""
    return dict(json.loads(path.read_text(encoding="utf-8"))["cells"]) if path.exists() else {}


def store(path: Path, key: str, measured: dict[str, Any]) -> None:
    """Add a cell to the results at once: a run that is killed loses one cell, and other runs may add theirs."""
    cells = read_cells(path) | {key: measured}
    settings = {"rounds": ROUNDS, "sessions": SESSIONS, "logged_sessions": LOGGED_SESSIONS}
    where = context(sorted({int(name.rsplit("/", 1)[1]) for name in cells}), **settings)
    write_json(path, {"figures": figures(cells, agents()), "context": where, "agents": agents(), "cells": cells})


if __name__ == "__main__":
    main()
