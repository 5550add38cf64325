"""Train an agent of single rounds: features, a simulated world, the agent, the training loop, the artifact.

U users, I items, A items of the catalog, D features. Everything is fitted on the train part of the split. The
training world and the features come from two different rating models.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from recpolicy.core.config import Count, CountOrZero, Fraction, Size, config_dataclass
from recpolicy.core.errors import ConfigError
from recpolicy.core.optional_deps import require_extra
from recpolicy.core.seeds import integer_seed
from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.data.bandit_log import BanditLog
from recpolicy.data.ratings import Ratings
from recpolicy.data.reward_signals import RewardSummary, summarize_rewards
from recpolicy.data.session_log import SessionLog
from recpolicy.data.slate_log import SlateLog
from recpolicy.data.splits import Split
from recpolicy.evaluation.policy_scores import baseline_tables, regret_by_user
from recpolicy.inference.predictor import Policy, load_policy
from recpolicy.models.own_like_model import LikeFunction
from recpolicy.models.rating_model import RatingModel
from recpolicy.models.rating_models import fit_rating_model
from recpolicy.models.user_posterior import RatedItems
from recpolicy.models.world import World, world_from_model
from recpolicy.workflows.artifacts import (
    build_metadata,
    check_absent,
    make_artifact,
    open_work_folder,
    training_events,
    write_artifact,
)
from recpolicy.workflows.initial_policy import check_limits, read_initial_policy, refuse_limits
from recpolicy.workflows.training_data import (
    FeatureConfig,
    Features,
    coerce,
    item_attributes,
    prepare_features,
    with_user_posteriors,
)

if TYPE_CHECKING:
    from recpolicy.agents.learner import BanditAgent
    from recpolicy.environments.item_bandit import ItemBandit
    from recpolicy.workflows.session_settings import SessionTrainConfig

logger = logging.getLogger(__name__)

TRAIN_PART = "train part"
"""Value of `rewards` in the metadata of a training on the ratings that the rating model has seen."""


@config_dataclass
class TrainConfig(FeatureConfig):
    """Settings of a training in single rounds; the agent's own settings are separate."""

    mode: Literal["online", "offline", "log"] = "online"
    """`online`: act in a simulated world; `offline`: learn from the training ratings; `log`: learn from logged
    rounds."""
    total_timesteps: Count = 200_000
    """Interactions in all, in the online mode."""
    batch_size: Size = 64
    """Users per batch; the agent learns after each batch."""
    epochs: Count = 1
    """Passes over the training ratings, or the log, in the offline and log modes."""
    world: str = "svd"
    """The rating model behind the rewards of the online mode; of another class than `rating_model`."""
    drift_period: CountOrZero = 0
    """Rounds in which the world's preferences drift away and back; 0 disables the drift."""
    uniform_mix: Fraction = 0.0
    """Fraction of uniform actions in the exploring policy; above 0, every item has a positive propensity."""
    log_rows: Count = 100
    """Rows of training metrics."""
    log_every_steps: CountOrZero = 0
    """Interactions between lines of progress on stdout where there is no terminal, in the online mode; 0 prints a line
    on stderr every ten seconds."""
    checkpoint_every_steps: Count = 20_000
    """Interactions between checkpoints, rounded up to whole rows of metrics."""


