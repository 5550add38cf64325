"""Train a session agent: features, simulated sessions or a log of sessions, the compiled loop, the artifact.

U users, I items, A items of the catalog, D features.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from recpolicy.core.config import Count, CountOrZero, PositiveFraction, Size, config_dataclass
from recpolicy.core.errors import ConfigError
from recpolicy.core.metrics import read_csv
from recpolicy.core.optional_deps import require_extra
from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.data.bandit_log import BanditLog
from recpolicy.data.ratings import genre_directions
from recpolicy.data.session_log import SessionLog
from recpolicy.data.slate_log import SlateLog
from recpolicy.data.slate_sessions import sessions_from_rounds, sessions_from_slates
from recpolicy.data.splits import Split
from recpolicy.inference.predictor import Policy, load_policy
from recpolicy.models.own_like_model import LikeFunction, OwnLikeModel, read_like_model
from recpolicy.models.rating_model import RatingModel
from recpolicy.models.session_world import SIMILARITIES, SessionWorld
from recpolicy.models.session_worlds import TwoWorlds, fit_two_worlds
from recpolicy.models.user_model import SessionWorldConfig
from recpolicy.workflows.artifacts import (
    build_metadata,
    check_absent,
    make_artifact,
    open_work_folder,
    training_events,
    write_artifact,
)
from recpolicy.workflows.initial_policy import InitialPolicy, check_limits, read_initial_policy
from recpolicy.workflows.training_data import FeatureConfig, Features, coerce, item_attributes, prepare_features

if TYPE_CHECKING:
    from recpolicy.agents.learner import ExportedPolicy
    from recpolicy.agents.sequence import SessionAgent
    from recpolicy.environments.session import SessionConfig, SessionEnvironment
    from recpolicy.environments.session_slate import SlateConfig, SlateEnvironment
    from recpolicy.models.sequence_layout import SequenceLayout
    from recpolicy.training.observation_builder import ObservationBuilder
    from recpolicy.training.session_trainer import SessionRun, SessionRunConfig


LIKE_MODEL = "like_model"
"""Key in the metadata: name and digest of the own like model of the training world."""
CIRCULAR = "circular: similarity of the embeddings"
"""Rewards of a training in the metadata, where `reward` is one of SIMILARITIES."""


LEARN_FROM_SLATES = ("topk_reinforce",)
"""Agents that can learn from slates (`learns_from_slates`)."""


@config_dataclass
class SessionTrainConfig(FeatureConfig):
    """Settings of a training in sessions; the agent's own settings are separate."""

    total_timesteps: Count = 300_000
    """Recommended items in all."""
    batch_size: Size = 64
    """Sessions that run in parallel."""
    reward: Literal["like", "watch", "rating", "similarity", "cosine_similarity"] = "like"
    """Reward of a recommended item: 1 for a like; the watch fraction; the rating. `similarity` (dot product) and
    `cosine_similarity` of the embeddings of user and item are circular: the policy sees both, and there is no feedback.
    """
    reward_decay: PositiveFraction = 1.0
    """Factor on the reward for each earlier item of the session, in (0, 1]."""
    view: Literal["interest", "last_item", "last_n", "gru", "transformer"] = "interest"
    """The part of the session that the policy observes; `gru` and `transformer` learn to read its last items."""
    last_n: Size = 5
    """Items that the views last_n, gru and transformer remember."""
    max_episode_steps: Size = 20
    """Items after which a session is cut."""
    slate_size: Size = 1
    """Items shown at once; above 1, the agent learns from slates, and `total_timesteps`, `checkpoint_every_steps` and
    `max_episode_steps` count slates."""
    continuation_probability: PositiveFraction = 0.8
    """Probability that a user reads on after an item of a slate without a like, in (0, 1]."""
    simulator: SessionWorldConfig = field(default_factory=SessionWorldConfig)
    """Settings of the simulated worlds."""
    log_rows: Count = 50
    """Rows of training metrics."""
    log_every_steps: CountOrZero = 0
    """Recommended or logged items between lines of progress on stdout where there is no terminal; 0 prints a line on
    stderr every ten seconds."""
    checkpoint_every_steps: Count = 50_000
    """Recommended or logged items between checkpoints."""
    epochs: Count = 1
    """Passes over the log, if the agent learns from one; `batch_size` sessions make a batch."""


