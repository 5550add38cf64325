"""Parameters of the pipelines: convert text of the command line, and check values before any step starts.

The pipeline's function in definitions.py has the name, type, default and description of a parameter; this module knows
the valid values. Settings of a config are checked by building that config.
"""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from recpolicy.core.config import build
from recpolicy.core.errors import ConfigError, unknown_name_error
from recpolicy.core.tensorflow_setup import silence_libraries

_TYPES: Mapping[str, tuple[tuple[type, ...], str]] = {
    "STRING": ((str,), "text"),
    "NUMBER_INTEGER": ((int,), "a whole number"),
    "NUMBER_DOUBLE": ((int, float), "a number"),
    "BOOLEAN": ((bool,), "true or false"),
    "STRUCT": ((dict,), 'JSON such as {"alpha": 0.5}'),
    "LIST": ((list,), "a JSON list such as [0, 1]"),
}
"""KFP's types: the Python types and the description for an error."""
RANGES: Mapping[str, tuple[int, int]] = {
    "seed": (0, 2**63 - 1), "rank": (1, 10**6), "items": (0, 10**6), "log_rounds": (1, 10**9),
    "total_timesteps": (1, 10**9), "batch": (1, 10**6), "epochs": (1, 10**9),
}  # fmt: skip
"""Smallest and largest value of each numeric parameter."""
_LEARN_FROM = ("auto", "log", "online")


def read_parameters(words: list[str]) -> dict[str, str]:
    """Return `name=value` words as a mapping; raise ConfigError for a word without `=` and for a repeated name."""
    values: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise ConfigError(f"--param {word!r}: expected name=value, such as --param agent=lints")
        if name in values:
            raise ConfigError(f"--param {name} is given twice")
        values[name] = value
    return values


def convert_value(name: str, value: Any, type: str) -> Any:
    """Return the value with the type of the parameter (a KFP type such as NUMBER_INTEGER); raise ConfigError."""
    types, expected = _TYPES[type]
    if type == "STRING" and isinstance(value, str):
        return value
    if isinstance(value, str):
        with suppress(json.JSONDecodeError):
            value = json.loads(value.lower() if type == "BOOLEAN" else value)
    if not isinstance(value, types) or (isinstance(value, bool) and type != "BOOLEAN"):
        raise ConfigError(f"parameter {name}: found {value!r}; expected {expected}")
    return float(str(value)) if type == "NUMBER_DOUBLE" else value


