"""Guardrails of ranks: actions that a request may not get, given the actions of its earlier slots.

A actions of a slot. A category of an action is the value, or each value, of the feature `category_feature`; an action
is marked if its feature `marked_feature` is true or a number other than 0. Diversity, novelty, tilts and min_rating
belong to lists of a ratings table and change no rank.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recpolicy.core.errors import ConfigError, NoActionError, unknown_name_error
from recpolicy.core.types import Array, Bools
from recpolicy.inference.feature_policy import FeaturePolicy
from recpolicy.inference.guardrails import GuardrailConfig
from recpolicy.inference.rank_request import Action, ActionId


@dataclass(frozen=True)
class RankGuardrails:
    """Guardrails for the ranks of one policy."""

    config: GuardrailConfig
    digest: str
    blocked: frozenset[ActionId]
    min_reward: float | None
    """None also for a policy without estimates."""

    @classmethod
    def for_policy(cls, config: GuardrailConfig, policy: Any) -> "RankGuardrails":
        """Return the guardrails for a policy.

        Raises:
            ConfigError: A setting needs `category_feature` or `marked_feature`, the policy does not know the feature,
                or the lowest reward is above its range.
        """
        _check_features(config)
        min_reward = None
        if isinstance(policy, FeaturePolicy):
            known = {*policy.encoder.names("action"), *policy.metadata.get("ignored_features", {}).get("action", ())}
            for name in (config.category_feature, config.marked_feature):
                if name is not None and not {name, name.partition(".")[0]} & known:
                    raise ConfigError(f"guardrails: {unknown_name_error('action feature', name, known)}")
            min_reward = config.min_reward
            if min_reward is not None and policy.reward_range is not None and min_reward > policy.reward_range[1]:
                raise ConfigError(
                    f"guardrails: min_reward is {min_reward:g}, and the highest reward is {policy.reward_range[1]:g}"
                )
        return cls(config, config.digest, frozenset(config.blocked), min_reward)

    def closed(self, actions: Sequence[Action], earlier: Sequence[Action], slots: int) -> tuple[Bools, list[str]]:
        """Return the actions [A] that may not fill the next slot, and what closes them.

        Args:
            actions: The offered actions [A].
            earlier: The actions of the slots before.
            slots: Number of slots of the request.
        """
        config = self.config
        taken = Counter(name for _, features in earlier for name in self._categories(features))
        marked = sum(self._marked(features) for _, features in earlier)
        unmarked_left = slots - min(config.min_marked, slots) - (len(earlier) - marked)
        closed, causes = np.zeros(len(actions), bool), Counter[str]()
        for place, (identity, features) in enumerate(actions):
            cause = self._cause(identity, features, taken, marked, unmarked_left)
            if cause is not None:
                closed[place] = True
                causes[cause] += 1
        return closed, [f"{count} {cause}" for cause, count in causes.items()]

    def below(self, score: Array) -> Bools:
        """Return the actions [A] whose expected reward is too low."""
        result: Bools = np.zeros(len(score), bool) if self.min_reward is None else ~(score >= self.min_reward)
        return result

    def _cause(
        self, identity: ActionId, features: Mapping[str, Any], taken: Mapping[str, int], marked: int,
        unmarked_left: int,
    ) -> str | None:  # fmt: skip
        config = self.config
        if identity in self.blocked:
            return "blocked"
        for name in self._categories(features):
            if name in config.blocked_categories:
                return f"of the blocked category {name}"
            cap = config.category_caps.get(name, config.max_per_category)
            if cap is not None and taken[name] >= cap:
                return f"of the full category {name}"
        if self._marked(features):
            full = config.max_marked is not None and marked >= config.max_marked
            return f"beyond max_marked {config.max_marked}" if full else None
        return f"not marked (min_marked {config.min_marked})" if unmarked_left <= 0 else None

    def _categories(self, features: Mapping[str, Any]) -> list[str]:
        value = _value(features, self.config.category_feature)
        values = value if isinstance(value, list) else [] if value is None else [value]
        return [str(each) for each in values]

    def _marked(self, features: Mapping[str, Any]) -> bool:
        value = _value(features, self.config.marked_feature)
        return isinstance(value, bool | int | float) and bool(value)


def no_action_error(causes: Sequence[str]) -> NoActionError:
    """Return the error of a slot that the guardrails leave without an action."""
    return NoActionError(f"no action is left under the guardrails: {'; '.join(causes)}")


def _check_features(config: GuardrailConfig) -> None:
    """Raise ConfigError for settings that name categories or marked actions without the feature that has them."""
    of_category = {
        "max_per_category": config.max_per_category, "category_caps": config.category_caps,
        "blocked_categories": config.blocked_categories,
    }  # fmt: skip
    of_marked = {"max_marked": config.max_marked is not None, "min_marked": config.min_marked}
    for needed, feature, settings in (
        ("category_feature", config.category_feature, of_category),
        ("marked_feature", config.marked_feature, of_marked),
    ):
        first = next((name for name, value in settings.items() if value), None)
        if feature is None and first is not None:
            raise ConfigError(
                f"guardrails: {first} needs {needed} for a policy of features: the name of the action feature"
            )


def _value(features: Mapping[str, Any], name: str | None) -> Any:
    """Return the value of a feature; points in the name also lead into nested objects."""
    if name is None or name in features:
        return None if name is None else features[name]
    value: Any = features
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