def train_sessions(
    agent: str,
    split: Split,
    out: str | Path,
    *,
    config: Any = None,
    agent_config: Any = None,
    model: RatingModel | None = None,
    model_config: Any = None,
    worlds: TwoWorlds | None = None,
    log: BanditLog | SessionLog | SlateLog | None = None,
    init_from: "str | Path | InitialPolicy | None" = None,
    like_model: "str | Path | LikeFunction | None" = None,
    seed: int = 0,
    show_progress: bool | None = None,
) -> Policy:
    """Train an agent in simulated sessions, or on a log of sessions, and write the policy artifact to `out`.

    The same call continues a training that was interrupted, from its last checkpoint.

    Args:
        agent: A name in SESSION_AGENTS of recpolicy.agents.
        split: The ratings; the worlds are fitted on both parts, features on the train part.
        out: The folder to write; it must not exist.
        config: A SessionTrainConfig or its settings.
        agent_config: The agent's config or its settings.
        model: A rating model that was fitted on `split.train`; without it, one is fitted or read from the cache.
        model_config: Settings of the rating model, if it is fitted here.
        worlds: The simulated worlds; without them, they are fitted.
        log: Logged sessions to learn from, for topk_reinforce, offpolicy_actor_critic, dqn and behavior_cloning; or
            logged slates, for topk_reinforce, which then shows slates of the same size. It also learns from
            rounds: they are places of slates of `slate_size` items.
        init_from: Folder of a policy whose networks the agent starts with, or of a registry: then its champion; or that
            policy as it was read. Settings of features, view and network that are not given come from it.
        like_model: Your own P(like), which replaces the fitted model of the worlds; see `read_like_model`.
        seed: Seed of every random draw.
        show_progress: Show a progress bar; None shows it on a terminal, and lines elsewhere.

    Returns:
        The trained policy, as read from `out`.

    Raises:
        ConfigError: An agent or a setting is unknown or out of range, or the agent cannot learn from the log, or the
            initial policy has another catalog or network.
        DataError: The log does not fit the ratings.
        ArtifactError: `out` exists, or an interrupted training there had other settings, or the initial policy is
            missing or damaged.
        DivergedError: A figure of the training is not finite; the last good checkpoint stays.
    """
    check_absent(Path(out))
    if like_model is not None and (log is not None or worlds is not None):
        raise ConfigError("a like model replaces that of worlds that are fitted here: give no log and no worlds")
    plan = plan_training(
        agent, split, out, config=config, agent_config=agent_config, model=model, model_config=model_config, log=log,
        init_from=init_from, like_model=like_model, seed=seed,
    )  # fmt: skip
    if log is not None:
        return plan.write(*_learn_from_log(plan, show_progress))
    from recpolicy.training.session_trainer import train_in_sessions

    world = (worlds or plan.worlds()).training_world
    run = plan.run(world)
    shown = train_in_sessions(run.environment, run.agent, plan.run_config(), run.folder, show_progress)
    return plan.write(run.agent, simulation_figures(run, shown, plan.settings, world), run.folder)


