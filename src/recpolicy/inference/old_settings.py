"""Names of settings in version 1 of a policy artifact, written before 0.1.0, and the current ones."""

from collections.abc import Mapping
from typing import Any

from recpolicy.core.files import rename_keys
from recpolicy.models.rating_model_io import migrate_model_name, migrate_model_settings

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
        renamed["simulator"] = _migrate_models(rename_keys(renamed["simulator"], _SIMULATOR))
    return _migrate_models(renamed)


def _migrate_models(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings that name rating models, with the current names."""
    names: dict[str, Any] = {
        key: migrate_model_name(settings[key]) for key in ("rating_model", "world") if key in settings
    }
    models: dict[str, Any] = {
        key: migrate_model_settings(settings[key]) for key in ("rating_model_config",) if settings.get(key)
    }
    return {**settings, **names, **models}
