"""Learning settings as one text: the agent of a policy of features, its settings and those of its training.

The text has the options of `recpolicy train` and of its tables [agent] and [train], such as
`--agent squarecb --model hashed --gamma_scale 100 --max_weight 10`. Settings that are left out have their defaults.
"""

import json
import shlex
from dataclasses import dataclass, fields
from typing import Any

from recpolicy.core.config import as_dict, build
from recpolicy.core.errors import ConfigError, unknown_name_error
from recpolicy.inference.feature_policy import FeaturePolicy
from recpolicy.models.feature_agent_configs import FEATURE_AGENT_CONFIGS, FeatureTrainConfig

EXAMPLE = "--agent squarecb --gamma_scale 100"
FOUND_NAME = "optimized"
RESERVED_NAMES = ("logged", "champion", "baseline", "random", FOUND_NAME)
"""Names of policies that an evaluation may have anyway."""
_EXPLORATION = ("gamma_scale", "gamma_exponent", "uniform_mix")
_TRIED = (
    {"model": "linear", "precision": 10.0},
    {"model": "linear", "precision": 100.0},
    {"model": "linear", "precision": 1_000.0},
    {"model": "hashed", "hashed_learning_rate": 0.05},
    {"model": "hashed", "hashed_learning_rate": 0.1},
    {"model": "hashed", "hashed_learning_rate": 0.2},
)


@dataclass(frozen=True)
class LearningSettings:
    """An agent with the settings that its training gets, complete and checked."""

    agent: str
    agent_config: Any
    train: FeatureTrainConfig

    def __str__(self) -> str:
        """Return the text; settings with their default are left out."""
        parts = ["--agent", self.agent]
        for config in (self.agent_config, self.train):
            default = as_dict(type(config)())
            for name, value in as_dict(config).items():
                if value != default[name]:
                    parts += [f"--{name}", shlex.quote(_text(value))]
        return " ".join(parts)


def parse_learning_settings(text: str) -> LearningSettings:
    """Return the settings of a text; raises ConfigError that says what is wrong."""
    if "--agent" not in text:
        raise ConfigError(
            f"learning settings are options of `recpolicy train`, such as {EXAMPLE!r}; found {text[:80]!r}, without"
            " --agent"
        )
    options = _options(text)
    agent = options.pop("agent", "")
    if agent not in FEATURE_AGENT_CONFIGS:
        raise unknown_name_error("agent of feature policies", agent, FEATURE_AGENT_CONFIGS)
    config = FEATURE_AGENT_CONFIGS[agent]
    values: dict[type[Any], dict[str, Any]] = {config: {}, FeatureTrainConfig: {}}
    known = {field.name: (kind, field.default) for kind in values for field in fields(kind)}
    for name, value in options.items():
        if name not in known:
            raise unknown_name_error(f"setting of {agent}", name, known)
        kind, default = known[name]
        values[kind][name] = _value(value, is_list=isinstance(default, tuple))
    return LearningSettings(
        agent, build(config, values[config], "learning settings"),
        build(FeatureTrainConfig, values[FeatureTrainConfig], "learning settings"),
    )  # fmt: skip


def settings_of_policy(policy: FeaturePolicy) -> LearningSettings | None:
    """Return the settings that a policy was trained with; None if its artifact does not say them."""
    recorded = policy.metadata.get("config", {})
    if policy.agent not in FEATURE_AGENT_CONFIGS or not {"agent", "train"} <= recorded.keys():
        return None
    config = build(FEATURE_AGENT_CONFIGS[policy.agent], recorded["agent"], policy.agent)
    return LearningSettings(policy.agent, config, build(FeatureTrainConfig, recorded["train"], "train"))


def settings_to_try(current: LearningSettings | None) -> list[LearningSettings]:
    """Return SquareCB with several models of rewards, each with the exploration of the current settings.

    A log rewards policies that do not explore. Exploration is therefore no part of the search.
    """
    known = {} if current is None else {**as_dict(current.train), **as_dict(current.agent_config)}
    kept = {name: known[name] for name in _EXPLORATION if name in known}
    mix = {name: kept.pop(name) for name in ("uniform_mix",) if name in kept}
    config, train = FEATURE_AGENT_CONFIGS["squarecb"], build(FeatureTrainConfig, mix, "train")
    return [LearningSettings("squarecb", build(config, {**kept, **model}, "agent"), train) for model in _TRIED]


def _options(text: str) -> dict[str, str]:
    """Return the options of a text `--name value ...` by name."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"learning settings: {error}; found {text[:80]!r}") from None
    options: dict[str, str] = {}
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if not name.startswith("--"):
            raise ConfigError(
                f"learning settings are options of `recpolicy train`, such as {EXAMPLE!r}; found {word[:40]!r}"
            )
        name = name.removeprefix("--").replace("-", "_")
        if not equals:
            if not words or words[0].startswith("--"):
                raise ConfigError(f"learning settings: --{name[:40]} has no value; expected such as {EXAMPLE!r}")
            value = words.pop(0)
        if name in options:
            raise ConfigError(f"learning settings: --{name[:40]} occurs twice")
        options[name] = value
    return options


def _value(text: str, is_list: bool = False) -> Any:
    """Return a number, a truth value, a list of those, or the text."""
    if is_list:
        return [_value(part) for part in text.split(",")]
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_text, value))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, str) else json.dumps(value)
