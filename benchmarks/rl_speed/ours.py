"""One measurement of recpolicy's session agents: steps per second, learning included, and the return at the end.

    python benchmarks/rl_speed/ours.py settings.json result.json

A process of its own for each measurement, so that the number of cores can be set before TensorFlow starts.
"""

import json
import os
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One measurement."""

    world: str
    """File of worlds.write_world."""
    algorithm: str
    """ppo or a2c."""
    total_steps: int
    """Steps that are learnt from, for the return; rounded up to whole calls."""
    sessions: int = 8
    """Sessions side by side."""
    seed: int = 0
    agent: dict[str, Any] | None = None
    """Settings of the agent."""
    cores: int = 0
    """Cores to run on; 0: all."""
    seconds: float = 8.0
    """How long to measure, at least, after the calls that count for the return."""
    evaluation_sessions: int = 4096
    """Fresh sessions that judge the trained policy; 0: none."""


def measure(settings: Settings) -> dict[str, Any]:
    import numpy as np

    from recpolicy.core.tensorflow_setup import silence_libraries

    silence_libraries()
    from worlds import make_environment

    from recpolicy.agents import agent_entry
    from recpolicy.evaluation.sessions import SessionRunner
    from recpolicy.training.session_loop import SessionLoop

    environment = make_environment(Path(settings.world), settings.sessions, settings.seed)
    entry = agent_entry(settings.algorithm)
    chosen = {
        name: tuple(value) if isinstance(value, list) else value for name, value in (settings.agent or {}).items()
    }
    spec, action_spec = environment.time_step_spec(), environment.action_spec()
    agent = entry.make(spec, action_spec, entry.config(**chosen), arms_of_file(settings.world), settings.seed)
    loop = SessionLoop(environment, agent)
    calls = 8
    blocks = max(1, -(-settings.total_steps // (calls * loop.block_size)))
    start = time.perf_counter()
    loop.run(blocks)
    first = time.perf_counter() - start
    seconds = []
    while len(seconds) < calls - 1:
        start = time.perf_counter()
        loop.run(blocks)
        seconds.append(time.perf_counter() - start)
    earned, greedy = np.nan, np.nan
    if settings.evaluation_sessions:
        judge = make_environment(Path(settings.world), settings.evaluation_sessions, settings.seed + 1000)
        runner = SessionRunner(judge)
        earned = float(runner.run(chooser(agent, greedy=False), seed=7).reward.mean())
        greedy = float(runner.run(chooser(agent, greedy=True), seed=7).reward.mean())
    learnt = calls * blocks * loop.block_size
    while sum(seconds) < settings.seconds:
        start = time.perf_counter()
        loop.run(blocks)
        seconds.append(time.perf_counter() - start)
    speeds = blocks * loop.block_size / np.array(seconds)
    return {
        "settings": asdict(settings), "steps_per_s": float(np.median(speeds)), "steps_per_s_lo": float(speeds.min()),
        "steps_per_s_hi": float(speeds.max()), "compile_s": first - float(np.median(seconds)), "learnt_steps": learnt,
        "return_sampled": earned, "return_greedy": greedy,
    }  # fmt: skip


def chooser(agent: Any, greedy: bool) -> Any:
    """The agent's policy as evaluation.sessions wants it."""
    import numpy as np
    import tensorflow as tf

    from recpolicy.evaluation.sessions import best

    learner = agent.learner
    scores = tf.function(learner.scores if greedy else learner.logits, jit_compile=True, autograph=False)

    def choose(_: Any, observation: Any, mask: Any, rng: np.random.Generator) -> Any:
        found = scores(observation, mask).numpy()
        return best(found if greedy else found + rng.gumbel(size=found.shape), mask, rng)

    return choose


def arms_of_file(world: str) -> Any:
    """The items' tables, from the file: offsets are the mean log-odds of a like, turned into ratings."""
    import numpy as np
    from worlds import read_world

    from recpolicy.agents.item_features import ItemFeatures

    simulated, tables = read_world(Path(world))
    rows = tables["candidates"]
    offset = (3.5 + 0.5 * simulated.like[:, rows].mean(axis=0)).astype(np.float32)
    return ItemFeatures(
        tables["embedding"][rows], offset, np.ones(len(rows), np.float32), offset, (1.0, 5.0), simulated.genres[rows]
    )


def main() -> None:
    asked, told = Path(sys.argv[1]), Path(sys.argv[2])
    settings = Settings(**json.loads(asked.read_text(encoding="utf-8")))
    if settings.cores and hasattr(os, "sched_setaffinity"):
        available = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, available[: settings.cores])
    else:
        settings = replace(settings, cores=0)
    told.write_text(json.dumps(measure(settings)), encoding="utf-8")


if __name__ == "__main__":
    main()
