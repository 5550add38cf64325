"""The table of reward models over features by name."""

from collections.abc import Mapping

from recpolicy.models.bilinear import BilinearModel
from recpolicy.models.hashed_reward import HashedModel
from recpolicy.models.hybrid_linear import HybridModel
from recpolicy.models.network_reward import EncodedModel, NetworkModel
from recpolicy.models.reward_model import RewardModel

REWARD_MODELS: Mapping[str, type[RewardModel]] = {
    model.name: model for model in (BilinearModel, HybridModel, NetworkModel, EncodedModel, HashedModel)
}