@dataclass(frozen=True)
class SessionPlan:
    """A session training whose settings are checked and whose features are fitted, before its first step."""

    agent: str
    split: Split
    out: Path
    settings: SessionTrainConfig
    agent_settings: Any
    features: Features
    metadata: dict[str, Any]
    """Lineage of the policy, known before the training."""
    log: BanditLog | SessionLog | SlateLog | None
    sessions: SessionLog | None
    """The log as the agent learns from it."""
    initial: InitialPolicy | None
    like_model: OwnLikeModel | None
    seed: int

    def worlds(self) -> TwoWorlds:
        """Fit the simulated worlds."""
        return make_worlds(self.split, self.settings, self.seed, self.like_model)

    def make(
        self, time_step_spec: Any, action_spec: Any, sequence: "SequenceLayout | None"
    ) -> "SessionAgent":  # fmt: skip
        """Return the untrained agent for these specs."""
        from recpolicy.agents import SESSION_AGENTS
        from recpolicy.agents.item_features import compute_item_features

        features = self.features
        arms = compute_item_features(
            features.action_items, features.embeddings, self.split.train, item_attributes(self.agent, features)
        )
        make = SESSION_AGENTS[self.agent].make
        made: SessionAgent = make(time_step_spec, action_spec, self.agent_settings, arms, self.seed, sequence)
        if self.initial is not None:
            self.initial.start(made)
        return made

    def run(self, world: SessionWorld, name: str = "") -> "SessionRun":
        """Return environment, agent and work folder of a training in a world; `name` is for its warnings."""
        from recpolicy.training.session_trainer import SessionRun

        several = self.settings.slate_size > 1
        make_environment = slate_environment if several else session_environment
        environment = make_environment(world, self.features, self.settings, self.seed)
        agent = self.make(environment.time_step_spec(), environment.item_spec, environment.view.sequence)
        return SessionRun(environment, agent, self.begin(), name)

    def run_config(self) -> "SessionRunConfig":
        """Return length, metrics and checkpoints of a training in a world."""
        from recpolicy.training.session_trainer import SessionRunConfig

        names = ("total_timesteps", "log_rows", "log_every_steps", "checkpoint_every_steps")
        return SessionRunConfig(**{name: getattr(self.settings, name) for name in names})

    def begin(self) -> Path:
        """Open the work folder: after all checks, so that refused settings leave no unfinished training behind."""
        return open_work_folder(self.out, {"agent": self.agent, **self.metadata})

    def write(self, learner: "SessionAgent", training: dict[str, Any], work: Path) -> Policy:
        """Write the artifact of a trained agent with the figures of its training; return it as read."""
        from recpolicy.agents.observation import context_width

        if self.agent_settings.normalize_reward:
            training |= {"reward_std": learner.learner.reward_std}
        width = context_width(learner.time_step_spec)
        exported = with_view(learner.learner.export(), self.settings, self.split)
        events = training_events(self.log, self.split.train.source)
        if self.initial is not None:
            training, events = self.initial.rewards(training), self.initial.events(events)
        metadata = {**self.metadata, "state_dim": width, "training": training}
        artifact = make_artifact(
            self.agent, exported, self.split.train, self.features, metadata, learned_events=events
        )  # fmt: skip
        write_artifact(artifact, learner, width, work, self.out)
        return load_policy(self.out)


def plan_training(
    agent: str,
    split: Split,
    out: str | Path,
    *,
    config: Any = None,
    agent_config: Any = None,
    model: RatingModel | None = None,
    model_config: Any = None,
    log: BanditLog | SessionLog | SlateLog | None = None,
    init_from: "str | Path | InitialPolicy | None" = None,
    like_model: "str | Path | LikeFunction | None" = None,
    seed: int = 0,
) -> SessionPlan:
    """Check the settings of a training and fit its features; arguments and errors are those of `train_sessions`."""
    require_extra("train", "training")
    initial = init_from if isinstance(init_from, InitialPolicy) else None
    if isinstance(init_from, str | Path):
        initial = read_initial_policy(
            init_from, agent, split, config=config, agent_config=agent_config, model_config=model_config, seed=seed
        )
    if initial is not None:
        config, agent_config, model_config = initial.train, initial.agent, initial.rating_model
    silence_libraries()  # before TF-Agents is imported: gym prints its notice then
    from recpolicy.agents import SESSION_AGENTS, agent_entry

    entry = agent_entry(agent)
    if agent not in SESSION_AGENTS:
        raise ConfigError(f"{agent} learns in single rounds: train it with recpolicy.train")
    if isinstance(log, BanditLog) and agent not in LEARN_FROM_SLATES:
        raise ConfigError(
            f"{agent} learns in simulated sessions, not from logged rounds such as {log.name}; topk_reinforce,"
            " offpolicy_actor_critic, dqn and behavior_cloning also learn from logged sessions (recpolicy log simulate"
            " --sessions)"
        )
    if log is None and not entry.learns_from_simulation:
        raise ConfigError(
            f"{agent} imitates the policy of a log of sessions; give one with --log (recpolicy log simulate --sessions"
            " writes one)"
        )
    settings = coerce(SessionTrainConfig, config, "train")
    agent_settings = coerce(entry.config, agent_config, agent)
    session_config(settings)  # checks the settings before anything is fitted
    check_limits(agent, agent_settings, initial)
    if isinstance(log, SlateLog):
        settings = _of_slates(agent, log, settings)
    elif settings.slate_size > 1 and (agent not in LEARN_FROM_SLATES or isinstance(log, SessionLog)):
        raise ConfigError(
            f"train.slate_size is {settings.slate_size}, but {agent} learns from single items"
            f"{'' if log is None else ' of a log of sessions'}; {', '.join(LEARN_FROM_SLATES)} can learn from simulated"
            " or logged slates"
        )
    sessions = _as_sessions(log)
    if sessions is not None:
        _check_log(agent, sessions, settings, split.train.scale)
    features = prepare_features(split.train, settings, model=model, model_config=model_config, seed=seed)
    metadata = build_metadata(split, settings, agent_settings, features.model, seed, log)
    own = None if like_model is None else read_like_model(like_model, split.train)
    if own is not None:
        metadata |= {LIKE_MODEL: {"name": own.name, "digest": own.digest}}
    if initial is not None:
        initial.check_features(features)
        metadata |= initial.metadata()
    return SessionPlan(
        agent, split, Path(out), settings, agent_settings, features, metadata, log, sessions, initial, own, seed
    )  # fmt: skip