def train(
    agent: str,
    split: Split,
    out: str | Path,
    *,
    config: "TrainConfig | SessionTrainConfig | Mapping[str, Any] | None" = None,
    agent_config: Any = None,
    model: RatingModel | None = None,
    model_config: Any = None,
    log: BanditLog | SessionLog | SlateLog | None = None,
    init_from: str | Path | None = None,
    like_model: "str | Path | LikeFunction | None" = None,
    seed: int = 0,
    show_progress: bool | None = None,
) -> Policy:
    """Train an agent on the train part of `split` and write the policy artifact to the folder `out`.

    The same call continues a training that was interrupted, from its last checkpoint.

    Args:
        agent: A name in AGENTS or SESSION_AGENTS of recpolicy.agents.
        split: The ratings; only `split.train` is read.
        out: The folder to write; it must not exist.
        config: A TrainConfig or its settings; for session agents, such as ppo, a SessionTrainConfig.
        agent_config: The agent's config or its settings.
        model: A rating model that was fitted on `split.train`; without it, one is fitted or read from the cache.
        model_config: Settings of the rating model, if it is fitted here.
        log: Logged rounds to learn from, for the mode "log"; logged sessions for session agents that learn from logs,
            or logged slates for topk_reinforce.
        init_from: Folder of a policy whose networks the agent starts with, or of a registry: then its champion.
            Settings of features, view and network that are not given come from that policy.
        like_model: For session agents: your own P(like), which replaces the fitted model of the worlds.
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
        DivergedError: A number of the training is not finite or absurdly large; the last good checkpoint stays.
    """
    require_extra("train", "training")
    check_absent(Path(out))
    refuse_limits(agent, agent_config)
    initial = None
    if init_from is not None:  # before TensorFlow is imported
        initial = read_initial_policy(
            init_from, agent, split, config=config, agent_config=agent_config, model_config=model_config, seed=seed
        )
        config, agent_config, model_config = initial.train, initial.agent, initial.rating_model
    silence_libraries()  # before TF-Agents is imported: gym prints its notice then
    from recpolicy.agents import SESSION_AGENTS, agent_entry

    rewards = summarized_rewards(split, log)
    if agent in SESSION_AGENTS:
        from recpolicy.workflows.session_training import train_sessions

        options: dict[str, Any] = {"config": config, "agent_config": agent_config, "model": model}
        options |= {"model_config": model_config, "log": log, "init_from": initial, "like_model": like_model}
        return train_sessions(agent, split, out, **options, seed=seed, show_progress=show_progress)
    if like_model is not None:
        raise ConfigError(f"{agent} learns in single rounds, whose world has no like model; session agents take one")
    settings, agent_settings = (
        coerce(TrainConfig, config, "train"),
        coerce(agent_entry(agent).config, agent_config, agent),
    )
    out = Path(out)
    check_limits(agent, agent_settings, initial)
    _check_mode(agent, settings, log)

    features = prepare_features(split.train, settings, model=model, model_config=model_config, seed=seed)
    if initial is not None:
        initial.check_features(features)
    if agent_entry(agent).user_posteriors:
        features = with_user_posteriors(features, split.train, settings, agent)
    world = training_world(split.train, settings, seed)
    environment = make_environment(world, features, settings, seed)
    bandit = _make_agent(agent, environment, agent_settings, features, split.train, seed)
    bandit.uniform_mix = settings.uniform_mix
    if initial is not None:
        initial.start(bandit, agent_settings)
    if isinstance(log, BanditLog):
        _check_log(bandit, log, features)

    metadata = build_metadata(split, settings, agent_settings, features.model, seed, log)
    if initial is not None:
        metadata |= initial.metadata()
    # After all checks, so that refused settings leave no unfinished training behind.
    work = open_work_folder(out, {"agent": agent, **metadata})
    if isinstance(log, BanditLog):
        training = _learn_from_log(bandit, log, features, settings, seed)
        if _mostly_in(log, split.train):
            training["rewards"] = TRAIN_PART
    elif settings.mode == "offline":
        training = _learn_from_ratings(bandit, split.train, features, settings, seed)
    else:
        training = _learn_online(bandit, environment, settings, work, show_progress)
        training["baseline_regret"] = baseline_regret(world, split.train, features)
    training |= bandit.learner.end_limit()

    events = training_events(log, split.train.source)
    if initial is not None:
        training, events = initial.rewards(training), initial.events(events)
    width = features.context.shape[1]
    summary = {"share_positive": rewards.share_positive, "reward_std": rewards.std}
    exported, metadata = bandit.learner.export(), {**metadata, "state_dim": width}
    metadata |= {"training": {**training, **summary}}
    artifact = make_artifact(
        agent, exported, split.train, features, metadata, settings.uniform_mix, learned_events=events
    )
    write_artifact(artifact, bandit, width, work, out)
    return load_policy(out)


def summarized_rewards(split: Split, log: BanditLog | SessionLog | SlateLog | None) -> RewardSummary:
    """Return the distribution of the rewards that the training is about; log a warning if they are constant or sparse.

    Without a log these are the ratings, from which also the simulated worlds come.
    """
    if log is None:
        name, summary = split.train.name, summarize_rewards(split.train.rating.astype(np.float64), split.train.scale)
    else:
        name, summary = log.name, summarize_rewards(log.reward, log.scale)
    for warning in summary.warnings():
        logger.warning("%s: %s", name, warning)
    return summary


def training_world(train_ratings: Ratings, settings: TrainConfig, seed: int) -> World:
    """Return the world whose rewards [U, I] the agent trains on, fitted on the train part.

    Raises:
        ConfigError: The world and the features come from the same class of rating model.
    """
    if settings.world == settings.rating_model:
        raise ConfigError(f"world and rating_model are both {settings.world!r}; the world must be of another class")
    return world_from_model(fit_rating_model(train_ratings, settings.world, seed=integer_seed(seed, "world")))


def make_environment(world: World, features: Features, settings: TrainConfig, seed: int) -> "ItemBandit":
    """Return the environment to train in."""
    from recpolicy.environments.item_bandit import ItemBandit, ItemBanditConfig
    from recpolicy.environments.user_bandit import UserBandit

    config = ItemBanditConfig(batch_size=settings.batch_size, drift_period=settings.drift_period)
    if features.user_posteriors:
        items = RatedItems.from_embeddings(features.embeddings)
        return UserBandit(world, features.context, items, features.action_items, config, seed)
    return ItemBandit(world, features.context, features.action_items, config, seed)


