"""Does a critic of the own policy pay where sessions of another policy are the only data?

python benchmarks/offpolicy_ac/run.py --out benchmarks/offpolicy_ac/results.json
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from common import arguments, context, write_results

from recpolicy.core.tensorflow_setup import silence_libraries

silence_libraries()  # before TF-Agents is imported

import tensorflow as tf  # noqa: E402

from recpolicy.agents import agent_entry  # noqa: E402
from recpolicy.agents.item_features import compute_item_features  # noqa: E402
from recpolicy.core.seeds import generator  # noqa: E402
from recpolicy.core.statistics import paired_difference  # noqa: E402
from recpolicy.data.loaders import load_ratings  # noqa: E402
from recpolicy.data.ratings import genre_directions  # noqa: E402
from recpolicy.data.session_log import SessionLog  # noqa: E402
from recpolicy.data.splits import Split, split  # noqa: E402
from recpolicy.environments.observation_encoders import OBSERVATION_ENCODERS  # noqa: E402
from recpolicy.evaluation.sessions import SessionResults, SessionRunner, best, by_table  # noqa: E402
from recpolicy.models.user_model import SessionWorldConfig  # noqa: E402
from recpolicy.training.observation_builder import (  # noqa: E402
    ObservationBuilder,
    make_block,
    make_step_block,
    replay,
)
from recpolicy.training.rollout_sessions import exploring  # noqa: E402
from recpolicy.workflows.session_logs import (  # noqa: E402
    SessionLogConfig,
    SessionLoggingPolicy,
    rollout_session_log,
)
from recpolicy.workflows.session_settings import SessionTrainConfig, make_worlds, session_environment  # noqa: E402
from recpolicy.workflows.training_data import prepare_features  # noqa: E402

ITEMS = 200
SESSIONS = 2_000
EPOCHS = 3
SESSIONS_PER_USER = 8
SEEDS = tuple(range(15))
"""Training seeds of the two agents that are compared, and of the ends of the dial."""
FEW = 5
"""Training seeds of the other contenders."""
FEWER = 3
"""Seeds of the whole dial on hidden items, and of the world without history."""
ITEM_OFFSET_STDS = (0.05, 0.2)
"""Initial item offsets of critics at the ends of the dial; .2 was the first choice, .05 came after its result."""
KAPPAS = (-2.0, -1.0, 0.0, 1.0)
HIDDEN = 0.2
BLOCK = 64
"""Sessions in a block of topk_reinforce, as in `recpolicy train`."""
GRADIENT_SESSIONS = 16
"""Sessions in a batch whose gradient is measured: some 250 steps."""
LOGGER = {"epsilon": 0.3, "top_k": 50.0, "temperature": 0.5}
"""The rating model in stars: the best item, or with probability epsilon one of the best 50 by a softmax."""


@dataclass(frozen=True)
class Bench:
    """One setting of the simulator: worlds, features and what plays in them."""

    parts: Split
    settings: SessionTrainConfig
    features: Any
    worlds: Any
    runner: SessionRunner
    sight: ObservationBuilder
    arms: Any


def bench(parts: Split, simulator: SessionWorldConfig, sessions_per_user: int) -> Bench:
    settings = SessionTrainConfig(items=ITEMS, simulator=simulator)
    features = prepare_features(parts.train, settings)
    worlds = make_worlds(parts, settings, 0)
    world = worlds.evaluation_world
    environment = session_environment(world, features, settings, 1234, sessions_per_user * len(world.users))
    items, steps = features.action_items, settings.max_episode_steps
    embedding, genres = features.embeddings.item[items], genre_directions(parts.train.items)
    view = OBSERVATION_ENCODERS[settings.view](embedding.shape[1], genres.shape[1], steps, settings.last_n)
    sight = ObservationBuilder(features.context, embedding, genres[items], items, view, steps)
    arms = compute_item_features(items, features.embeddings, parts.train)
    return Bench(parts, settings, features, worlds, SessionRunner(environment), sight, arms)


def make(here: Bench, name: str, seed: int, **settings: Any) -> Any:
    entry = agent_entry(name)
    return entry.make(*here.sight.specs(), entry.config(**settings), here.arms, seed)


def log_of(here: Bench, shown: np.ndarray, sessions: int, seed: int) -> SessionLog:
    """Sessions of the rating model in the training world, with only the items `shown` [n] (places in the catalog)."""
    items = here.features.action_items[shown]
    visible = compute_item_features(items, here.features.embeddings, here.parts.train)
    entry = agent_entry("dqn")
    settings = {"temperature": 1.0}  # scores in stars
    agent = entry.make(
        here.sight.specs()[0], tf_action_spec(len(items)), entry.config(**settings), visible, seed
    )  # untrained: the rating model
    exported = replace(agent.learner.export(), settings=LOGGER)
    policy = SessionLoggingPolicy(
        "rating_model", "epsilon top 50", exploring(exported), here.features.context, here.features.embeddings.item,
        items, here.settings,
    )  # fmt: skip
    world, settings_of_log = here.worlds.training_world, SessionLogConfig(sessions=sessions)
    return rollout_session_log(policy, world, here.parts, settings_of_log, seed, show_progress=False)


def tf_action_spec(actions: int) -> Any:
    from tf_agents.specs import tensor_spec

    return tensor_spec.BoundedTensorSpec((), tf.int32, 0, actions - 1, name="action")


class Learning:
    """The passes of one kind of agent over logs; the graph is built once and starts anew for each seed and log.

    These are the updates of `recpolicy train --log` without XLA, whose compilation would take longer than they do. The
    incomplete last batch of a pass is left out.
    """

    def __init__(self, here: Bench, name: str, **settings: Any):
        self.here, self.name, self.settings = here, name, settings
        self.agent = make(here, name, 0, **settings)
        self._log: SessionLog | None = None
        self._step: Any = None

    def run(self, log: SessionLog, seed: int, epochs: int) -> Any:
        """Return the agent after `epochs` passes over the log."""
        fresh = make(self.here, self.name, seed, **self.settings)
        for old, new in zip(self.agent.learner.variables, fresh.learner.variables, strict=True):
            old.assign(new)
        replayed, actions = replay(log, self.here.sight), len(self.here.sight.action_items)
        whole = self.agent.learner.whole_sessions
        size, units = (BLOCK, len(log.length)) if whole else (self.agent.learner.config.batch_size, len(log))
        block = make_block if whole else make_step_block
        learner, seeds = self.agent.learner, self.agent.learn_seed
        if log is not self._log:
            self._log = log
            self._step = tf.function(
                lambda rows: learner.update(block(replayed, rows, actions), seeds)["loss"], autograph=False
            )
        rng = generator(seed, "offline/sessions")
        for _ in range(epochs):
            order = rng.permutation(units).astype(np.int32)
            for first in range(0, units - size + 1, size):
                self._step(tf.constant(order[first : first + size]))
        return self.agent


def judge(here: Bench, agent: Any, seed: int) -> SessionResults:
    """Play greedily in the evaluation world."""

    def choose(_: Any, observation: Any, mask: Any, rng: np.random.Generator) -> Any:
        return best(agent.learner.scores(tf.constant(observation), None).numpy(), mask, rng)

    return here.runner.run(choose, seed)


def told(name: str, values: list[float]) -> dict[str, float]:
    """Mean, 95 % Student interval and standard deviation over seeds."""
    array = np.array(values)
    mean, sd = float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else 0.0
    half = float(stats.t.ppf(0.975, len(array) - 1)) * sd / np.sqrt(len(array)) if len(array) > 1 else 0.0
    print(f"{name:40s} {mean:8.4f} [{mean - half:.4f}, {mean + half:.4f}] sd {sd:.4f}", flush=True)
    return {f"{name}_mean": mean, f"{name}_lo": mean - half, f"{name}_hi": mean + half, f"{name}_sd": sd}


def difference(name: str, ours: list[SessionResults], theirs: list[SessionResults]) -> dict[str, float]:
    """Likes per session of `ours` minus `theirs`, each the mean over seeds, with a bootstrap interval by user.

    The sessions of a user have the same random numbers for both.
    """
    a, b = (np.mean([result.by_user(result.reward) for result in results], axis=0) for results in (ours, theirs))
    found = paired_difference(a, b, generator(0, "offpolicy_ac"))
    level = float(b.mean())
    print(f"{name:40s} {found} of {level:.3f}", flush=True)
    return {
        f"{name}_likes": found.value, f"{name}_likes_lo": found.lo, f"{name}_likes_hi": found.hi,
        name: found.value / level, f"{name}_lo": found.lo / level, f"{name}_hi": found.hi / level,
    }  # fmt: skip


def across_seeds(name: str, ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Return the 95 % Welch interval over training seeds of a difference of likes, as a share of `theirs`."""
    a, b = np.array(ours), np.array(theirs)
    found = stats.ttest_ind(a, b, equal_var=False)
    interval, level = found.confidence_interval(), b.mean()
    print(f"{name} over seeds: {a.mean() - level:.3f} [{interval.low:.3f}, {interval.high:.3f}]", flush=True)
    return {f"{name}_seeds_lo": interval.low / level, f"{name}_seeds_hi": interval.high / level}