def simulation_figures(
    run: "SessionRun", shown: int, settings: SessionTrainConfig, world: SessionWorld
) -> dict[str, Any]:
    """Return the figures of a training in a world, of `shown` items, for the metadata."""
    from recpolicy.training.trainer import METRICS_FILE

    rewards = CIRCULAR if settings.reward in SIMILARITIES else "simulated"
    figures = {"mode": "sessions", "rewards": rewards, "total_timesteps": shown, "world": world.name}
    return {**figures, **_divergence(run.agent, read_csv(run.folder / METRICS_FILE)[-1])}


def _divergence(agent: "SessionAgent", figures: Mapping[str, float]) -> dict[str, Any]:
    """Return the divergence from the initial policy and whether it ended the training; nothing without a limit."""
    from recpolicy.agents.divergence_limit import REFERENCE_KL

    value = figures.get(REFERENCE_KL, figures.get(f"update/{REFERENCE_KL}"))
    return {} if value is None else {REFERENCE_KL: value, "stopped_at_limit": agent.learner.stopped}


def _learn_from_log(plan: SessionPlan, show_progress: bool | None) -> "tuple[SessionAgent, dict[str, Any], Path]":
    """Train on the plan's log; return the agent, the figures of the training and the work folder."""
    from recpolicy.training.offline_sessions import OfflineRunConfig, check_log, learn_from_sessions

    assert plan.sessions is not None
    settings, sight = plan.settings, observation_builder(plan.features, plan.settings, plan.split)
    agent = plan.make(*sight.specs(), sight.view.sequence)
    if (plan.sessions.step == 0).all():
        sight = replace(sight, steps=1)
    run = OfflineRunConfig(
        epochs=settings.epochs, batch_size=settings.batch_size * settings.slate_size,
        log_every_steps=settings.log_every_steps, checkpoint_every_steps=settings.checkpoint_every_steps,
    )  # fmt: skip
    check_log(agent.learner, plan.sessions, sight)
    work = plan.begin()  # after all checks, so that a refused log leaves no unfinished training behind
    figures = learn_from_sessions(
        agent, plan.sessions, sight, run, seed=plan.seed, folder=work, show_progress=show_progress
    )  # fmt: skip
    if plan.log is not plan.sessions:
        del figures["sessions"]
    if isinstance(plan.log, SlateLog):
        figures |= {"mode": "slates", "rows": len(plan.log), "slots": plan.log.slots}
    return agent, {**figures, **_divergence(agent, figures)}, work


def observation_builder(features: Features, settings: SessionTrainConfig, split: Split) -> "ObservationBuilder":
    """Return the builder of the observations of a training, which needs no world."""
    from recpolicy.environments.observation_encoders import OBSERVATION_ENCODERS
    from recpolicy.training.observation_builder import ObservationBuilder

    embedding, genres = features.embeddings.item[features.action_items], genre_directions(split.train.items)
    steps = settings.max_episode_steps * settings.slate_size
    view = OBSERVATION_ENCODERS[settings.view](embedding.shape[1], genres.shape[1], steps, settings.last_n)
    return ObservationBuilder(
        features.context, embedding, genres[features.action_items], features.action_items, view, steps
    )


def _as_sessions(log: BanditLog | SessionLog | SlateLog | None) -> SessionLog | None:
    """Return a log as sessions: each place of a slate is one of one step; None without a log."""
    if isinstance(log, SlateLog):
        return sessions_from_slates(log)
    return sessions_from_rounds(log) if isinstance(log, BanditLog) else log


