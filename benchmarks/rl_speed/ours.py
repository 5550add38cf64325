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

LOOP_FUSION = "--xla_backend_extra_options=xla_cpu_use_experimental_loop_fusion"
"""A flag of the XLA in TensorFlow 2.20; the XLA of JAX 0.10 generates code that way without it."""


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
    """Sessions side by side, for each seed."""
    seed: int = 0
    seeds: int = 1
    """Policies trained in one compiled call, with the seeds `seed`, `seed` + 1, ..."""
    agent: dict[str, Any] | None = None
    """Settings of the agent."""
    cores: int = 0
    """Cores to run on; 0: all."""
    loop_fusion: bool = False
    """Use XLA's newer code generator for loops (LOOP_FUSION)."""
    seconds: float = 8.0
    """How long to measure, at least, after the calls that count for the return."""
    evaluation_sessions: int = 4096
    """Fresh sessions that judge the trained policy; 0: none."""


def measure(settings: Settings) -> dict[str, Any]:
    import numpy as np

    from recpolicy.core.tensorflow_setup import silence_libraries

    silence_libraries()
    from worlds import make_environment

    from recpolicy.evaluation.sessions import SessionRunner

    agents, run, block = _loops(settings)
    calls = 8
    blocks = max(1, -(-settings.total_steps // (calls * block)))
    first, _ = _timed(run, blocks)
    times = [_timed(run, blocks) for _ in range(calls - 1)]
    earned, greedy = np.nan, np.nan
    if settings.evaluation_sessions:
        judge = make_environment(Path(settings.world), settings.evaluation_sessions, settings.seed + 1000)
        runner = SessionRunner(judge)
        earned, greedy = (
            float(np.mean([runner.run(chooser(agent, greedy=best), seed=7).reward.mean() for agent in agents]))
            for best in (False, True)
        )
    learnt = calls * blocks * block
    while sum(seconds for seconds, _ in times) < settings.seconds:
        times.append(_timed(run, blocks))
    seconds, processor = np.array(times).T
    steps = settings.seeds * blocks * block
    speeds = steps / seconds
    return {
        "settings": asdict(settings), "steps_per_s": float(np.median(speeds)), "steps_per_s_lo": float(speeds.min()),
        "steps_per_s_hi": float(speeds.max()), "steps_per_processor_s": float(np.median(steps / processor)),
        "compile_s": first - float(np.median(seconds)), "learnt_steps": learnt,
        "return_sampled": earned, "return_greedy": greedy,
    }  # fmt: skip


def _timed(run: Any, blocks: int) -> tuple[float, float]:
    """Seconds, and seconds of processor time, of one call."""
    start, processor = time.perf_counter(), time.process_time()
    run(blocks)
    return time.perf_counter() - start, time.process_time() - processor


def _loops(settings: Settings) -> tuple[list[Any], Any, int]:
    """The agents, a function that runs so many blocks of all of them in one compiled call, and a block's size."""
    from worlds import make_environment

    from recpolicy.agents import agent_entry
    from recpolicy.training.session_loop import SessionLoop, SessionLoops

    entry = agent_entry(settings.algorithm)
    chosen = {
        name: tuple(value) if isinstance(value, list) else value for name, value in (settings.agent or {}).items()
    }
    arms = arms_of_file(settings.world)
    agents, loops = [], []
    for seed in range(settings.seed, settings.seed + settings.seeds):
        environment = make_environment(Path(settings.world), settings.sessions, seed)
        spec, action_spec = environment.time_step_spec(), environment.action_spec()
        agents.append(entry.make(spec, action_spec, entry.config(**chosen), arms, seed))
        loops.append(SessionLoop(environment, agents[-1]))
    together = SessionLoops(loops)
    return agents, lambda blocks: together.run(range(settings.seeds), blocks), loops[0].block_size


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
    if settings.loop_fusion:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {LOOP_FUSION}".strip()
    told.write_text(json.dumps(measure(settings)), encoding="utf-8")


if __name__ == "__main__":
    main()