def contest(
    here: Bench, log: SessionLog, seeds: tuple[int, ...], epochs: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """The actor-critic against top-K REINFORCE and a clone of the logging policy, from the same log."""
    figures: dict[str, float] = {}
    scores = here.features.model.mean[here.worlds.evaluation_world.users][:, here.features.action_items]
    greedy = [here.runner.run(by_table(scores), seed) for seed in seeds]
    few = seeds[:FEW]
    figures |= told("rating_model_likes", [float(result.reward.mean()) for result in greedy])
    contenders = {
        "actor_critic": ("offpolicy_actor_critic", {}, seeds),
        "topk_reinforce": ("topk_reinforce", {}, seeds),
        "actor_critic_all_actions": ("offpolicy_actor_critic", {"actor": "all_actions"}, few),
        "behavior_cloning": ("behavior_cloning", {}, few),
    }
    results, trained = {"rating_model": greedy}, {}
    for label, (name, settings, own) in contenders.items():
        learning, results[label] = Learning(here, name, **settings), []
        for seed in own:
            agent = learning.run(log, seed, epochs)
            results[label].append(judge(here, agent, seed))
        trained[label] = agent
        figures |= told(f"{label}_likes", [float(result.reward.mean()) for result in results[label]])
    figures |= difference("difference", results["actor_critic"], results["topk_reinforce"])
    rival = results["topk_reinforce"]
    figures |= difference("difference_all_actions", results["actor_critic_all_actions"], rival[: len(few)])
    for label, (_, _, own) in contenders.items():
        figures |= difference(f"{label}_gain", results[label], greedy[: len(own)])
    likes = {label: [float(result.reward.mean()) for result in results[label]] for label in contenders}
    figures |= across_seeds("difference", likes["actor_critic"], likes["topk_reinforce"])
    figures |= across_seeds("difference_all_actions", likes["actor_critic_all_actions"], likes["topk_reinforce"])
    return figures, trained


class Recorder:
    """In place of a trainer: keeps the gradient of the policy head and takes no step."""

    def __init__(self, head: list[tf.Variable]):
        self.head, self.gradient = head, np.zeros(0)

    def descend(self, tape: tf.GradientTape, loss: tf.Tensor) -> tf.Tensor:
        self.gradient = np.concatenate([part.numpy().ravel() for part in tape.gradient(loss, self.head)])
        return tf.constant(0.0)


def gradients(here: Bench, log: SessionLog, trained: Mapping[str, Any], batches: int) -> dict[str, float]:
    """Variance over batches of the gradient of the policy head, at equal parameters and on the same steps.

    The policy and the critics come from a training of the actor-critic on the same log, the value network of
    topk_reinforce from its own training. No entropy bonus, and no standardizing of advantages: equal units.
    """
    critic, found = trained["actor_critic"], {}
    own = trained["topk_reinforce"].learner.export().arrays
    arrays = critic.learner.export().arrays | {name: own[name] for name in own if name.startswith("value/")}
    replayed, actions = replay(log, here.sight), len(here.sight.action_items)
    order = generator(0, "offpolicy_ac gradients").permutation(len(log.length)).astype(np.int32)
    rows = np.split(np.arange(len(log), dtype=np.int32), log.start[1:-1])
    cases = {
        "topk_reinforce": ("topk_reinforce", {"normalize_advantage": False, "n_epochs": 1}),
        "actor_critic": ("offpolicy_actor_critic", {}),
        "actor_critic_all_actions": ("offpolicy_actor_critic", {"actor": "all_actions"}),
    }
    for label, (name, settings) in cases.items():
        learner = make(here, name, 0, ent_coef=0.0, **settings).learner
        if label == "topk_reinforce":
            learner.start_from(arrays)
        else:
            for old, new in zip(learner.variables, critic.learner.variables, strict=True):
                old.assign(new)
        recorder = learner._trainer = Recorder(learner._policy.network.trainable_variables)
        kept = []
        for batch in range(batches):
            sessions = order[batch * GRADIENT_SESSIONS : (batch + 1) * GRADIENT_SESSIONS]
            if label == "topk_reinforce":
                block = make_block(replayed, tf.constant(sessions), actions)
            else:
                steps = np.concatenate([rows[session] for session in sessions])
                block = make_step_block(replayed, tf.constant(steps), actions)
            learner.update(block, tf.constant([1, 1], tf.int32))
            kept.append(recorder.gradient)
        kept_array = np.array(kept, np.float64)  # [batches, P]
        found[label] = (kept_array.var(axis=0, ddof=1).sum(), np.square(kept_array.mean(axis=0)).sum())
    figures = {}
    for label, (variance, square) in found.items():
        print(f"gradient of {label:30s} variance {variance:.4g}, squared mean {square:.4g}", flush=True)
        figures |= {f"{label}_gradient_variance": variance, f"{label}_gradient_noise": variance / square}
    for label in ("actor_critic", "actor_critic_all_actions"):
        suffix = label.removeprefix("actor_critic")
        figures[f"variance_ratio{suffix}"] = found["topk_reinforce"][0] / found[label][0]
    return figures


def hidden_items(
    here: Bench, seeds: tuple[int, ...], sessions: int, epochs: int, plain: bool = False
) -> dict[str, float]:
    """A fifth of the catalog never stands in the log: the policy's mass on it, and likes, against kappa.

    With plain heads every item has outputs of its own, so nothing that is learned about other items reaches it.
    """
    count, prefix = len(here.features.action_items), "plain_" if plain else ""
    shared: dict[str, Any] = {"head": "plain", "learning_rate": 0.003} if plain else {}
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        f"kappa_{kappa:g}": ("offpolicy_actor_critic", {"kappa": kappa, **shared}) for kappa in KAPPAS
    }
    if not plain:
        kinds["reinforce_baseline_0"] = ("topk_reinforce", {"baseline": False})
        kinds["support"] = ("offpolicy_actor_critic", {"support": 0.002})
    mass: dict[str, list[float]] = {label: [] for label in kinds}
    likes: dict[str, list[float]] = {label: [] for label in kinds}
    start, logs = [], {}
    for seed in seeds:
        hidden = generator(seed, "offpolicy_ac hidden").permutation(count)[: round(HIDDEN * count)]
        logs[seed] = hidden, log_of(here, np.setdiff1d(np.arange(count), hidden), sessions, seed)
        start.append(mass_on(here, make(here, "offpolicy_actor_critic", seed, **shared), *logs[seed]))
    figures = told(f"{prefix}mass_start", start)
    for label, (name, settings) in kinds.items():
        learning = Learning(here, name, **settings)
        for seed in seeds:
            hidden, log = logs[seed]
            agent = learning.run(log, seed, epochs)
            mass[label].append(mass_on(here, agent, hidden, log))
            likes[label].append(float(judge(here, agent, seed).reward.mean()))
        figures |= told(f"{prefix}mass_{label}", mass[label])
        figures |= told(f"{prefix}hidden_likes_{label}", likes[label])
    by_kappa = np.array([mass[f"kappa_{kappa:g}"] for kappa in KAPPAS])  # [kappas, seeds]
    figures[f"{prefix}mass_monotone"] = float((np.diff(by_kappa.mean(axis=1)) >= 0).all())
    figures[f"{prefix}mass_monotone_seeds"] = float((np.diff(by_kappa, axis=0) >= 0).all(axis=0).mean())
    return figures


