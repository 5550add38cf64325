"""Stable-Baselines3 on the same sessions, through the Gymnasium adapter: PPO and A2C.

A script of its own, since PyTorch lives in another virtual environment than recpolicy (README.md says how to make it):

    TF_USE_LEGACY_KERAS=1 PYTHONPATH=src PEER_PYTHON benchmarks/rl_speed/peer.py settings.json result.json

call_peer.py runs it so: Stable-Baselines3 imports TensorBoard and with it TensorFlow, which reads that variable then.
The peer pays one compiled environment call per step of its 8 sessions, not 8. It knows no masks: an item that was shown
already earns nothing (ours never shows one).
"""

import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo  # before Stable-Baselines3 imports TensorFlow: afterwards it crashes (PyTorch 2.14)
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.vec_env import VecEnv
from worlds import make_environment

from recpolicy.core.files import write_json
from recpolicy.core.tensorflow_setup import silence_libraries

EVALUATED_AT_ONCE = 1024


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One measurement. What is None is left to the peer's default."""

    world: str
    """File of worlds.write_world."""
    algorithm: str
    """ppo or a2c."""
    total_steps: int
    """Environment steps, warm-up included; rounded up to whole rollouts."""
    warmup_steps: int = 2048
    """Steps before the clock starts: compilation and first calls. They count for learning."""
    sessions: int = 8
    """Sessions side by side."""
    seed: int = 0
    network: tuple[int, ...] = (64, 64)
    """Hidden layers of the policy, and of the value function."""
    n_steps: int | None = None
    """Steps of each session between two updates."""
    batch_size: int | None = None
    """Transitions in a minibatch (PPO)."""
    n_epochs: int | None = None
    """Passes over each rollout (PPO)."""
    gamma: float | None = None
    learning_rate: float | None = None
    ent_coef: float | None = None
    environment: dict[str, Any] | None = None
    """Further fields of SessionConfig."""
    evaluation_sessions: int = 4096
    """Fresh sessions that judge the trained policy."""
    threads: int | None = None
    """Threads of PyTorch."""
    cores: int = 0
    """Cores to run on; 0: all."""


class SessionsForSB3(VecEnv):
    """The vectorised adapter (GymnasiumSessions) as Stable-Baselines3 wants it, with a clock on what it costs."""

    def __init__(self, sessions: Any):
        super().__init__(sessions.num_envs, sessions.single_observation_space, sessions.single_action_space)
        self.inner, self.seconds = sessions, 0.0
        self._actions = np.zeros(sessions.num_envs, np.int64)

    def reset(self) -> np.ndarray:
        features, _ = self.inner.reset(seed=self._seeds[0])
        self._reset_seeds()
        return features

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        start = time.perf_counter()
        features, rewards, terminated, truncated, infos = self.inner.step(self._actions)
        over = terminated | truncated
        told: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for row in np.flatnonzero(over):
            told[row] = {"terminal_observation": infos["final_obs"][row], "TimeLimit.truncated": bool(truncated[row])}
        self.seconds += time.perf_counter() - start
        return features, rewards, over, told

    def close(self) -> None:
        self.inner.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self.inner, attr_name, None)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:  # noqa: ARG002 - all are one
        setattr(self.inner, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        result = getattr(self.inner, method_name)(*method_args, **method_kwargs)
        return [result] * len(list(self._get_indices(indices)))

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:  # noqa: ARG002
        return [False] * len(list(self._get_indices(indices)))


def learner(settings: Settings, environment: SessionsForSB3) -> PPO | A2C:
    """The untrained agent; everything not in the settings is the library's default."""
    names = ["n_steps", "gamma", "learning_rate", "ent_coef"]
    names += ["batch_size", "n_epochs"] if settings.algorithm == "ppo" else []
    chosen = {name: getattr(settings, name) for name in names if getattr(settings, name) is not None}
    make = {"ppo": PPO, "a2c": A2C}[settings.algorithm]
    network = {"net_arch": list(settings.network)}
    return make("MlpPolicy", environment, policy_kwargs=network, seed=settings.seed, device="cpu", **chosen)


def evaluate(agent: PPO | A2C, settings: Settings, deterministic: bool) -> dict[str, float]:
    """Mean return and length of fresh sessions, with the standard error of the return and the share of repeats."""
    sessions = adapted(settings, EVALUATED_AT_ONCE)
    returns: list[np.ndarray] = []
    lengths: list[np.ndarray] = []
    repeats = 0.0
    for block in range(-(-settings.evaluation_sessions // EVALUATED_AT_ONCE)):
        features, _ = sessions.reset(seed=1_000_003 * (settings.seed + 1) + block)
        running = np.ones(EVALUATED_AT_ONCE, bool)  # the first session of each row
        earned, length = np.zeros((2, EVALUATED_AT_ONCE))
        while running.any():
            actions, _ = agent.predict(features, deterministic=deterministic)
            features, rewards, terminated, truncated, infos = sessions.step(actions)
            earned += running * rewards
            length += running
            repeats += float((running & infos["repeated"]).sum())
            running &= ~(terminated | truncated)
        returns.append(earned)
        lengths.append(length)
    earned, length = np.concatenate(returns), np.concatenate(lengths)
    error = earned.std(ddof=1) / np.sqrt(len(earned))
    figures = {"return": earned.mean(), "return_se": error, "length": length.mean(), "repeats": repeats / length.sum()}
    return {name: float(value) for name, value in figures.items()}


def measure(settings: Settings) -> dict[str, Any]:
    """Train, with the clock running after the warm-up, and judge the result."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    environment = SessionsForSB3(adapted(settings, settings.sessions))
    agent = learner(settings, environment)
    before = evaluate(agent, settings, deterministic=False)
    agent.learn(settings.warmup_steps)
    warm, environment.seconds = agent.num_timesteps, 0.0
    start, processor = time.perf_counter(), time.process_time()
    agent.learn(max(settings.total_steps - warm, 1), reset_num_timesteps=False)
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    return {
        "rate": (agent.num_timesteps - warm) / seconds,
        "processor_rate": (agent.num_timesteps - warm) / processor,
        "steps": agent.num_timesteps,
        "seconds": seconds,
        "environment_share": environment.seconds / seconds,
        "untrained": before,
        "sampled": evaluate(agent, settings, deterministic=False),
        "greedy": evaluate(agent, settings, deterministic=True),
        "threads": torch.get_num_threads(),
        "versions": {name: importlib.metadata.version(name) for name in ("stable-baselines3", "torch", "gymnasium")},
        "settings": asdict(settings),
    }


def adapted(settings: Settings, sessions: int) -> Any:
    """GymnasiumSessions, `sessions` side by side."""
    from recpolicy.environments.gymnasium_adapter import GymnasiumSessions

    world = make_environment(Path(settings.world), sessions, settings.seed, **(settings.environment or {}))
    return GymnasiumSessions(world)


def main(words: Sequence[str]) -> None:
    silence_libraries()
    settings = json.loads(Path(words[0]).read_text(encoding="utf-8"))
    if settings.get("cores") and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: settings["cores"]])
    write_json(Path(words[1]), measure(Settings(**settings)))


if __name__ == "__main__":
    main(sys.argv[1:])
