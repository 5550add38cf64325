"""Ours on the same job: the compatibility environment, the same settings, the compiled loop."""

import time
from typing import Any

import numpy as np
import peer

from recpolicy.data.loaders import load_ratings

FULL_BATCH = 256


def train(agent_name: str, interactions: int, timed_rounds: int, calls: int, seed: int) -> dict[str, Any]:
    """Regret of each of the first `interactions`, seconds of compiling, and the rate of each of `calls` more calls."""
    from stock_movielens import StockMovieLens

    environment = StockMovieLens(load_ratings("ml-100k"), peer.RANK, peer.ITEMS, peer.BATCH, seed)
    loop = _loop(environment, _agent(agent_name, environment, seed))
    regret = loop.run(interactions // peer.BATCH).regret
    return {"regret": float(regret.mean()), **_rates(loop, timed_rounds, peer.BATCH, calls)}


def regret_of(agent_name: str, interactions: int, seed: int) -> float:
    """Mean regret of the first `interactions` of a fresh agent."""
    from stock_movielens import StockMovieLens

    environment = StockMovieLens(load_ratings("ml-100k"), peer.RANK, peer.ITEMS, peer.BATCH, seed)
    loop = _loop(environment, _agent(agent_name, environment, seed))
    return float(loop.run(interactions // peer.BATCH).regret.mean())


def full_catalog(rounds: int, calls: int, seed: int) -> dict[str, Any]:
    """LinUCB, started as the rating model, on all 1,682 items of u1 with embeddings of length 20."""
    from recpolicy.agents.item_features import compute_item_features
    from recpolicy.agents.linucb import LinUCBConfig, make_linucb
    from recpolicy.data.splits import split
    from recpolicy.workflows.policy_training import TrainConfig, make_environment, prepare_features, training_world

    fit = split(load_ratings("ml-100k"), "u1").train
    settings = TrainConfig(batch_size=FULL_BATCH)
    features = prepare_features(fit, settings)
    environment = make_environment(training_world(fit, settings, seed), features, settings, seed)
    arms = compute_item_features(features.action_items, features.embeddings, fit)
    agent = make_linucb(environment.time_step_spec(), environment.action_spec(), LinUCBConfig(), arms, seed)
    return {"arms": environment.actions, **_rates(_loop(environment, agent), rounds, FULL_BATCH, calls)}


def _agent(name: str, environment: Any, seed: int) -> Any:
    from recpolicy.agents.linucb import LinUCBConfig, make_linucb
    from recpolicy.agents.neural import EpsilonGreedyConfig, make_epsilon_greedy

    specs = environment.time_step_spec(), environment.action_spec()
    if name == "linucb":
        config = LinUCBConfig(alpha=peer.ALPHA, precision=peer.TIKHONOV, bias=False)
        return make_linucb(*specs, config, arms=None, seed=seed)
    network = EpsilonGreedyConfig(
        layers=peer.LAYERS, head="plain", learning_rate=peer.LEARNING_RATE, epsilon=peer.EPSILON
    )
    return make_epsilon_greedy(*specs, network, seed=seed)


def _loop(environment: Any, agent: Any) -> Any:
    from recpolicy.training.compiled_loop import OnlineLoop

    return OnlineLoop(environment, agent)


def _rates(loop: Any, rounds: int, batch: int, calls: int) -> dict[str, Any]:
    """Interactions per second of each call; the call before them compiles, and its extra time is told."""
    seconds = []
    for _ in range(calls + 1):
        start = time.perf_counter()
        loop.run(rounds)
        seconds.append(time.perf_counter() - start)
    compiling = seconds[0] - float(np.median(seconds[1:]))
    return {"rates": [rounds * batch / took for took in seconds[1:]], "compile_s": compiling}
