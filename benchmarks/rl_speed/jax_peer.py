"""rejax's PPO on the same sessions, compiled by JAX as a whole, with one seed or with several side by side (vmap).

A script of its own: JAX is in another virtual environment than recpolicy (README.md says how to make it).

    JAX_PEER_PYTHON benchmarks/rl_speed/jax_peer.py settings.json result.json

rejax has no mask: an item that was shown already earns nothing (ours never shows one). Its calls train until the clock
says so; compilation is excluded.
"""

import importlib.metadata
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

CALLS = 8
"""Calls that count for the return; each trains total_steps / CALLS steps."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One measurement."""

    world: str
    """File of worlds.write_world."""
    total_steps: int
    """Steps that each seed learns from, for the return; rounded up to whole calls."""
    seeds: int = 1
    """Policies trained side by side."""
    seed: int = 0
    sessions: int = 8
    """Sessions side by side, for each seed."""
    n_steps: int = 64
    minibatches: int = 8
    n_epochs: int = 10
    gamma: float = 0.99
    learning_rate: float = 3e-4
    network: tuple[int, ...] = (64, 64)
    cores: int = 0
    """Cores to run on; 0: all."""
    seconds: float = 4.0
    """How long to measure, at least, after the calls that count for the return."""
    evaluation_sessions: int = 1024
    """Fresh sessions that judge each trained policy; 0: none."""


def measure(settings: Settings) -> dict[str, Any]:
    import jax
    import numpy as np
    from jax_sessions import JaxSessions, read_tables
    from rejax import PPO

    tables = read_tables(Path(settings.world))
    environment = JaxSessions(tables)
    agent = PPO.create(
        env=environment, env_params=tables, num_envs=settings.sessions, num_steps=settings.n_steps,
        num_minibatches=settings.minibatches, num_epochs=settings.n_epochs, gamma=settings.gamma, gae_lambda=0.95,
        clip_eps=0.2, vf_coef=0.5, ent_coef=0.0, learning_rate=settings.learning_rate, max_grad_norm=0.5,
        agent_kwargs={"activation": "relu", "hidden_layer_sizes": tuple(settings.network)},
    )  # fmt: skip
    block = settings.sessions * settings.n_steps
    blocks = max(1, -(-settings.total_steps // (CALLS * block)))
    train = agent.train_iteration if settings.seeds == 1 else jax.vmap(agent.train_iteration)
    state = agent.init_state(jax.random.PRNGKey(settings.seed))
    if settings.seeds > 1:
        keys = jax.random.split(jax.random.PRNGKey(settings.seed), settings.seeds)
        state = jax.vmap(agent.init_state)(keys)
    run = jax.jit(
        lambda start: jax.lax.scan(lambda now, _: (train(now), None), start, None, blocks)[0], donate_argnums=0
    )
    start = time.perf_counter()
    compiled = run.lower(state).compile()
    compile_s = time.perf_counter() - start
    times: list[tuple[float, float]] = []

    def timed(state: Any) -> Any:
        start, processor = time.perf_counter(), time.process_time()
        state = jax.block_until_ready(compiled(state))
        times.append((time.perf_counter() - start, time.process_time() - processor))
        return state

    for _ in range(CALLS):
        state = timed(state)
    returns = _returns(agent, environment, tables, state, settings) if settings.evaluation_sessions else {}
    del times[0]  # as in ours.py
    while sum(seconds for seconds, _ in times) < settings.seconds:
        state = timed(state)
    seconds, processor = np.array(times).T
    steps = settings.seeds * blocks * block
    speeds = steps / seconds
    return {
        "settings": asdict(settings), "steps_per_s": float(np.median(speeds)), "steps_per_s_lo": float(speeds.min()),
        "steps_per_s_hi": float(speeds.max()), "steps_per_processor_s": float(np.median(steps / processor)),
        "compile_s": compile_s, **returns,
        "versions": {name: importlib.metadata.version(name) for name in ("rejax", "gymnax", "jax", "jaxlib", "flax")},
    }  # fmt: skip


def _returns(agent: Any, environment: Any, tables: Any, state: Any, settings: Settings) -> dict[str, float]:
    """Mean return of the first session of fresh rows, sampled and greedy, and the share of repeated items."""
    import jax
    from jax import numpy as jnp

    rows = settings.evaluation_sessions

    def play(parameters: Any, key: Any, greedy: bool) -> tuple[Any, Any, Any]:
        begin, key = jax.random.split(key)
        observation, sessions = jax.vmap(environment.reset_env, (0, None))(jax.random.split(begin, rows), tables)

        def step(carry: Any, key: Any) -> tuple[Any, Any]:
            observation, sessions, running = carry
            draw, respond = jax.random.split(key)
            logits = agent.actor.apply(parameters, observation, method=lambda self, x: self._action_dist(x)).logits
            action = jnp.argmax(logits, 1) if greedy else jax.random.categorical(draw, logits)
            keys = jax.random.split(respond, rows)
            done = jax.vmap(environment.step_env, (0, 0, 0, None))(keys, sessions, action, tables)
            observation, sessions, reward, over, info = done
            figures = jnp.stack([running * reward, running, running * info["repeated"]]).sum(1)
            return (observation, sessions, running * ~over), figures

        keys = jax.random.split(key, tables.max_steps_in_episode)
        _, figures = jax.lax.scan(step, (observation, sessions, jnp.ones(rows)), keys)
        earned, length, repeats = figures.sum(0)
        return earned / rows, length / rows, repeats / length

    parameters, key = state.actor_ts.params, jax.random.PRNGKey(1_000_003 * (settings.seed + 1))
    told = {}
    for name, greedy in (("sampled", False), ("greedy", True)):
        judge = jax.jit(lambda p, k, greedy=greedy: play(p, k, greedy))
        results = judge(parameters, key) if settings.seeds == 1 else jax.vmap(judge, (0, None))(parameters, key)
        told[f"return_{name}"], _, told[f"repeats_{name}"] = (float(jnp.mean(part)) for part in results)
    return told


def main() -> None:
    settings = Settings(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    if settings.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: settings.cores])
    Path(sys.argv[2]).write_text(json.dumps(measure(settings)), encoding="utf-8")


if __name__ == "__main__":
    main()
