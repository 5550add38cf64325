"""Train an agent on a split: rating model, embeddings, a world to play in, the online or offline loop, the artifact."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import NonNegativeInt, PositiveInt

from recpolicy.core.config import Fraction, config_dataclass
from recpolicy.core.errors import ConfigError
from recpolicy.core.optional_deps import require_extra
from recpolicy.core.seeds import integer_seed
from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.data.bandit_log import BanditLog
from recpolicy.data.ratings import Ratings
from recpolicy.data.session_log import SessionLog
from recpolicy.data.splits import Split
from recpolicy.evaluation.policy_scores import baseline_tables, regret_by_user
from recpolicy.inference.predictor import Policy, load_policy
from recpolicy.models.rating_model import RatingModel
from recpolicy.models.rating_models import fit_rating_model
from recpolicy.models.world import World, world_of
from recpolicy.workflows.artifacts import (
    artifact_of,
    build_metadata,
    learned_from,
    refuse_existing,
    work_folder,
    write_artifact,
)
from recpolicy.workflows.training_features import FeatureConfig, Features, prepare, settings_of

if TYPE_CHECKING:
    from recpolicy.agents.learner import BanditAgent
    from recpolicy.environments.item_bandit import ItemBandit
    from recpolicy.workflows.train_sessions import SessionTrainConfig


@config_dataclass
class TrainConfig(FeatureConfig):
    """What a training is made of, besides the agent's own settings."""

    mode: Literal["online", "offline", "log"] = "online"
    """`online`: play rounds in a simulated world; `offline`: learn from the training ratings as they are; `log`:
    learn from logged rounds."""
    total_timesteps: PositiveInt = 200_000
    """Interactions in all, in the online mode."""
    batch_size: PositiveInt = 64
    """Users served at once; the agent learns after each batch."""
    epochs: PositiveInt = 1
    """Passes over the training ratings, or the log, in the offline and log modes."""
    world: str = "svd"
    """The model that pays rewards online; of another class than `rating_model`, fitted on the same train part."""
    drift_period: NonNegativeInt = 0
    """Rounds in which the world's preferences drift away and back; 0 keeps them still."""
    uniform_mix: Fraction = 0.0
    """Share of uniform actions mixed into the exploring policy, so that every arm has a positive propensity."""
    log_rows: PositiveInt = 100
    """Rows of training metrics."""
    checkpoint_every_steps: PositiveInt = 20_000
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
    source: Mapping[str, Any] | None = None,
    log: BanditLog | SessionLog | None = None,
    seed: int = 0,
    show_progress: bool | None = None,
) -> Policy:
    """Train the named agent on the train part of `split` and write the policy artifact to the folder `out`.

    In the mode `log` it learns from the rounds of `log` (`interaction_logs.read_rounds`); topk_reinforce and dqn learn
    from logged sessions, wherever such a log is given (`session_logs.read_log`). config and agent_config
    are dataclasses or mappings of settings (TrainConfig, for agents of sessions such as ppo a SessionTrainConfig; the
    agent's own). A rating model already fitted on the same train part may be handed in; `source` (the arguments of
    load_ratings) is noted in the artifact, so that `recpolicy evaluate` can read the ratings again. A
    training that was killed is taken up where its last checkpoint left it by the same call. Raises ConfigError for
    unknown names and settings out of range, ArtifactError when `out` exists or holds an unfinished training with other
    settings.
    """
    require_extra("train", "training")
    silence_libraries()  # before TF-Agents is imported: gym prints its notice then
    from recpolicy.agents.agent_table import SESSION_AGENTS, agent_entry

    entry = agent_entry(agent)
    if agent in SESSION_AGENTS:
        if isinstance(log, BanditLog):
            raise _other_log(agent, True, log)
        from recpolicy.workflows.train_sessions import train_sessions

        return train_sessions(
            agent, split, out, config=config, agent_config=agent_config, model=model, model_config=model_config,
            source=source, log=log, seed=seed, show_progress=show_progress,
        )  # fmt: skip
    if isinstance(log, SessionLog):
        raise _other_log(agent, False, log)
    settings = settings_of(TrainConfig, config, "train")
    agent_settings = settings_of(entry.config, agent_config, agent)
    if (log is not None) != (settings.mode == "log"):
        raise ConfigError(f"train: mode is {settings.mode!r}; a log goes with the mode 'log', and that needs a log")
    out = Path(out)
    refuse_existing(out)
    features = prepare(split.train, settings, model=model, model_config=model_config, seed=seed)
    metadata = {
        "source": None if source is None else dict(source),
        **build_metadata(split, settings, agent_settings, features.model, seed),
    }
    if log is not None:
        metadata |= learned_from(log)
    world = training_world(split.train, settings, seed)
    environment = make_environment(world, features, settings, seed)
    learner = _make_agent(entry, environment, agent_settings, features, split.train, seed)
    learner.uniform_mix = settings.uniform_mix
    if log is not None:
        from recpolicy.training.offline import logged_actions

        logged_actions(learner, log, features.context, features.catalogue)  # to refuse what it refuses
    # Last, so that settings refused above leave no unfinished training behind.
    work = work_folder(out, {"agent": agent, **metadata})
    figures = _learn(learner, environment, split.train, log, features, settings, work, seed, show_progress)
    if settings.mode == "online":
        figures["baseline_regret"] = baseline_regret(world, split.train, features)
    artifact = artifact_of(
        agent,
        learner.learner.export(),
        split.train,
        features,
        {**metadata, "training": figures},
        settings.uniform_mix,
    )
    write_artifact(artifact, learner, features.context.shape[1], work, out)
    return load_policy(out)


