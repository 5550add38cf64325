"""The peer: TF-Agents' own MovieLens example, `bandits/agents/examples/v2/train_eval_movielens.py`, timed from outside.

Its environment, agents, metrics and `trainer.train` run as they are, with the example's constants. Two things are
added: the environment notes the regret of every interaction (the example's RegretMetric keeps only the last batch's),
and the trainer's training loop notes when each loop starts.
"""

import functools
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BATCH, STEPS_PER_LOOP, RANK, ITEMS = 8, 2, 20, 20
ALPHA, TIKHONOV = 10.0, 0.001
EPSILON, LAYERS, LEARNING_RATE = 0.05, (50, 50, 50), 0.005


def train(agent_name: str, ratings: Path, loops: int, seed: int, graph: bool) -> tuple[float, list[float]]:
    """Interactions per second without the first loop, and the regret of every interaction.

    `graph` puts the policy's action and the agent's update into tf.functions, which the example does not do. (The
    driver cannot follow: the example's metrics read the environment's Python state, whose order a graph does not keep.)
    """
    import tensorflow as tf
    from tf_agents.bandits.agents.examples.v2 import trainer
    from tf_agents.bandits.environments import environment_utilities
    from tf_agents.bandits.metrics import tf_metrics
    from tf_agents.environments import tf_py_environment

    random.seed(seed)  # the environment draws users from the global generator
    tf.random.set_seed(seed)
    regrets: list[float] = []
    environment = tf_py_environment.TFPyEnvironment(_environment(ratings, regrets))
    best_reward = functools.partial(
        environment_utilities.compute_optimal_reward_with_movielens_environment, environment=environment
    )
    best_action = functools.partial(
        environment_utilities.compute_optimal_action_with_movielens_environment, environment=environment
    )
    starts: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer.train(
            root_dir=folder,
            agent=_agent(agent_name, environment),
            environment=environment,
            training_loops=loops,
            steps_per_loop=STEPS_PER_LOOP,
            additional_metrics=[tf_metrics.RegretMetric(best_reward), tf_metrics.SuboptimalArmsMetric(best_action)],
            get_training_loop_fn=_noting_starts(trainer._get_training_loop, starts, graph),
        )
        end = time.perf_counter()
    return (loops - 1) * STEPS_PER_LOOP * BATCH / (end - starts[1]), regrets


def _environment(ratings: Path, regrets: list[float]) -> Any:
    from tf_agents.bandits.environments import movielens_py_environment

    class NotingRegret(movielens_py_environment.MovieLensPyEnvironment):
        def _apply_action(self, action: Any) -> Any:
            reward = super()._apply_action(action)
            regrets.extend(self._optimal_reward_table[self._current_users] - reward)
            return reward

    return NotingRegret(str(ratings), RANK, BATCH, num_movies=ITEMS, csv_delimiter="\t")


def _agent(name: str, environment: Any) -> Any:
    import tensorflow as tf
    from tf_agents.bandits.agents import lin_ucb_agent, neural_epsilon_greedy_agent
    from tf_agents.networks import q_network

    steps, actions = environment.time_step_spec(), environment.action_spec()
    if name == "linucb":
        return lin_ucb_agent.LinearUCBAgent(
            time_step_spec=steps, action_spec=actions, tikhonov_weight=TIKHONOV, alpha=ALPHA, dtype=tf.float32
        )
    return neural_epsilon_greedy_agent.NeuralEpsilonGreedyAgent(
        time_step_spec=steps,
        action_spec=actions,
        reward_network=q_network.QNetwork(
            input_tensor_spec=steps.observation, action_spec=actions, fc_layer_params=LAYERS
        ),
        optimizer=tf.compat.v1.train.AdamOptimizer(learning_rate=LEARNING_RATE),
        epsilon=EPSILON,
        emit_policy_info="predicted_rewards_mean",
        info_fields_to_inherit_from_greedy=["predicted_rewards_mean"],
    )


def _noting_starts(make_loop: Callable[..., Any], starts: list[float], graph: bool) -> Callable[..., Any]:
    def make(driver: Any, replay_buffer: Any, agent: Any, *counts: int) -> Callable[..., None]:
        if graph:
            from tf_agents.utils import common

            driver.policy.action = common.function(driver.policy.action)
            agent.train = common.function(agent.train)
        loop = make_loop(driver, replay_buffer, agent, *counts)

        def noting(train_step: int, metrics: Any) -> None:
            starts.append(time.perf_counter())
            loop(train_step=train_step, metrics=metrics)

        return noting

    return make