def ends_of_the_dial(here: Bench, seeds: tuple[int, ...], sessions: int, epochs: int) -> dict[str, float]:
    """Mass of hidden items at the highest kappa minus the lowest, paired by seed; without and with item offsets.

    Both ends of a seed have the same hidden items, log, initial weights and order of steps.
    """
    count = len(here.features.action_items)
    ends, deviations = (KAPPAS[0], KAPPAS[-1]), (0.0, *ITEM_OFFSET_STDS)
    cells = [(deviation, kappa) for deviation in deviations for kappa in ends]
    learnings = {
        cell: Learning(here, "offpolicy_actor_critic", item_offset_std=cell[0], kappa=cell[1]) for cell in cells
    }
    mass: dict[Any, list[float]] = {cell: [] for cell in cells}
    likes: dict[Any, list[float]] = {cell: [] for cell in cells}
    for seed in seeds:
        hidden = generator(seed, "offpolicy_ac hidden").permutation(count)[: round(HIDDEN * count)]
        log = log_of(here, np.setdiff1d(np.arange(count), hidden), sessions, seed)
        for cell, learning in learnings.items():
            agent = learning.run(log, seed, epochs)
            mass[cell].append(mass_on(here, agent, hidden, log))
            likes[cell].append(float(judge(here, agent, seed).reward.mean()))
            print(
                f"seed {seed} offsets, kappa {cell}: mass {mass[cell][-1]:.4f} likes {likes[cell][-1]:.3f}", flush=True
            )
    figures: dict[str, float] = {}
    for deviation in deviations:
        prefix = f"ends_offsets_{deviation:g}" if deviation else "ends"
        low, high = ((deviation, kappa) for kappa in ends)
        for cell in (low, high):
            figures |= told(f"{prefix}_mass_kappa_{cell[1]:g}", mass[cell])
            figures |= told(f"{prefix}_likes_kappa_{cell[1]:g}", likes[cell])
        figures |= told(f"{prefix}_mass_trend", list(np.subtract(mass[high], mass[low])))
        figures |= told(f"{prefix}_likes_trend", list(np.subtract(likes[high], likes[low])))
    return figures