def _other_log(agent: str, of_sessions: bool, log: BanditLog | SessionLog) -> ConfigError:
    """Why an agent, of sessions or of single rounds, does not learn from a log of the other kind."""
    if of_sessions:
        return ConfigError(
            f"{agent} learns in simulated sessions, not from logged rounds such as {log.name}; topk_reinforce and dqn"
            " also learn from logged sessions (recpolicy log simulate --sessions)"
        )
    return ConfigError(
        f"{agent} learns from single rounds (recpolicy log ingest), not from sessions such as {log.name}; of the agents"
        " of sessions topk_reinforce and dqn learn from those"
    )


def make_environment(world: World, features: Features, settings: TrainConfig, seed: int) -> "ItemBandit":
    """The environment to train in."""
    from recpolicy.environments.item_bandit import ItemBandit, ItemBanditConfig

    config = ItemBanditConfig(batch_size=settings.batch_size, drift_period=settings.drift_period)
    return ItemBandit(world, features.context, features.catalogue, config, seed)


def training_world(fit: Ratings, settings: TrainConfig, seed: int) -> World:
    """The world that pays while training: another model class than the features', on the train part, another seed."""
    if settings.world == settings.rating_model:
        raise ConfigError(f"world and rating_model are both {settings.world!r}; the world must be of another class")
    return world_of(fit_rating_model(fit, settings.world, seed=integer_seed(seed, "world")))


def baseline_regret(world: World, fit: Ratings, features: Features) -> dict[str, float]:
    """Regret per interaction of each baseline in the training world, among the catalogue, without drift; enumerated."""
    expected = world.expected[:, features.catalogue]
    return {
        name: float(regret_by_user(expected, table.score[:, features.catalogue]).mean())
        for name, table in baseline_tables(fit, features.model).items()
    }


def _make_agent(
    entry: Any, environment: "ItemBandit", config: Any, features: Features, fit: Ratings, seed: int
) -> "BanditAgent":
    from recpolicy.agents.item_features import arms_of

    arms = arms_of(features.catalogue, features.embeddings, fit)
    made: BanditAgent = entry.make(environment.time_step_spec(), environment.action_spec(), config, arms, seed)
    return made


def _learn(
    agent: "BanditAgent", environment: "ItemBandit", fit: Ratings, log: BanditLog | None, features: Features,
    settings: TrainConfig, work: Path, seed: int, show_progress: bool | None,
) -> dict[str, Any]:  # fmt: skip
    if log is not None:
        from recpolicy.training.offline import learn_from_log

        return learn_from_log(agent, log, features.context, features.catalogue, epochs=settings.epochs, seed=seed)
    if settings.mode == "offline":
        from recpolicy.training.offline import learn_offline

        arm = np.full(fit.shape[1], -1, np.int32)
        arm[features.catalogue] = np.arange(len(features.catalogue), dtype=np.int32)
        known = arm[fit.item] >= 0
        context, action = features.context[fit.user[known]], arm[fit.item[known]]
        losses = learn_offline(agent, context, action, fit.rating[known], epochs=settings.epochs, seed=seed)
        return {"mode": "offline", "rows": int(known.sum()), "epochs": settings.epochs, "last_loss": float(losses[-1])}
    from recpolicy.training.trainer import OnlineConfig, train_online

    online = OnlineConfig(
        total_timesteps=settings.total_timesteps,
        log_rows=settings.log_rows,
        checkpoint_every_steps=settings.checkpoint_every_steps,
    )
    pulls = train_online(environment, agent, online, work, show_progress)
    return {"mode": "online", "total_timesteps": int(pulls.sum()), "pulls": pulls.tolist()}
