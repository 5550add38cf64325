"""Train a session agent: features, simulated sessions or a log of sessions, the compiled loop, the artifact.

U users, I items, A items of the catalog, D features.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recpolicy.core.errors import ConfigError
from recpolicy.core.metrics import read_csv
from recpolicy.data.bandit_log import BanditLog
from recpolicy.data.session_log import SessionLog
from recpolicy.data.slate_log import SlateLog
from recpolicy.data.splits import Split
from recpolicy.inference.predictor import Policy
from recpolicy.models.own_like_model import LikeFunction
from recpolicy.models.rating_model import RatingModel
from recpolicy.models.session_world import SIMILARITIES, SessionWorld
from recpolicy.models.session_worlds import TwoWorlds
from recpolicy.workflows.artifacts import check_absent
from recpolicy.workflows.initial_policy import InitialPolicy
from recpolicy.workflows.session_plan import SessionPlan, plan_training
from recpolicy.workflows.session_settings import SessionTrainConfig, observation_builder

if TYPE_CHECKING:
    from recpolicy.agents.sequence import SessionAgent
    from recpolicy.training.session_trainer import SessionRun

CIRCULAR = "circular: similarity of the embeddings"
"""Rewards of a training in the metadata, where `reward` is one of SIMILARITIES."""


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
