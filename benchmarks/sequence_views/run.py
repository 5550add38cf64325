"""Do trained views pay? PPO with hand-made views, a GRU and a Transformer: likes per session and steps per second.

export TF_NUM_INTRAOP_THREADS=1 TF_NUM_INTEROP_THREADS=1
python benchmarks/sequence_views/run.py --out benchmarks/sequence_views/results.json

The figures are written after each cell, so a run that is stopped leaves those of the finished ones.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import arguments, context, write_results

from recpolicy.core.tensorflow_setup import silence_libraries

silence_libraries()  # before TF-Agents is imported

import tensorflow as tf  # noqa: E402

from recpolicy.agents import SESSION_AGENTS  # noqa: E402
from recpolicy.agents.item_features import compute_item_features  # noqa: E402
from recpolicy.data.loaders import load_ratings  # noqa: E402
from recpolicy.data.splits import Split, split  # noqa: E402
from recpolicy.environments.observation_encoders import ObservationEncoder, ShownItem  # noqa: E402
from recpolicy.evaluation.policy_scores import baseline_tables  # noqa: E402
from recpolicy.evaluation.sessions import SessionRunner, best, by_table  # noqa: E402
from recpolicy.models.session_world import SessionWorld  # noqa: E402
from recpolicy.training.session_loop import SessionLoop  # noqa: E402
from recpolicy.workflows.session_settings import SessionTrainConfig, make_worlds, session_environment  # noqa: E402
from recpolicy.workflows.training_data import prepare_features  # noqa: E402

CELLS = (
    ("interest", False, False), ("gru", False, False), ("transformer", False, False), ("last_n", False, False),
    ("gru", True, True), ("transformer", True, True), ("gru", False, True), ("transformer", False, True),
    ("interest", True, True), ("last_item", False, False),
)  # fmt: skip
"""View, whether the worlds are static, and whether each session is told the likes of another, in order of interest."""
BASELINES = ("rating_model", "most_popular", "random")
SEEDS = (0, 1, 2)
ITEMS, LAST_N, STEPS, CALLS = 400, 10, 100_000, 4
SESSIONS_PER_USER = 4
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Worlds:
    """The two worlds of one fatigue setting, and the features of the agents."""

    settings: SessionTrainConfig
    parts: Split
    features: Any
    worlds: Any

    def environments(self, view: str, others_likes: bool) -> tuple[Any, Any]:
        """The training environment, and that of the evaluation world with all its users."""
        settings, users = replace(self.settings, view=cast(Any, view)), len(self.worlds.evaluation_world.users)
        made = (
            session_environment(self.worlds.training_world, self.features, settings, 0),
            session_environment(self.worlds.evaluation_world, self.features, settings, 1234, SESSIONS_PER_USER * users),
        )
        if others_likes:
            for environment in made:
                environment.view = with_likes_of_others(environment.view)
        return made


def with_likes_of_others(view: ObservationEncoder) -> ObservationEncoder:
    """The negative control: each session is told the responses of another user's session."""

    def update(history_state: tf.Tensor, shown: ShownItem) -> tf.Tensor:
        half = tf.shape(shown.liked)[0] // 2
        return view.update(history_state, shown._replace(liked=tf.roll(shown.liked, half, axis=0)))

    return replace(view, update=update)


def worlds_of(parts: Split, static: bool) -> Worlds:
    """The two worlds; static ones have no fatigue and no drift, and nothing shown changes a later response."""
    settings = SessionTrainConfig(items=ITEMS, last_n=LAST_N)
    worlds = make_worlds(parts, settings, 0)
    if static:
        worlds = replace(
            worlds, training_world=without_history(worlds.training_world),
            evaluation_world=without_history(worlds.evaluation_world),
        )  # fmt: skip
    return Worlds(settings, parts, prepare_features(parts.train, settings), worlds)


def without_history(world: SessionWorld) -> SessionWorld:
    zeros = np.zeros(2, np.float32)
    return replace(world, slope=0.0, like_history=zeros, stay_history=zeros)


