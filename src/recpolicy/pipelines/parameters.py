"""Parameters of the pipelines: words of a command line become typed values, and all are checked before a step starts.

What a parameter is called, its type, default and description stand once, in the pipeline's own function; this page
knows what values make sense.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from recpolicy.core.config import build
from recpolicy.core.errors import ConfigError, unknown_name_error
from recpolicy.core.tensorflow_setup import silence_libraries

_TYPES: Mapping[str, tuple[type, ...]] = {
    "STRING": (str,), "NUMBER_INTEGER": (int,), "NUMBER_DOUBLE": (int, float), "BOOLEAN": (bool,),
    "STRUCT": (dict,), "LIST": (list,),
}  # fmt: skip
_LEARN_FROM = ("auto", "log", "online")
_ONLINE_ONLY = ("exp3",)  # their learners say so themselves (learns_from_logs)


def read_parameters(words: list[str]) -> dict[str, str]:
    """`name=value` words as a mapping; raises ConfigError for a word without `=` and for a name given twice."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise ConfigError(f"--param {word!r}: expected name=value, such as --param agent=lints")
        if name in found:
            raise ConfigError(f"--param {name} is given twice")
        found[name] = value
    return found


def typed(name: str, value: Any, kind: str) -> Any:
    """The value as the type of the parameter (a KFP type such as NUMBER_INTEGER); raises ConfigError."""
    if kind == "STRING" and isinstance(value, str):
        return value
    if isinstance(value, str):
        try:
            value = json.loads(value.lower() if kind == "BOOLEAN" else value)
        except json.JSONDecodeError:
            raise _wrong(name, value, kind) from None
    fits = isinstance(value, _TYPES[kind]) and (kind == "BOOLEAN" or not isinstance(value, bool))
    if not fits:
        raise _wrong(name, value, kind)
    return float(value) if kind == "NUMBER_DOUBLE" else value


