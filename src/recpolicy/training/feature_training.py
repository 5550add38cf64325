"""Train a feature policy from a log of rounds with features: importance weights, encoder, reward model, head.

N rounds. Rounds are weighted by 1 / propensity, clipped and normalized to mean 1, so that actions which the logging
policy rarely showed count as much as others. Foster & Rakhlin 2020 (2002.04926) call it importance-weighted regression.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.types import Array
from recpolicy.data.feature_log import FeatureLog
from recpolicy.data.features.encoder import FeatureEncoder
from recpolicy.data.features.schema import ACTION_ID, FeatureSchema
from recpolicy.data.learned_events import log_events, merge
from recpolicy.data.reward_scale import reward_std
from recpolicy.data.reward_signals import summarize_rewards
from recpolicy.inference.artifact import REAL_REWARDS
from recpolicy.inference.feature_policy import FeaturePolicy, ImportanceWeights, chosen_pairs
from recpolicy.models.feature_agent_configs import FeatureNetworkConfig, FeatureTrainConfig
from recpolicy.models.network_reward import EncodedModel, NetworkModel, count_layers
from recpolicy.training.divergence import check_arrays
from recpolicy.training.feature_agents import TrainingRows, feature_agent

logger = logging.getLogger(__name__)


def fit_encoder(schema: FeatureSchema, log: FeatureLog) -> FeatureEncoder:
    """Return the encoder of a schema, fitted on the rounds and the distinct actions of a log.

    Raises:
        DataError: The log lacks a feature of the schema, or has a value of another type.
    """
    return FeatureEncoder.fit(schema, log.context, {**log.actions, ACTION_ID: log.action_id})


def learn_feature_policy(
    log: FeatureLog,
    schema: FeatureSchema,
    agent: str,
    agent_config: Any,
    config: FeatureTrainConfig,
    *,
    normalize: bool = False,
    seed: int = 0,
    initial: FeaturePolicy | None = None,
) -> FeaturePolicy:
    """Return a policy that learned from the rewarded rounds of a log.

    Args:
        log: Logged rounds; those without a reward are left out.
        schema: The features that the policy sees.
        agent: A name in FEATURE_AGENTS.
        agent_config: The agent's config.
        config: Settings of the training.
        normalize: Divide rewards by their standard deviation while learning.
        seed: Seed of initial weights and of the order of rounds.
        initial: A policy to start from (`initial_layers`), whose encoder stays; None starts from random weights.

    Raises:
        ConfigError: No such agent, the model is too large, or it is no network that can start from `initial`.
        DataError: The log has no rewards, lacks a feature or has a value of another type.
        DivergedError: A number of the training is not finite or absurdly large.
    """
    entry = feature_agent(agent)
    rewarded = np.flatnonzero(log.has_reward)
    if not len(rewarded):
        raise DataError(f"{log.name}: no round has a reward; join rewards first, or set default_reward in [reward]")
    log = log if len(rewarded) == len(log) else log.select(rewarded, log.name)
    summary = summarize_rewards(log.reward, log.reward_range)
    for warning in summary.warnings():
        logger.warning("%s: %s", log.name, warning)

    importance = ImportanceWeights(config.max_weight, 1.0)
    importance = replace(importance, mean=float(importance.weight(log).mean()))
    std = reward_std(log.reward) if normalize else 1.0
    encoder = fit_encoder(schema, log) if initial is None else initial.encoder
    rows = TrainingRows(
        pairs=chosen_pairs(encoder, entry.sparse(agent_config), log),
        reward=log.reward / std,
        weight=importance.weight(log),
        encoder=encoder,
        reward_range=None if log.reward_range is None else (log.reward_range[0] / std, log.reward_range[1] / std),
        reward_std=std,
        config=config,
        seed=seed,
        name=log.name,
        initial=None if initial is None else initial_layers(initial, agent, agent_config, schema, std),
    )
    model = entry.learn(rows, agent_config)
    error = np.square(rows.reward - model.estimate(rows.pairs, widths=False).mean)
    loss = float(np.average(error, weights=rows.weight)) * std**2
    check_arrays(model.arrays, loss, log.reward, log.name)
    figures = {
        "mode": "log",
        "rewards": REAL_REWARDS,
        "rows": len(log),
        "last_loss": loss,
        "share_clipped": float((np.exp(-log.log_propensity) > config.max_weight).mean()),
        **summary.as_dict(),
    }
    return FeaturePolicy(
        encoder=encoder,
        model=model,
        agent=agent,
        head=entry.head,
        settings=entry.settings(agent_config, rows),
        uniform_mix=config.uniform_mix,
        reward_range=log.reward_range,
        reward_std=std,
        importance=importance,
        metadata={"training": figures},
        learned_events=log_events(log) if initial is None else merge(initial.learned_events, log_events(log)),
    )


def initial_layers(
    initial: FeaturePolicy, agent: str, agent_config: Any, schema: FeatureSchema, reward_std: float
) -> Mapping[str, Array]:
    """Return the layers of a policy from which an agent's network starts.

    Agents whose network gives rewards can start from each other's policies, neural_linucb from its own.

    Args:
        initial: The policy.
        agent: The agent to train.
        agent_config: Its config.
        schema: Its features.
        reward_std: The unit in which it learns rewards.

    Raises:
        ConfigError: The agent or the policy has no such network, or the features are others.
    """
    if not isinstance(agent_config, FeatureNetworkConfig) or getattr(agent_config, "model", "neural") != "neural":
        raise ConfigError(
            f"{agent} trains no network; eps_greedy, boltzmann, neural_linucb and squarecb (model neural) can start"
            " from a policy"
        )
    model = initial.model
    if not isinstance(model, NetworkModel | EncodedModel) or (agent == "neural_linucb") != isinstance(
        model, EncodedModel
    ):
        able = "neural_linucb" if isinstance(model, EncodedModel) else "eps_greedy, boltzmann and squarecb (neural)"
        able = able if isinstance(model, NetworkModel | EncodedModel) else "no agent"
        raise ConfigError(f"a policy of {initial.agent} ({model.name} model), from which {able} can start, not {agent}")
    if schema.as_dict() != initial.encoder.schema.as_dict():
        raise ConfigError("another schema of features; train with the schema of the policy")
    if isinstance(model, EncodedModel):
        return model.layers
    last, scale = count_layers(model.arrays) - 1, initial.reward_std / reward_std
    changed = {f"{name}_{last}": model.arrays[f"{name}_{last}"] * scale for name in ("kernel", "bias")}
    return {**model.arrays, **changed}
