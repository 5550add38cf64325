"""Check the settings of a session training and fit its features, before its first step."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recpolicy.core.errors import ConfigError
from recpolicy.core.optional_deps import require_extra
from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.data.bandit_log import BanditLog
from recpolicy.data.session_log import SessionLog
from recpolicy.data.slate_log import SlateLog
from recpolicy.data.slate_sessions import sessions_from_rounds, sessions_from_slates
from recpolicy.data.splits import Split
from recpolicy.inference.predictor import Policy, load_policy
from recpolicy.models.own_like_model import LikeFunction, OwnLikeModel, read_like_model
from recpolicy.models.rating_model import RatingModel
from recpolicy.models.session_world import SessionWorld
from recpolicy.models.session_worlds import TwoWorlds
from recpolicy.workflows.artifacts import (
    build_metadata,
    make_artifact,
    open_work_folder,
    training_events,
    write_artifact,
)
from recpolicy.workflows.initial_policy import InitialPolicy, check_limits, read_initial_policy
from recpolicy.workflows.session_settings import (
    SessionTrainConfig,
    make_worlds,
    reward_scale,
    session_config,
    session_environment,
    slate_environment,
    with_view,
)
from recpolicy.workflows.training_data import Features, coerce, item_attributes, prepare_features

if TYPE_CHECKING:
    from recpolicy.agents.sequence import SessionAgent
    from recpolicy.models.sequence_layout import SequenceLayout
    from recpolicy.training.session_trainer import SessionRun, SessionRunConfig

LIKE_MODEL = "like_model"
"""Key in the metadata: name and digest of the own like model of the training world."""
LEARN_FROM_SLATES = ("topk_reinforce",)
"""Agents that can learn from slates (`learns_from_slates`)."""


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