def baseline_regret(world: World, train_ratings: Ratings, features: Features) -> dict[str, float]:
    """Return each baseline's exact regret per interaction in the training world, in rating units, without drift."""
    expected = world.expected[:, features.action_items]  # [U, A]
    return {
        name: float(regret_by_user(expected, table.score[:, features.action_items]).mean())
        for name, table in baseline_tables(train_ratings, features.model).items()
    }


def _check_mode(agent: str, settings: TrainConfig, log: BanditLog | SessionLog | SlateLog | None) -> None:
    """Raise ConfigError unless the log is one of single rounds and goes with the mode `log`."""
    if isinstance(log, SlateLog):
        raise ConfigError(
            f"{agent} learns from single rounds, not from slates such as {log.name}: ingest them first (recpolicy log"
            " ingest)"
        )
    if isinstance(log, SessionLog):
        raise ConfigError(
            f"{agent} learns from single rounds (recpolicy log ingest), not from sessions such as {log.name}; of the"
            " session agents topk_reinforce, offpolicy_actor_critic, dqn and behavior_cloning learn from those"
        )
    if (log is not None) != (settings.mode == "log"):
        raise ConfigError(f"train: mode is {settings.mode!r}; a log goes with the mode 'log', and that needs a log")


def _make_agent(
    name: str, environment: "ItemBandit", config: Any, features: Features, train_ratings: Ratings, seed: int
) -> "BanditAgent":
    from recpolicy.agents import agent_entry
    from recpolicy.agents.item_features import compute_item_features

    arms = compute_item_features(
        features.action_items, features.embeddings, train_ratings, item_attributes(name, features)
    )
    specs = environment.time_step_spec(), environment.action_spec()
    agent: BanditAgent = agent_entry(name).make(*specs, config, arms, seed)
    return agent


def _check_log(agent: "BanditAgent", log: BanditLog, features: Features) -> None:
    """Raise ConfigError or DataError if the agent cannot learn from the log."""
    from recpolicy.training.offline import logged_actions

    logged_actions(agent, log, features.context, features.action_items)


def _learn_from_log(
    agent: "BanditAgent", log: BanditLog, features: Features, settings: TrainConfig, seed: int
) -> dict[str, Any]:
    """Train on logged rounds; return the figures of the training."""
    from recpolicy.training.offline import learn_from_log

    return learn_from_log(agent, log, features.context, features.action_items, epochs=settings.epochs, seed=seed)


def _mostly_in(log: BanditLog, train_ratings: Ratings) -> bool:
    """Return True if most rounds are ratings of the train part, as for a log that is the table of ratings as well."""
    users, items = train_ratings.shape
    rated = np.zeros((users, items), bool)
    rated[train_ratings.user, train_ratings.item] = True
    known = log.user < users
    return bool(rated[log.user[known], log.item[known]].sum() > len(log) / 2)


def _learn_from_ratings(
    agent: "BanditAgent", train_ratings: Ratings, features: Features, settings: TrainConfig, seed: int
) -> dict[str, Any]:
    """Train on the ratings of items in the catalog; return the figures of the training."""
    from recpolicy.training.offline import learn_offline

    action_index = np.full(train_ratings.shape[1], -1, np.int32)  # [I]
    action_index[features.action_items] = np.arange(len(features.action_items), dtype=np.int32)
    is_action_item = action_index[train_ratings.item] >= 0
    context = features.context[train_ratings.user[is_action_item]]
    action, reward = action_index[train_ratings.item[is_action_item]], train_ratings.rating[is_action_item]
    losses = learn_offline(agent, context, action, reward, epochs=settings.epochs, seed=seed)
    rows = int(is_action_item.sum())
    figures = {"rows": rows, "epochs": settings.epochs, "last_loss": float(losses[-1])}
    return {"mode": "offline", "rewards": TRAIN_PART, **figures}


def _learn_online(
    agent: "BanditAgent", environment: "ItemBandit", settings: TrainConfig, work: Path, show_progress: bool | None
) -> dict[str, Any]:
    """Train in the environment, with metrics and checkpoints in the folder `work`; return the figures."""
    from recpolicy.training.trainer import OnlineConfig, train_online

    config = OnlineConfig(
        total_timesteps=settings.total_timesteps,
        log_rows=settings.log_rows,
        log_every_steps=settings.log_every_steps,
        checkpoint_every_steps=settings.checkpoint_every_steps,
    )
    pulls = train_online(environment, agent, config, work, show_progress)
    return {"mode": "online", "rewards": "simulated", "total_timesteps": int(pulls.sum()), "pulls": pulls.tolist()}
