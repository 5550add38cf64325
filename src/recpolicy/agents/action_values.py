"""Arithmetic of an off-policy actor-critic with a softmax policy, as pure functions.

E critics, n steps, A actions. pi is the policy, Q a critic's values.

    target     y = r + gamma (1 - terminated) sum_a' pi(a'|s') Q_target(s', a')   over the items not yet shown
    dial       Q~ = mean_e Q_e + kappa sd_e Q_e   (kappa < 0 is pessimistic about actions on which critics disagree)
    advantage  Q~(s, a) - sum_b pi(b|s) Q~(s, b)

A shift of Q~ by any function of s changes no gradient. Source: Chen et al. 2022 (10.1145/3523227.3546758), whose
equations are not public; the dial is ours.
"""

import tensorflow as tf

from recpolicy.agents import categorical


def expected_sarsa_targets(
    reward: tf.Tensor, terminated: tf.Tensor, next_mask: tf.Tensor, next_scores: tf.Tensor, next_values: tf.Tensor,
    gamma: float,
) -> tf.Tensor:  # fmt: skip
    """Return targets [E, n] of critics: the reward and the discounted value of the policy's next action.

    Args:
        reward: [n].
        terminated: [n] bool, true where the session ended. A session that was only cut has a next value.
        next_mask: [n, A] bool, true for items not yet shown; without one, nothing can follow.
        next_scores: [n, A], unmasked log-odds of the policy for the next observation.
        next_values: [E, n, A], the target critics' values for the next observation.
        gamma: Discount per step, in [0, 1].
    """
    probability = tf.nn.softmax(categorical.mask_logits(next_scores, next_mask))  # [n, A]
    following = tf.reduce_sum(probability * next_values, axis=-1)  # [E, n]
    over = terminated | ~tf.reduce_any(next_mask, axis=1)
    return tf.stop_gradient(reward + gamma * tf.where(over, 0.0, following))


def combine_critics(values: tf.Tensor, kappa: float) -> tf.Tensor:
    """Return mean + kappa sd [n, A] of the values [E, n, A] over critics, with the population's sd.

    Two critics and kappa -1 give their minimum; critics that agree give the same values for every kappa.
    """
    mean = tf.reduce_mean(values, axis=0)
    if kappa == 0.0:
        return mean
    return mean + kappa * tf.math.reduce_std(values, axis=0)


def restrict_to_support(values: tf.Tensor, behavior: tf.Tensor, mask: tf.Tensor, smallest: float) -> tf.Tensor:
    """Return values [n, A] where actions that the behavior policy hardly takes have the lowest supported value.

    This is the most pessimistic end of the dial, for the actor's gradient only: the critics' targets and the value
    network keep the critics' values. Another form sums over supported actions only; here the others count as the
    worst of those. A row without a supported action stays as it is.

    Args:
        values: [n, A].
        behavior: [n, A], probabilities of the behavior policy.
        mask: [n, A] bool, true for allowed actions.
        smallest: Probability from which an action is supported; 0 supports all.
    """
    supported = mask & (behavior >= smallest)
    lowest = tf.reduce_min(tf.where(supported, values, values.dtype.max), axis=1, keepdims=True)
    unsupported = ~supported & tf.reduce_any(supported, axis=1, keepdims=True)
    return tf.where(unsupported, lowest, values)


def policy_values(values: tf.Tensor, scores: tf.Tensor) -> tf.Tensor:
    """Return sum_a pi(a|s) Q(s, a) [n] for values [n, A] and masked log-odds [n, A]."""
    return tf.reduce_sum(tf.nn.softmax(scores) * values, axis=1)


def advantages(values: tf.Tensor, scores: tf.Tensor) -> tf.Tensor:
    """Return Q(s, a) - sum_b pi(b|s) Q(s, b) [n, A] for values [n, A] and masked log-odds [n, A]."""
    return values - policy_values(values, scores)[:, tf.newaxis]


def logged_actor_loss(log_own: tf.Tensor, advantage: tf.Tensor, weight: tf.Tensor, multiplier: tf.Tensor) -> tf.Tensor:
    """Return - w lambda_K A(s, a) log pi(a|s) [n] of logged actions; only log pi has a gradient.

    Args:
        log_own: [n], log pi of the logged actions.
        advantage: [n], of the logged actions.
        weight: [n], importance weights pi / beta, clipped or not.
        multiplier: [n], lambda_K of the logged actions.
    """
    return -tf.stop_gradient(weight * multiplier * advantage) * log_own


def all_actions_actor_loss(scores: tf.Tensor, advantage: tf.Tensor, k: int) -> tf.Tensor:
    """Return - sum_a lambda_K pi(a|s) A(s, a) [n] over all actions; only pi has a gradient.

    With K = 1 its gradient is that of - sum_a pi(a|s) Q(s, a). It has no importance weight and no sampled action.

    Args:
        scores: [n, A], masked log-odds of the policy.
        advantage: [n, A].
        k: Items per slate.
    """
    probability = tf.nn.softmax(scores)
    multiplier = k * tf.pow(1.0 - probability, float(k - 1))
    return -tf.reduce_sum(tf.stop_gradient(multiplier * advantage) * probability, axis=1)
