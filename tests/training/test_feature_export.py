"""TensorFlow, NumPy and the artifact give one answer: encoder, reward model and probabilities within 1e-6."""

import numpy as np
import pytest
import tensorflow as tf
from tiny_feature_log import CASES, tiny_actions, tiny_log, tiny_policy, tiny_schema, trained_case

from recpolicy.agents.linucb_hybrid import hybrid_estimate
from recpolicy.inference.feature_artifact import read_feature_policy, write_feature_policy
from recpolicy.inference.feature_policy import chosen_pairs
from recpolicy.training.feature_export import FeaturePolicyModule, encoded_request, write_feature_saved_model

CONTEXTS = ({"hour": 0.4, "device": "mobile", "member": True}, {"hour": -1.5, "device": "desk"}, {})


@pytest.mark.parametrize("case", CASES)
def test_probabilities_of_tensorflow_numpy_and_the_artifact(case, tmp_path):
    policy, actions = trained_case(case), tiny_actions()
    write_feature_policy(policy, tmp_path / "policy")
    again, module = read_feature_policy(tmp_path / "policy"), FeaturePolicyModule(policy)
    for context in CONTEXTS:
        for excluded in ((), ("a0", "a4")):
            mask = np.array([[identifier not in excluded for identifier, _ in actions]])
            answer = module.probabilities({**encoded_request(policy, context, actions), "mask": mask})
            probability, score = policy.probabilities(context, actions, excluded)
            np.testing.assert_allclose(answer["score"].numpy()[0], score, atol=1e-6)
            np.testing.assert_allclose(answer["probability"].numpy()[0], probability, atol=1e-6)
            np.testing.assert_array_equal(again.probabilities(context, actions, excluded)[0], probability)
            assert (probability[~mask[0]] == 0).all()


@pytest.mark.parametrize("case", ["squarecb", "squarecb hashed", "linucb_hybrid"])
def test_a_saved_model_answers_alike(case, tmp_path):
    policy, actions = trained_case(case), tiny_actions()
    write_feature_saved_model(policy, tmp_path / "saved")
    saved = tf.saved_model.load(str(tmp_path / "saved"))
    request = encoded_request(policy, CONTEXTS[0], actions)
    answer = saved.probabilities({**request, "mask": np.ones((1, len(actions)), bool)})
    np.testing.assert_allclose(
        answer["probability"].numpy()[0], policy.probabilities(CONTEXTS[0], actions)[0], atol=1e-6
    )


@pytest.mark.parametrize("agent", ["linucb_hybrid", "squarecb"])
def test_without_products_and_with_an_unknown_action(agent, tmp_path):
    """An id that the log did not have has the prior's own part; features without products have no pairs."""
    settings = {"model": "hashed"} if agent == "squarecb" else {}
    policy = tiny_policy(agent, schema=tiny_schema(interactions=False), uniform_mix=0.1, **settings)
    actions = [*tiny_actions()[:3], ("new", {"size": 0.5, "color": "purple", "tags": ["new", "other"]})]
    request = {**encoded_request(policy, CONTEXTS[0], actions), "mask": np.ones((1, 4), bool)}
    answer = FeaturePolicyModule(policy).probabilities(request)
    probability, score = policy.probabilities(CONTEXTS[0], actions)
    np.testing.assert_allclose(answer["score"].numpy()[0], score, atol=1e-6)
    np.testing.assert_allclose(answer["probability"].numpy()[0], probability, atol=1e-6)


def test_several_requests_at_once():
    """Requests of one batch have their own contexts and actions."""
    for case in ("squarecb hashed", "linucb_hybrid"):
        policy, actions = trained_case(case), tiny_actions()
        offers = (actions[:4], actions[2:])
        requests = [encoded_request(policy, *each) for each in zip(CONTEXTS[:2], offers, strict=True)]
        batch = {name: _stacked([request[name] for request in requests]) for name in requests[0]}
        answer = FeaturePolicyModule(policy).probabilities({**batch, "mask": np.ones((2, 4), bool)})
        for row, (context, offered) in enumerate(zip(CONTEXTS[:2], offers, strict=True)):
            np.testing.assert_allclose(
                answer["probability"].numpy()[row], policy.probabilities(context, offered)[0], atol=1e-6
            )


def _stacked(arrays):
    """Join the rows of arrays whose last axes are padded with zeros to one length."""
    widest = max(array.shape[-1] for array in arrays)
    padding = [[(0, 0)] * (array.ndim - 1) + [(0, widest - array.shape[-1])] for array in arrays]
    return np.concatenate([np.pad(array, pad) for array, pad in zip(arrays, padding, strict=True)])


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