def check_values(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raise ConfigError for the first value that is out of range or does not fit the others.

    `defaults` are the parameters that are not in `values`. They are only checked together with given values: checking
    them too would import TensorFlow.
    """
    for name, value in values.items():
        _check_value(name, value)
    together = {**defaults, **values}
    if "schema" in together:
        if {"agent", "schema", "train_settings", "agent_settings"} & {*values}:
            _check_feature_training(together)
    elif "agent" in together and {"agent", "learn_from", "train_settings", "agent_settings", "total_timesteps"} & {
        *values
    }:
        _check_training(together)
    if "world" in together and together["world"] == together["rating_model"]:
        raise ConfigError(
            f"parameters world and rating_model are both {together['world']!r}: the world that pays the rewards must be"
            " another model"
        )
    if "grid" in values:
        _check_grid(together["agents"], together["grid"])
    if "incumbent" in together and not together["incumbent"].strip() and not together["registry"].strip():
        from recpolicy.workflows.gating import NO_INCUMBENT

        raise ConfigError(NO_INCUMBENT)


def data_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `load_ratings` of the parameter data_settings; raise ConfigError for a wrong one."""
    from recpolicy.data import loaders

    return loaders.data_options(settings, "parameter data_settings")


def training_settings(agent: str, learn_from: str, world: str, total_timesteps: int, epochs: int) -> dict[str, Any]:
    """Return the settings of TrainConfig, or of SessionTrainConfig for session agents; raise ConfigError."""
    if not learns_from_logs(agent):
        if learn_from == "log":
            raise ConfigError(f"{agent} cannot learn from a log: set learn_from to online or auto")
        if is_session_agent(agent):
            _check_learns_from_simulation(agent)
            return {"total_timesteps": total_timesteps}
    if learn_from not in _LEARN_FROM:
        raise unknown_name_error("source of learning", learn_from, _LEARN_FROM)
    online = learn_from == "online" or not learns_from_logs(agent)
    return {"mode": "online" if online else "log", "total_timesteps": total_timesteps, "epochs": epochs, "world": world}


def learns_from_logs(agent: str) -> bool:
    """Return True if the agent can learn from logged rounds; raises ConfigError for an unknown agent."""
    silence_libraries()  # before TF-Agents is imported, which prints a notice of gym
    from recpolicy.agents import AGENTS, agent_entry

    return agent_entry(agent).learns_from_logs and agent in AGENTS


def _check_learns_from_simulation(agent: str) -> None:
    from recpolicy.agents import agent_entry

    if not agent_entry(agent).learns_from_simulation:
        raise ConfigError(
            f"{agent} learns only from logs of sessions, which pipelines do not have: recpolicy train {agent} --log"
        )


def is_session_agent(agent: str) -> bool:
    """Return True if the agent learns in sessions."""
    from recpolicy.agents import SESSION_AGENTS

    return agent in SESSION_AGENTS


def _check_value(name: str, value: Any) -> None:
    low, high = RANGES.get(name, (None, None))
    if low is not None and value < low:
        raise ConfigError(f"parameter {name} is {value}; expected at least {low}")
    if high is not None and value > high:
        raise ConfigError(f"parameter {name} is {value}; expected at most {high}")
    match name:
        case "split":
            from recpolicy.data.splits import check_split_name

            check_split_name(value)
        case "rating_model" | "world":
            from recpolicy.models.rating_models import RATING_MODELS

            _check_choice("rating model", value, RATING_MODELS)
        case "logging_policy":
            from recpolicy.workflows.logging_policies import LOGGING_POLICIES

            _check_choice("logging policy", value, LOGGING_POLICIES)
        case "data_settings":
            data_options(value)
        case "log_settings" | "ingest_settings":
            build(_config_type(name), value, f"parameter {name}")
        case "gate_settings":
            from recpolicy.workflows.gating import gate_config

            gate_config(value, f"parameter {name}")
        case "agents":
            _check_agents(value)
        case "seeds":
            _, largest = RANGES["seed"]
            if not value or not all(_is_whole(seed, largest) for seed in value):
                raise ConfigError(
                    f"parameter seeds is {value}; expected a list of whole numbers from 0, such as [0, 1]"
                )
        case "grid":
            for setting, choices in value.items():
                if not isinstance(choices, list) or not choices:
                    raise ConfigError(
                        f'parameter grid: {setting}: expected a list of values, such as {{"alpha": [0.5, 1]}}'
                    )
        case "policy" | "log":
            if not value.strip():
                raise ConfigError(f"parameter {name} is empty: give the path or address of the artifact")


def _is_whole(seed: Any, largest: float) -> bool:
    """Return whether a seed is a whole number from 0 to `largest`. Kubeflow passes numbers in a list as floats."""
    return not isinstance(seed, bool) and isinstance(seed, int | float) and 0 <= seed <= largest and seed == int(seed)


def _check_choice(kind: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise unknown_name_error(kind, value, list(known))


def _config_type(parameter: str) -> type[Any]:
    if parameter == "log_settings":
        from recpolicy.workflows.interaction_logs import LogConfig

        return LogConfig
    from recpolicy.data.log_ingest import IngestConfig

    return IngestConfig


def _check_agents(agents: list[str]) -> None:
    if not agents:
        raise ConfigError('parameter agents is empty; expected a list such as ["linucb", "lints"]')
    for agent in agents:
        if not learns_from_logs(agent) and not is_session_agent(agent):
            raise ConfigError(
                f"parameter agents: {agent} learns neither from a log nor in sessions; a sweep compares agents on one"
                " log or in sessions"
            )
        _check_learns_from_simulation(agent)


def _check_grid(agents: list[str], grid: Mapping[str, Any]) -> None:
    """Build the config of every trial."""
    from recpolicy.agents import agent_entry
    from recpolicy.pipelines.sweep import plan_trials

    for trial in plan_trials(agents, [0], grid):
        build(agent_entry(trial["agent"]).config, trial["agent_settings"], f"parameter grid: {trial['agent']}")


def _check_feature_training(values: Mapping[str, Any]) -> None:
    """Build the schema and the configs that the training step builds for a log with features."""
    silence_libraries()
    from recpolicy.data.features import schema_from_dict
    from recpolicy.models.feature_agent_configs import FeatureTrainConfig
    from recpolicy.training.feature_agents import feature_agent

    if values["schema"]:
        schema_from_dict(values["schema"], "parameter schema")
    build(FeatureTrainConfig, values["train_settings"], "train_settings")
    build(feature_agent(values["agent"]).config, values["agent_settings"], "agent_settings")


def _check_training(values: Mapping[str, Any]) -> None:
    """Build the configs that the training step builds."""
    agent, learn_from, world = values["agent"], values["learn_from"], values["world"]
    settings = training_settings(agent, learn_from, world, values["total_timesteps"], epochs=1)
    from recpolicy.agents import agent_entry
    from recpolicy.workflows.policy_training import TrainConfig
    from recpolicy.workflows.session_settings import SessionTrainConfig

    config_type = SessionTrainConfig if is_session_agent(agent) else TrainConfig
    build(config_type, {**settings, **values["train_settings"]}, "train_settings")
    build(agent_entry(agent).config, values["agent_settings"], "agent_settings")
