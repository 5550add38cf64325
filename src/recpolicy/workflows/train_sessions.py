"""Train an agent of sessions on a split: features, the compiled loop in world A or a log of sessions, the artifact."""

from collections.abc import Callable, Mapping
from dataclasses import field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import PositiveInt

from recpolicy.core.config import PositiveFraction, config_dataclass
from recpolicy.core.errors import ConfigError
from recpolicy.core.optional_deps import require_extra
from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.data.ratings import genre_directions
from recpolicy.data.session_log import SessionLog
from recpolicy.data.splits import Split
from recpolicy.inference.predictor import Policy, load_policy
from recpolicy.models.rating_model import RatingModel
from recpolicy.models.session_world import SessionWorld
from recpolicy.models.session_worlds import TwoWorlds, two_worlds
from recpolicy.models.user_model import SessionWorldConfig
from recpolicy.workflows.artifacts import artifact_of, build_metadata, refuse_existing, work_folder, write_artifact
from recpolicy.workflows.training_features import FeatureConfig, Features, prepare, settings_of

if TYPE_CHECKING:
    from recpolicy.agents.learner import ExportedPolicy
    from recpolicy.agents.sequence import SequenceAgent
    from recpolicy.environments.session import SessionConfig, SessionEnvironment


@config_dataclass
class SessionTrainConfig(FeatureConfig):
    """What a training in sessions is made of, besides the agent's own settings."""

    total_timesteps: PositiveInt = 300_000
    """Items shown in all."""
    batch_size: PositiveInt = 64
    """Sessions that run side by side."""
    reward: Literal["like", "watch", "rating"] = "like"
    """What a shown item earns: 1 for a like; the watch fraction; the rating."""
    reward_decay: PositiveFraction = 1.0
    """Factor on the reward for each item shown before, in (0, 1]."""
    view: Literal["interest", "last_item", "last_n"] = "interest"
    """What the policy sees of the session: interest, last_item or last_n."""
    last_n: PositiveInt = 5
    """Items that the view last_n remembers."""
    max_episode_steps: PositiveInt = 20
    """Items after which a session is cut."""
    simulator: SessionWorldConfig = field(default_factory=SessionWorldConfig)
    """Settings of the simulated worlds."""
    log_rows: PositiveInt = 50
    """Rows of training metrics."""
    checkpoint_every_steps: PositiveInt = 50_000
    """Items shown between checkpoints, or learnt from in a log."""
    epochs: PositiveInt = 1
    """Passes over the log, where one is learnt from; nothing is played then, and `batch_size` sessions make a block."""


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
    source: Mapping[str, Any] | None = None,
    log: SessionLog | None = None,
    seed: int = 0,
    show_progress: bool | None = None,
) -> Policy:
    """Train the named agent in simulated sessions of world A and write the policy artifact to the folder `out`.

    As `train.train`, for the agents in SESSION_AGENTS; config is a SessionTrainConfig or a mapping of its
    settings; `worlds` may be handed in when they are made already. With a `log`, topk_reinforce and dqn learn from its
    sessions in place of playing. Raises, besides what `train` does, DivergedError when the training ends in numbers
    that are not finite.
    """
    require_extra("train", "training")
    silence_libraries()  # before TF-Agents is imported: gym prints its notice then
    from recpolicy.agents.agent_table import SESSION_AGENTS, agent_entry
    from recpolicy.agents.item_features import arms_of
    from recpolicy.agents.observation import context_width

    entry = agent_entry(agent)
    if agent not in SESSION_AGENTS:
        raise ConfigError(f"{agent} learns in single rounds: train it with recpolicy.workflows.train.train")
    settings = settings_of(SessionTrainConfig, config, "train")
    agent_settings = settings_of(entry.config, agent_config, agent)
    session_config(settings)  # refuses what it must before anything is fitted
    if log is not None:
        _refuse_log(agent, log, settings, split.train.scale)
    out = Path(out)
    refuse_existing(out)
    features = prepare(split.train, settings, model=model, model_config=model_config, seed=seed)
    metadata = {
        "source": None if source is None else dict(source),
        **build_metadata(split, settings, agent_settings, features.model, seed),
    }
    if log is not None:
        metadata["log"] = log.digest
    make = partial(
        entry.make, config=agent_settings, arms=arms_of(features.catalogue, features.embeddings, split.train), seed=seed
    )
    begin = partial(work_folder, out, {"agent": agent, **metadata})
    if log is None:
        world = (worlds or worlds_of(split, settings, seed)).train
        learner, training, work = _play(make, features, settings, world, begin, seed, show_progress)
    else:
        learner, training, work = _learn_from_log(make, features, settings, split, log, begin, seed, show_progress)
    exported = with_view(learner.learner.export(), settings, split)
    artifact = artifact_of(agent, exported, split.train, features, {**metadata, "training": training})
    width = context_width(learner.time_step_spec)
    write_artifact(artifact, learner, width, work, out)
    return load_policy(out)


