"""TensorFlow, NumPy and the artifact give one answer: encoder, reward model and probabilities within 1e-6."""

import numpy as np
import pytest
import tensorflow as tf
from tiny_feature_log import CASES, tiny_actions, tiny_log, trained_case

from recpolicy.agents.linucb_hybrid import hybrid_estimate
from recpolicy.core.errors import ConfigError
from recpolicy.inference.feature_artifact import read_feature_policy, write_feature_policy
from recpolicy.inference.feature_policy import chosen_pairs
from recpolicy.training.feature_export import FeaturePolicyModule, dense_request, write_feature_saved_model

CONTEXTS = ({"hour": 0.4, "device": "mobile", "member": True}, {"hour": -1.5, "device": "desk"}, {})
WITHOUT = ("squarecb hashed", "linucb_hybrid")


@pytest.mark.parametrize("case", [name for name in CASES if name not in WITHOUT])
def test_probabilities_of_tensorflow_numpy_and_the_artifact(case, tmp_path):
    policy, actions = trained_case(case), tiny_actions()
    write_feature_policy(policy, tmp_path / "policy")
    again, module = read_feature_policy(tmp_path / "policy"), FeaturePolicyModule(policy)
    for context in CONTEXTS:
        for excluded in ((), ("a0", "a4")):
            mask = np.array([[identifier not in excluded for identifier, _ in actions]])
            answer = module.probabilities(*dense_request(policy, context, actions), mask)
            probability, score = policy.probabilities(context, actions, excluded)
            np.testing.assert_allclose(answer["score"].numpy()[0], score, atol=1e-6)
            np.testing.assert_allclose(answer["probability"].numpy()[0], probability, atol=1e-6)
            np.testing.assert_array_equal(again.probabilities(context, actions, excluded)[0], probability)
            assert (probability[~mask[0]] == 0).all()


def test_a_saved_model_answers_alike(tmp_path):
    policy, actions = trained_case("squarecb"), tiny_actions()
    write_feature_saved_model(policy, tmp_path / "saved")
    saved = tf.saved_model.load(str(tmp_path / "saved"))
    context, action = dense_request(policy, CONTEXTS[0], actions)
    answer = saved.probabilities(context, action, np.ones((1, len(actions)), bool))
    np.testing.assert_allclose(
        answer["probability"].numpy()[0], policy.probabilities(CONTEXTS[0], actions)[0], atol=1e-6
    )


def test_the_hybrid_model_is_the_agents_estimate_in_tensorflow():
    policy = trained_case("linucb_hybrid")
    pairs = chosen_pairs(policy.encoder, False, tiny_log(30, seed=6))
    model, arms = policy.model, len(policy.model.action_ids)
    state = [tf.constant(part[:arms] if part.ndim > 1 and len(part) == arms + 1 else part) for part in model.solution]
    x = np.concatenate([np.ones((30, 1)), pairs.context[pairs.row]], axis=1)
    z = np.repeat(model.shared.regressors(pairs)[:, np.newaxis], arms, axis=1)
    mean, width = hybrid_estimate(tuple(state), tf.constant(x), tf.constant(z))
    arm = [model.action_ids.index(pairs.action_id[offer]) for offer in pairs.offer]
    estimate = model.estimate(pairs, widths=True)
    np.testing.assert_allclose(estimate.mean, mean.numpy()[np.arange(30), arm], atol=1e-6)
    np.testing.assert_allclose(estimate.width, width.numpy()[np.arange(30), arm], atol=1e-6)


@pytest.mark.parametrize("case", WITHOUT)
def test_a_model_without_a_form_in_tensorflow_says_so(case):
    with pytest.raises(ConfigError, match="has no form in TensorFlow; NumPy answers for it"):
        FeaturePolicyModule(trained_case(case))