def check_values(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raise ConfigError for the first parameter that is out of range, or that does not go with the others.

    Defaults are not looked at by themselves: what is all default needs no import of TensorFlow to be known as good.
    """
    for name, check in _CHECKS.items():
        if name in given:
            check(name, given[name])
    values = {**defaults, **given}
    if "agent" in values and {"agent", "learn_from", "train_settings", "agent_settings", "interactions"} & set(given):
        chosen = training_settings(
            values["agent"], values["learn_from"], values["world"], values["interactions"], epochs=1
        )
        _agent_settings(values["agent"], {**chosen, **values["train_settings"]}, values["agent_settings"])
    if "world" in values and values["world"] == values["rating_model"]:
        raise ConfigError(
            f"parameters world and rating_model are both {values['world']!r}: what pays the rewards must be of another"
            " class than what the policy sees"
        )
    if "incumbent" in values and not values["incumbent"].strip() and not values["registry"].strip():
        from recpolicy.workflows.registration import NO_INCUMBENT

        raise ConfigError(NO_INCUMBENT)


def training_settings(agent: str, learn_from: str, world: str, interactions: int, epochs: int) -> dict[str, Any]:
    """The settings of TrainConfig, or for agents of sessions of SessionTrainConfig, that the parameters come to."""
    if not learns_from_logs(agent):
        if learn_from == "log":
            raise ConfigError(f"{agent} cannot learn from a log: set learn_from to online or auto")
        if is_sequential(agent):
            return {"total_timesteps": interactions}
    if learn_from not in _LEARN_FROM:
        raise unknown_name_error("source of learning", learn_from, _LEARN_FROM)
    online = learn_from == "online" or not learns_from_logs(agent)
    return {"mode": "online" if online else "log", "interactions": interactions, "epochs": epochs, "world": world}


def learns_from_logs(agent: str) -> bool:
    """Whether the agent can be trained from logged rounds. Raises ConfigError for an unknown agent."""
    silence_libraries()  # before TF-Agents is imported: gym prints its notice then
    from recpolicy.agents.agent_table import AGENTS, agent_entry

    agent_entry(agent)
    return agent in AGENTS and agent not in _ONLINE_ONLY


def is_sequential(agent: str) -> bool:
    """Whether the agent learns in sessions."""
    from recpolicy.agents.agent_table import SESSION_AGENTS

    return agent in SESSION_AGENTS


def _wrong(name: str, value: Any, kind: str) -> ConfigError:
    expected = {
        "STRING": "text", "NUMBER_INTEGER": "a whole number", "NUMBER_DOUBLE": "a number",
        "BOOLEAN": "true or false", "STRUCT": 'JSON such as {"alpha": 0.5}', "LIST": "a JSON list such as [0, 1]",
    }[kind]  # fmt: skip
    return ConfigError(f"parameter {name}: found {value!r}; expected {expected}")


def _at_least(least: float) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        if not value >= least:
            raise ConfigError(f"parameter {name} is {value}; expected at least {least:g}")

    return check


def _share(name: str, value: Any) -> None:
    if not 0 <= value < 1:
        raise ConfigError(f"parameter {name} is {value}; expected in [0, 1)")


def _one_of(kind: str, known: Callable[[], Any]) -> Callable[[str, Any], None]:
    def check(_name: str, value: Any) -> None:
        names = list(known())
        if value not in names:
            raise unknown_name_error(kind, value, names)

    return check


def _agent_settings(agent: str, train: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Build what the training would build, so that it is refused here."""
    from recpolicy.agents.agent_table import SESSION_AGENTS, agent_entry
    from recpolicy.workflows.train import TrainConfig
    from recpolicy.workflows.train_sessions import SessionTrainConfig
    from recpolicy.workflows.training_features import settings_of

    settings_of(SessionTrainConfig if agent in SESSION_AGENTS else TrainConfig, dict(train), "train_settings")
    settings_of(agent_entry(agent).config, dict(settings), "agent_settings")


def _config(load: Callable[[], type[Any]]) -> Callable[[str, Any], None]:
    def check(name: str, value: Any) -> None:
        build(load(), value, f"parameter {name}")

    return check


def _rating_models() -> Any:
    from recpolicy.models.rating_models import RATING_MODELS

    return RATING_MODELS


def _logging_policies() -> Any:
    from recpolicy.workflows.logging_policies import LOGGING_POLICIES

    return LOGGING_POLICIES


def _log_config() -> type[Any]:
    from recpolicy.workflows.interaction_logs import LogConfig

    return LogConfig


def _ingest_config() -> type[Any]:
    from recpolicy.data.log_ingest import IngestConfig

    return IngestConfig


def _gate_config() -> type[Any]:
    from recpolicy.evaluation.gate import GateConfig

    return GateConfig


def _agents(_name: str, value: Any) -> None:
    if not value:
        raise ConfigError('parameter agents is empty; expected a list such as ["linucb", "lints"]')
    for agent in value:
        if not learns_from_logs(agent):
            raise ConfigError(f"parameter agents: {agent} cannot learn from a log; a sweep compares agents on one")


def _seeds(name: str, value: Any) -> None:
    if not value or any(isinstance(seed, bool) or seed != int(seed) or seed < 0 for seed in value):
        raise ConfigError(f"parameter {name} is {value}; expected a list of whole numbers from 0, such as [0, 1]")


def _grid(name: str, value: Any) -> None:
    for setting, choices in value.items():
        if not isinstance(choices, list) or not choices:
            raise ConfigError(f'parameter {name}: {setting}: expected a list of values, such as {{"alpha": [0.5, 1]}}')


def _split(_name: str, value: Any) -> None:
    from recpolicy.data.splits import check_split_name

    check_split_name(value)


def _named(name: str, value: Any) -> None:
    if not value.strip():
        raise ConfigError(f"parameter {name} is empty: give the path or address of the artifact")


_CHECKS: Mapping[str, Callable[[str, Any], None]] = {
    "split": _split,
    "seed": _at_least(0),
    "rank": _at_least(1),
    "items": _at_least(0),
    "log_rounds": _at_least(1),
    "interactions": _at_least(1),
    "evaluation_share": _share,
    "batch": _at_least(1),
    "epochs": _at_least(1),
    "rating_model": _one_of("rating model", _rating_models),
    "world": _one_of("rating model", _rating_models),
    "logging_policy": _one_of("logging policy", _logging_policies),
    "log_settings": _config(_log_config),
    "ingest_settings": _config(_ingest_config),
    "gate_settings": _config(_gate_config),
    "agents": _agents,
    "seeds": _seeds,
    "grid": _grid,
    "policy": _named,
    "log": _named,
}