def mass_on(here: Bench, agent: Any, hidden: np.ndarray, log: SessionLog, sessions: int = 200) -> float:
    """Mean probability of the hidden items at the steps of some logged sessions."""
    block = make_block(replay(log, here.sight), tf.range(sessions), len(here.sight.action_items))
    counted = tf.cast(~(block.terminated | block.truncated), tf.float32)
    counted = tf.math.cumprod(counted, axis=0, exclusive=True)
    shape = block.observation.shape
    observation = tf.reshape(block.observation, [shape[0] * shape[1], shape[2]])
    mask = tf.reshape(block.mask, [shape[0] * shape[1], -1])
    probability = tf.nn.softmax(agent.learner.scores(observation, mask)).numpy()
    weight = tf.reshape(counted, [-1]).numpy()
    return float((probability[:, hidden].sum(axis=1) * weight).sum() / weight.sum())


def without_history(parts: Split, seeds: tuple[int, ...], sessions: int, epochs: int, each: int) -> dict[str, float]:
    """Control: where no response depends on the session, a discount must not matter."""
    simulator = SessionWorldConfig(drift=0.0, fatigue_genre=0.0, fatigue_misses=0.0)
    here = bench(parts, simulator, each)
    log = log_of(here, np.arange(len(here.features.action_items)), sessions, 0)
    results: dict[float, list[SessionResults]] = {}
    figures: dict[str, float] = {}
    for gamma in (0.0, 0.9):
        learning = Learning(here, "offpolicy_actor_critic", gamma=gamma)
        results[gamma] = [judge(here, learning.run(log, seed, epochs), seed) for seed in seeds]
        figures |= told(f"no_history_gamma_{gamma:g}_likes", [float(r.reward.mean()) for r in results[gamma]])
    likes = {gamma: [float(result.reward.mean()) for result in found] for gamma, found in results.items()}
    figures |= across_seeds("no_history_difference", likes[0.9], likes[0.0])
    return figures | difference("no_history_difference", results[0.9], results[0.0])


