"""Names of settings in version 1 of a policy artifact, written before 0.1.0, and the current ones."""

from collections.abc import Mapping
from typing import Any

from recpolicy.core.files import rename_keys

_TRAIN = {
    "movies": "items",
    "interactions": "total_timesteps",
    "points": "log_rows",
    "exploration_floor": "uniform_mix",
}
_SIMULATOR = {
    "model": "rating_model", "model_config": "rating_model_config", "keep": "interest_decay",
    "genre_keep": "genre_decay",
}  # fmt: skip
_RATING_MODEL = {"reg_movie": "reg_item", "neighbours": "max_neighbors", "min_neighbours": "min_neighbors"}
_AGENT = {
    "gradient_norm": "max_grad_norm", "value_weight": "vf_coef", "entropy_weight": "ent_coef", "trace": "gae_lambda",
    "clip": "clip_range", "minibatch": "minibatch_size", "standardise": "normalize_advantage", "passes": "n_epochs",
    "cap": "max_weight", "behaviour": "behavior", "low": "min_reward", "high": "max_reward",
}  # fmt: skip
_EXPLORATION = {
    "steps": "train_freq", "epsilon": "exploration_initial_eps", "final_epsilon": "exploration_final_eps",
    "decay": "exploration_decay",
}  # fmt: skip
_OF_ONE_AGENT: Mapping[str, Mapping[str, str]] = {
    "minibatch": {"epochs": "n_epochs", "steps": "n_steps"},
    "trace": {"steps": "n_steps"},
    "encoder_batches": {"features": "encoding_dim"},
    "capacity": _EXPLORATION | {
        "capacity": "buffer_size", "updates": "gradient_steps", "batch": "batch_size", "top_k": "exploration_top_k",
    },
    "columns": _EXPLORATION | {"alpha": "learning_rate", "explore": "exploration", "ucb": "ucb_c"},
}  # fmt: skip
"""Names that mean something else in another agent, by a setting that only this agent has."""
_VALUES = {
    ("weights", "capped"): "clipped", ("weights", "self_normalised"): "self_normalized",
    ("exploration", "epsilon"): "epsilon_greedy",
}  # fmt: skip


def migrate_agent(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of an agent under the current names."""
    names = dict(_AGENT)
    for mark, own in _OF_ONE_AGENT.items():
        if mark in settings:
            names |= own
    renamed = rename_keys(settings, names)
    return {
        key: _VALUES.get((key, value), value) if isinstance(value, str) else value for key, value in renamed.items()
    }


def migrate_train(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a training under the current names; checkpoints were counted in rows of metrics online."""
    renamed = rename_keys(settings, _TRAIN)
    if "checkpoint_every" in renamed:
        every = renamed.pop("checkpoint_every")
        rows = "interactions" in settings
        row = -(-settings["interactions"] // settings["points"]) if rows else 1
        renamed["checkpoint_every_steps"] = every * row
    if "simulator" in renamed:
        renamed["simulator"] = rename_keys(renamed["simulator"], _SIMULATOR)
    return renamed


def migrate_rating_model(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a rating model under the current names."""
    renamed = rename_keys(settings, _RATING_MODEL)
    if "baseline" in renamed:
        renamed["baseline"] = rename_keys(renamed["baseline"], _RATING_MODEL)
    return renamed
