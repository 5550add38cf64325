"""A strategy policy whose values come from a network (`recpolicy strategy dqn`): a feature policy with its config.

Its scores are Q-values of continuous traits, so every request has an estimate and there is no chain of fallbacks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recpolicy.core.errors import ArtifactError, ConfigError
from recpolicy.inference.artifact_files import artifact_errors
from recpolicy.inference.feature_artifact import is_feature_policy, read_feature_policy
from recpolicy.inference.feature_policy import FeaturePolicy
from recpolicy.inference.rank_request import draw
from recpolicy.strategies.artifact import read_strategy_policy
from recpolicy.strategies.config import StrategyConfig
from recpolicy.strategies.log_rounds import request_context, strategy_actions
from recpolicy.strategies.policy import NETWORK, StrategyAnswer, StrategyPolicy
from recpolicy.strategies.state import StrategyRequest, request_arrays

STRATEGY = "strategy"
"""Key of the engine's settings in the metadata of a feature policy."""


@dataclass(frozen=True)
class NetworkStrategyPolicy:
    """A feature policy over the strategies of a config."""

    config: StrategyConfig
    policy: FeaturePolicy

    @property
    def policy_digest(self) -> str:
        """The digest of the feature policy."""
        return self.policy.policy_digest

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Origin of the feature policy."""
        return self.policy.metadata

    def recommend(self, request: StrategyRequest, seed: int | str | None = None) -> StrategyAnswer:
        """Draw a strategy for a request.

        Args:
            request: Profile and situation.
            seed: Seed of the draw, such as the event id; None draws at random.

        Raises:
            DataError: A trait is missing, unknown or outside 0..100, or a name of the situation is unknown.
        """
        request_arrays(request, self.config)
        context = request_context(request)
        probability, value = self.policy.probabilities(context, strategy_actions(self.config), strict=False)
        action = draw(probability, seed)
        return StrategyAnswer(
            strategy=self.config.strategies[action], action=action, parameters=self.config.parameters[action],
            propensity=float(probability[action]), expected_reward=float(value[action]), source=NETWORK,
            explored=bool(value[action] < np.max(value)),
        )  # fmt: skip


def read_network_policy(folder: str | Path) -> NetworkStrategyPolicy:
    """Read the result of `recpolicy strategy dqn`; raise ArtifactError for another or a damaged one."""
    policy = read_feature_policy(folder)
    settings = policy.metadata.get(STRATEGY)
    if not isinstance(settings, Mapping):
        raise ArtifactError(
            f"{folder}: a feature policy without the settings of strategies; expected a folder that `recpolicy strategy"
            " train` or `strategy dqn` wrote (`recpolicy rank` asks a feature policy)"
        )
    with artifact_errors(Path(folder)):
        try:
            config = StrategyConfig.from_dict(settings, STRATEGY)
        except ConfigError as error:
            raise ArtifactError(f"metadata: {error}; train it again") from None
    return NetworkStrategyPolicy(config, policy)


def read_any_strategy_policy(folder: str | Path) -> StrategyPolicy | NetworkStrategyPolicy:
    """Read a strategy policy with a table or a network; raise ArtifactError for another or a damaged folder."""
    return read_network_policy(folder) if is_feature_policy(Path(folder)) else read_strategy_policy(folder)