def contest_and_gradients(
    here: Bench, seeds: tuple[int, ...], sessions: int, epochs: int, batches: int
) -> dict[str, float]:
    """All contenders from one log, and the gradients of the two that are compared."""
    log = log_of(here, np.arange(len(here.features.action_items)), sessions, 0)
    logged = float(log.reward.sum() / len(log.length))
    print(f"log: {len(log.length)} sessions, {len(log)} steps, {logged:.3f} likes a session", flush=True)
    figures, trained = contest(here, log, seeds, epochs)
    return figures | {"logged_likes": logged} | gradients(here, log, trained, batches)


PARTS = ("contest", "hidden", "plain", "ends", "no_history")


def main() -> None:
    purpose = "Does a critic of the own policy pay where sessions of another policy are the only data?"
    asked = arguments(purpose, PARTS)
    seeds, sessions, epochs, each, batches = SEEDS, SESSIONS, EPOCHS, SESSIONS_PER_USER, 100
    if asked.quick:
        seeds, sessions, epochs, each, batches = (0, 1), 400, 1, 1, 10
    fewer = seeds[:FEWER]
    parts = split(load_ratings("ml-100k"), "u1")
    here = bench(parts, SessionWorldConfig(), each)
    runs: dict[str, Any] = {
        "contest": lambda: contest_and_gradients(here, seeds, sessions, epochs, batches),
        "hidden": lambda: hidden_items(here, fewer, sessions, epochs),
        "plain": lambda: hidden_items(here, fewer, sessions, epochs, plain=True),
        "ends": lambda: ends_of_the_dial(here, seeds, sessions, epochs),
        "no_history": lambda: without_history(parts, fewer, sessions, epochs, each),
    }
    before: dict[str, Any] = {"figures": {}, "context": {}}
    if asked.only and asked.out.exists():
        before = json.loads(asked.out.read_text(encoding="utf-8"))
    figures, ran = dict(before["figures"]), dict(before["context"].get("parts", {}))
    for name in (asked.only,) if asked.only else PARTS:
        figures |= runs[name]()
        here_and_now = context(seeds, items=ITEMS, sessions=sessions, epochs=epochs)
        ran[name] = {key: here_and_now[key] for key in ("commit", "date", "load_average_1_min")}
        write_results(asked.out, figures, {**here_and_now, "parts": ran})  # a part is kept


if __name__ == "__main__":
    main()