def play(
    here: Worlds, view: str, seeds: tuple[int, ...], steps: int, others_likes: bool = False
) -> tuple[Array, Array]:
    """Likes per session of each seed and user [seeds, users], and steps per processor second of calls that compile
    nothing.

    Wall time depends on what else the machine does. The loop is compiled once and starts anew for each seed.
    """
    training, evaluation = here.environments(view, others_likes)
    arms = compute_item_features(here.features.action_items, here.features.embeddings, here.parts.train)
    entry = SESSION_AGENTS["ppo"]

    def make(seed: int) -> Any:
        specs = training.time_step_spec(), training.action_spec()
        return entry.make(*specs, entry.config(), arms, seed, training.view.sequence)

    agent = make(seeds[0])
    loop, choose, runner = SessionLoop(training, agent), greedy(agent), SessionRunner(evaluation)
    blocks = -(-steps // (CALLS * loop.block_size))
    likes, rate = [], []
    for number, seed in enumerate(seeds):
        for old, new in zip(agent.learner.variables, make(seed).learner.variables, strict=True):
            old.assign(new)
        loop.block.assign(1_000_000 * seed)  # other users, other luck
        loop.running.assign(tf.zeros_like(loop.running))
        for call in range(CALLS):
            begin = time.process_time()
            loop.run(blocks)
            if number or call:  # the first call compiles
                rate.append(blocks * loop.block_size / (time.process_time() - begin))
        result = runner.run(choose, seed)
        likes.append(result.by_user(result.reward))
    return np.array(likes), np.array(rate)


def greedy(agent: Any) -> Callable[..., Any]:
    scores = tf.function(agent.learner.scores, jit_compile=True, autograph=False)

    def choose(_: Any, observation: Any, mask: Any, rng: np.random.Generator) -> Any:
        return best(scores(observation, mask).numpy(), mask, rng)

    return choose


def baselines(here: Worlds, seeds: tuple[int, ...]) -> dict[str, Array]:
    """Likes per session [seeds, users] of policies that learn nothing."""
    _, evaluation = here.environments("last_item", others_likes=False)
    runner, tables = SessionRunner(evaluation), baseline_tables(here.parts.train, here.features.model)
    likes = {}
    for name in BASELINES:
        choose = by_table(tables[name].score[evaluation.world.users][:, here.features.action_items])
        results = [runner.run(choose, seed) for seed in seeds]
        likes[name] = np.array([result.by_user(result.reward) for result in results])
    return likes


def interval(likes: Array) -> tuple[float, float, float]:
    """Mean of [seeds, users] with a 95 % interval over both: their variances add up, Student's t over the seeds."""
    seeds, users = likes.shape
    mean = float(likes.mean())
    variance = likes.mean(axis=1).var(ddof=1) / seeds + likes.mean(axis=0).var(ddof=1) / users
    half = float(stats.t.ppf(0.975, seeds - 1) * np.sqrt(variance))
    return mean, mean - half, mean + half


def told(name: str, likes: Array) -> dict[str, float]:
    mean, low, high = interval(likes)
    print(f"{name:44s} {mean:7.3f} [{low:.3f}, {high:.3f}]", flush=True)
    return {f"{name}_likes": mean, f"{name}_lo": low, f"{name}_hi": high}


def main() -> None:
    asked = arguments("Do trained views pay?")
    seeds, steps = (SEEDS[:2], 10_000) if asked.quick else (SEEDS, STEPS)
    parts = split(load_ratings("ml-100k"), "u1")
    figures: dict[str, float] = {}
    trials: dict[str, list[float]] = {}
    likes: dict[str, Array] = {}
    worlds = {static: worlds_of(parts, static) for static in (False, True)}
    for static, prefix in ((False, ""), (True, "static_")):
        for name, values in baselines(worlds[static], seeds).items():
            likes[prefix + name] = values
            figures |= told(prefix + name, values)
            trials[prefix + name] = values.mean(axis=1).tolist()
    for view, static, others in CELLS:
        name = f"{'static_' * static}{view}{'_likes_of_others' * others}"
        likes[name], rate = play(worlds[static], view, seeds, steps, others)
        figures |= told(name, likes[name])
        trials[name], trials[f"{name}_rate"] = likes[name].mean(axis=1).tolist(), rate.tolist()
        figures[f"{name}_rate"] = float(np.median(rate))
        print(f"{name + ' steps per processor second':44s} {np.median(rate):9,.0f}", flush=True)
        prefix = "static_" * static
        for other in (f"{prefix}rating_model", f"{prefix}interest", f"{prefix}{view}"):
            if other in likes and other != name:
                figures |= told(f"{name}_minus_{other}", likes[name] - likes[other])
        write_results(asked.out, figures, context(seeds, items=ITEMS, steps=steps, last_n=LAST_N, agent="ppo"), trials)


if __name__ == "__main__":
    main()