def _of_slates(agent: str, log: SlateLog, settings: SessionTrainConfig) -> SessionTrainConfig:
    """Return the settings with the slate size of a log; raise ConfigError if they name another, or for other agents."""
    if agent not in LEARN_FROM_SLATES:
        raise ConfigError(f"{agent} does not learn from logs of slates such as {log.name}; {LEARN_FROM_SLATES[0]} does")
    if settings.slate_size not in (1, log.slots):
        raise ConfigError(
            f"{log.name}: slates of {log.slots} items, but train.slate_size is {settings.slate_size}; leave it out"
        )
    return replace(settings, slate_size=log.slots)


def _check_log(agent: str, log: SessionLog, settings: SessionTrainConfig, scale: tuple[float, float]) -> None:
    """Raise ConfigError if the agent cannot learn from the log, or its rewards are not the settings'."""
    from recpolicy.training.offline_sessions import LEARN_FROM_LOGS

    if agent not in LEARN_FROM_LOGS:
        raise ConfigError(
            f"{agent} learns in simulated sessions, not from logged ones; {', '.join(LEARN_FROM_LOGS)} can"
        )
    expected = reward_scale(settings, scale)
    if log.scale != expected:
        raise ConfigError(
            f"{log.name}: rewards in {log.scale[0]:g}..{log.scale[1]:g}, but train.reward is {settings.reward!r}, in"
            f" {expected[0]:g}..{expected[1]:g}; set train.reward to the reward of the log: like, watch or rating"
        )


def reward_scale(settings: SessionTrainConfig, scale: tuple[float, float]) -> tuple[float, float]:
    """Return the lowest and the highest reward of a step; `scale` is that of the ratings.

    Raises:
        ConfigError: The reward is a similarity of embeddings, which no log holds.
    """
    if settings.reward in SIMILARITIES:
        raise ConfigError(
            f"train.reward is {settings.reward!r}, which is no feedback: a log holds like, watch or rating"
        )
    if settings.reward != "rating":
        return 0.0, 1.0
    return (scale[0] if settings.reward_decay == 1 else 0.0), scale[1]


def make_worlds(
    split: Split, settings: SessionTrainConfig, seed: int, like_model: OwnLikeModel | None = None
) -> TwoWorlds:
    """Return the training world and the evaluation world, at the settings' session length."""
    return fit_two_worlds(split, replace(settings.simulator, max_steps=settings.max_episode_steps), seed, like_model)


def session_environment(
    world: SessionWorld, features: Features, settings: SessionTrainConfig, seed: int, batch_size: int | None = None
) -> "SessionEnvironment":
    """Return the environment of a world with the settings of a training; `batch_size` replaces theirs."""
    from recpolicy.environments.session import SessionEnvironment

    config = session_config(settings, batch_size)
    return SessionEnvironment(world, features.context, features.embeddings.item, features.action_items, config, seed)


def slate_environment(
    world: SessionWorld, features: Features, settings: SessionTrainConfig, seed: int, batch_size: int | None = None
) -> "SlateEnvironment":
    """Return the environment of slates of a world with the settings of a training; `batch_size` replaces theirs."""
    from recpolicy.environments.session_slate import SlateEnvironment

    config = slate_config(settings, batch_size)
    return SlateEnvironment(world, features.context, features.embeddings.item, features.action_items, config, seed)


def slate_config(settings: SessionTrainConfig, batch_size: int | None = None) -> "SlateConfig":
    """Return the settings of an environment of slates; `batch_size` replaces that of the training."""
    from recpolicy.environments.session_slate import SlateConfig

    shared = vars(session_config(settings, batch_size))
    return SlateConfig(
        **shared, slate_size=settings.slate_size, continuation_probability=settings.continuation_probability
    )


def session_config(settings: SessionTrainConfig, batch_size: int | None = None) -> "SessionConfig":
    """Return the environment's settings; `batch_size` replaces that of the training."""
    from recpolicy.environments.session import SessionConfig

    return SessionConfig(
        batch_size=settings.batch_size if batch_size is None else batch_size, reward=settings.reward,
        reward_decay=settings.reward_decay, view=settings.view, last_n=settings.last_n,
        max_episode_steps=settings.max_episode_steps,
    )  # fmt: skip


def with_view(exported: "ExportedPolicy", settings: SessionTrainConfig, split: Split) -> "ExportedPolicy":
    """Return the exported policy with the arrays by which the predictor builds the policy's observations."""
    view = {
        "view": np.array(settings.view), "steps": np.array(settings.max_episode_steps * settings.slate_size),
        "last_n": np.array(settings.last_n), "genres": genre_directions(split.train.items),
    }  # fmt: skip
    return replace(exported, arrays={**exported.arrays, **view})
