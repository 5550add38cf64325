"""Settings of a training in sessions, and what is made from them: worlds, environments, views of the session."""

from dataclasses import field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from recpolicy.core.config import Count, CountOrZero, PositiveFraction, Size, config_dataclass
from recpolicy.core.errors import ConfigError
from recpolicy.data.ratings import genre_directions
from recpolicy.data.splits import Split
from recpolicy.models.own_like_model import OwnLikeModel
from recpolicy.models.session_world import SIMILARITIES, SessionWorld
from recpolicy.models.session_worlds import TwoWorlds, fit_two_worlds
from recpolicy.models.user_model import SessionWorldConfig
from recpolicy.workflows.training_data import FeatureConfig, Features

if TYPE_CHECKING:
    from recpolicy.agents.learner import ExportedPolicy
    from recpolicy.environments.session import SessionConfig, SessionEnvironment
    from recpolicy.environments.session_slate import SlateConfig, SlateEnvironment
    from recpolicy.training.observation_builder import ObservationBuilder


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