def _play(
    make: "Callable[..., SequenceAgent]", features: Features, settings: SessionTrainConfig, world: SessionWorld,
    begin: Callable[[], Path], seed: int, show_progress: bool | None,
) -> "tuple[SequenceAgent, dict[str, Any], Path]":  # fmt: skip
    """An agent that learnt in a world, the figures of its training, and the work folder that `begin` gave."""
    from recpolicy.training.session_trainer import SessionRunConfig, train_in_sessions

    environment = session_environment(world, features, settings, seed)
    agent = make(environment.time_step_spec(), environment.action_spec())
    run = SessionRunConfig(
        total_timesteps=settings.total_timesteps,
        log_rows=settings.log_rows,
        checkpoint_every_steps=settings.checkpoint_every_steps,
    )
    work = begin()  # last, so that settings refused above leave no unfinished training behind
    shown = train_in_sessions(environment, agent, run, work, show_progress)
    return agent, {"mode": "sessions", "total_timesteps": shown, "world": world.name}, work


def _learn_from_log(
    make: "Callable[..., SequenceAgent]", features: Features, settings: SessionTrainConfig, split: Split,
    log: SessionLog, begin: Callable[[], Path], seed: int, show_progress: bool | None,
) -> "tuple[SequenceAgent, dict[str, Any], Path]":  # fmt: skip
    """An agent that learnt from the log, the figures of its training, and the work folder that `begin` gave."""
    from recpolicy.environments.observation_encoders import VIEWS
    from recpolicy.training.observation_builder import Sight
    from recpolicy.training.offline_sessions import OfflineRunConfig, check_log, learn_from_sessions

    embedding, genres = features.embeddings.item[features.catalogue], genre_directions(split.train.items)
    steps = settings.max_episode_steps
    view = VIEWS[settings.view](embedding.shape[1], genres.shape[1], steps, settings.last_n)
    sight = Sight(features.context, embedding, genres[features.catalogue], features.catalogue, view, steps)
    agent = make(*sight.specs())
    run = OfflineRunConfig(
        epochs=settings.epochs, batch_size=settings.batch_size, checkpoint_every_steps=settings.checkpoint_every_steps
    )
    check_log(agent.learner, log, sight)
    work = begin()  # last, so that a log refused above leaves no unfinished training behind
    figures = learn_from_sessions(agent, log, sight, run, seed=seed, folder=work, show_progress=show_progress)
    return agent, figures, work


def _refuse_log(agent: str, log: SessionLog, settings: SessionTrainConfig, scale: tuple[float, float]) -> None:
    """Raise ConfigError for an agent that cannot learn from logs, and for rewards other than the settings'."""
    from recpolicy.training.offline_sessions import LEARN_FROM_LOGS

    if agent not in LEARN_FROM_LOGS:
        raise ConfigError(
            f"{agent} learns in simulated sessions, not from logged ones; {' and '.join(LEARN_FROM_LOGS)} can"
        )
    expected = reward_scale(settings, scale)
    if log.scale != expected:
        raise ConfigError(
            f"{log.name}: rewards in {log.scale[0]:g}..{log.scale[1]:g}, but train.reward is {settings.reward!r}, in"
            f" {expected[0]:g}..{expected[1]:g}; say by train.reward what the log paid: like, watch or rating"
        )


def reward_scale(settings: SessionTrainConfig, scale: tuple[float, float]) -> tuple[float, float]:
    """The lowest and the highest reward of a step; `scale` is that of the ratings."""
    if settings.reward != "rating":
        return 0.0, 1.0
    return (scale[0] if settings.reward_decay == 1 else 0.0), scale[1]


def worlds_of(split: Split, settings: SessionTrainConfig, seed: int) -> TwoWorlds:
    """The worlds to train and to be judged in, at the settings' session length."""
    return two_worlds(split, replace(settings.simulator, max_steps=settings.max_episode_steps), seed)


def session_environment(
    world: SessionWorld, features: Features, settings: SessionTrainConfig, seed: int, batch_size: int | None = None
) -> "SessionEnvironment":
    """The environment of a world, as the settings want it."""
    from recpolicy.environments.session import SessionEnvironment

    config = session_config(settings, batch_size)
    return SessionEnvironment(world, features.context, features.embeddings.item, features.catalogue, config, seed)


def session_config(settings: SessionTrainConfig, batch_size: int | None = None) -> "SessionConfig":
    """The environment's settings; `batch_size` in place of the settings' own."""
    from recpolicy.environments.session import SessionConfig

    return SessionConfig(
        batch_size=settings.batch_size if batch_size is None else batch_size, reward=settings.reward,
        reward_decay=settings.reward_decay, view=settings.view, last_n=settings.last_n,
        max_episode_steps=settings.max_episode_steps,
    )  # fmt: skip


def with_view(exported: "ExportedPolicy", settings: SessionTrainConfig, split: Split) -> "ExportedPolicy":
    """The exported policy with what the predictor needs to see a session as the policy did."""
    view = {
        "view": np.array(settings.view), "steps": np.array(settings.max_episode_steps),
        "last_n": np.array(settings.last_n), "genres": genre_directions(split.train.items),
    }  # fmt: skip
    return replace(exported, arrays={**exported.arrays, **view})
