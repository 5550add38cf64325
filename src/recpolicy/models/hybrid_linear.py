"""A linear model of the reward with a shared part and one part per action id, from sums over rounds.

C context features, A action ids, d = 1 + C, K weights of the shared part. The reward of a pair is z.beta + x.theta_a,
with x = [1, context] and the regressors z of models/bilinear.py. Li et al. 2010 (WWW), algorithm 2, keeps the sums
A_a = p_a I + sum w x x', B_a = sum w x z', b_a = sum w r x of each action id a, and of all rounds A_0 and b_0. We keep
the same sums. With P_a = A_a^-1 and e = z - B_a' P_a x they give

    A = A_0 - sum_a B_a' P_a B_a,  beta = A^-1 (b_0 - sum_a B_a' P_a b_a),
    mean = e.beta + x.P_a b_a,     width^2 = e' A^-1 e + x' P_a x.

An action id without rounds has the shared part only, and the prior's uncertainty of its own part.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ArtifactError, ConfigError
from recpolicy.core.types import Array
from recpolicy.models.bilinear import BilinearModel, check_shape, products, triangle, triangle_index, with_one
from recpolicy.models.reward_model import Arrays, PairEstimate, Pairs

MAX_CROSS = 1 << 25
"""Entries of the sums that join the shared part and those of the action ids, A d K."""
_BLOCK = 1 << 22


class Solution(NamedTuple):
    """The posterior: the last row of each array over action ids is that of an unknown id."""

    covariance: Array  # [A + 1, d, d] P_a
    cross: Array  # [A + 1, d, K] P_a B_a
    center: Array  # [A + 1, d] P_a b_a
    shared_covariance: Array  # [K, K]
    beta: Array  # [K]


@dataclass(frozen=True)
class HybridModel:
    """A shared linear model plus one per action id, known by their sums."""

    name: ClassVar[str] = "hybrid"
    sparse: ClassVar[bool] = False
    learns_online: ClassVar[bool] = True

    shared: BilinearModel
    action_ids: tuple[str | int, ...]
    """[A], in the order in which they were first chosen."""
    arm_gram: Array  # [A, T(d)] sums of w x_i x_j, i <= j
    arm_cross: Array  # [A, d, K] sums of w x z'
    arm_moment: Array  # [A, d] sums of w r x
    arm_precision: float

    @classmethod
    def untrained(
        cls, width: tuple[int, int], *, interactions: bool, precision: float, arm_precision: float,
        prior_reward: float, forgetting: float = 1.0,
    ) -> "HybridModel":  # fmt: skip
        """Return the model without data; raises ConfigError for too many weights."""
        shared = BilinearModel.untrained(
            width, interactions=interactions, precision=precision, prior_reward=prior_reward, forgetting=forgetting
        )
        d = 1 + width[0]
        empty = np.zeros((0, triangle(d))), np.zeros((0, d, shared.moment.size)), np.zeros((0, d))
        return cls(shared, (), *empty, arm_precision)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Plain values next to the arrays."""
        return {
            **self.shared.settings, "arm_precision": self.arm_precision, "action_ids": list(self.action_ids),
        }  # fmt: skip

    @property
    def arrays(self) -> Arrays:
        """The sums."""
        names = ("arm_gram", "arm_cross", "arm_moment")
        return {**self.shared.arrays, **{name: getattr(self, name) for name in names}}

    @classmethod
    def from_arrays(cls, arrays: Arrays, settings: Mapping[str, Any], width: tuple[int, int]) -> "HybridModel":
        """Return the model of saved sums; raises ArtifactError for arrays of other widths."""
        own = ("arm_precision", "action_ids")
        rest = {name: value for name, value in settings.items() if name not in own}
        shared = BilinearModel.from_arrays(arrays, rest, width)
        ids, d = tuple(settings["action_ids"]), 1 + width[0]
        if len(set(ids)) != len(ids) or settings["arm_precision"] <= 0:
            raise ArtifactError("action_ids: expected each once, and a precision above 0: train it again")
        check_shape(arrays, "arm_gram", (len(ids), triangle(d)))
        check_shape(arrays, "arm_cross", (len(ids), d, shared.moment.size))
        check_shape(arrays, "arm_moment", (len(ids), d))
        return cls(
            shared, ids, arrays["arm_gram"], arrays["arm_cross"], arrays["arm_moment"], settings["arm_precision"]
        )

    @cached_property
    def solution(self) -> Solution:
        """The posterior of the sums."""
        d, k = self.arm_moment.shape[1], self.shared.moment.size
        gram = np.concatenate([self.arm_gram, np.zeros((1, triangle(d)))])[:, triangle_index(d)]
        covariance = np.linalg.inv(gram + self.arm_precision * np.eye(d))  # [A + 1, d, d]
        own = np.concatenate([self.arm_cross, self.arm_moment[:, :, np.newaxis]], axis=2)  # [A, d, K + 1]
        cross_and_center = covariance[:-1] @ own
        explained = self.arm_cross.reshape(-1, k).T @ cross_and_center.reshape(-1, k + 1)  # [K, K + 1]
        information = self.shared.information - explained[:, :-1]
        moment = self.shared.moment.ravel() - explained[:, -1]
        moment[0] += self.shared.precision * self.shared.prior_reward
        shared_covariance = np.linalg.inv((information + information.T) / 2)
        padded = np.concatenate([cross_and_center, np.zeros((1, d, k + 1))])
        return Solution(
            covariance, padded[:, :, :-1], padded[:, :, -1],
            (shared_covariance + shared_covariance.T) / 2, shared_covariance @ moment,
        )  # fmt: skip

    def estimate(self, pairs: Pairs, widths: bool) -> PairEstimate:
        """Return the posterior means and widths of the pairs."""
        size = max(1, _BLOCK // self.shared.moment.size)
        parts = [
            self._estimate(pairs.take(np.arange(first, min(first + size, len(pairs)))), widths)
            for first in range(0, max(len(pairs), 1), size)
        ]
        width = np.concatenate([part.width for part in parts if part.width is not None]) if widths else None
        return PairEstimate(np.concatenate([part.mean for part in parts]), width)

    def _estimate(self, pairs: Pairs, widths: bool) -> PairEstimate:
        part, rest, x = self.solution, self.shared.regressors(pairs), with_one(pairs.context[pairs.row])
        own_mean, own_square = np.zeros(len(x)), np.zeros(len(x))
        for index, rows in rows_by_arm(self.arm(pairs.action_id)[pairs.offer]):
            of_arm = x[rows]
            if index < len(self.action_ids):
                rest[rows] -= of_arm @ part.cross[index]
                own_mean[rows] = of_arm @ part.center[index]
            if widths:
                own_square[rows] = ((of_arm @ part.covariance[index]) * of_arm).sum(axis=1)
        mean = rest @ part.beta + own_mean
        if not widths:
            return PairEstimate(mean)
        shared = ((rest @ part.shared_covariance) * rest).sum(axis=1)
        return PairEstimate(mean, np.sqrt(np.maximum(shared + own_square, 0.0)))

    def updated(self, pairs: Pairs, reward: Array, weight: Array) -> "HybridModel":
        """Return the model with further rewards [k] and weights [k] in its sums."""
        shared = self.shared.updated(pairs, reward, weight)
        kept = self.shared.forgetting ** len(reward)
        if self.shared.forgetting < 1:
            weight = weight * self.shared.forgetting ** np.arange(len(reward) - 1, -1, -1)
        ids = dict.fromkeys([*self.action_ids, *pairs.action_id[pairs.offer].tolist()])
        _, d, k = self.arm_cross.shape
        if len(ids) * d * k > MAX_CROSS:
            raise ConfigError(
                f"a linear model per action of {len(ids):,} actions, {d} context columns and {k:,} shared weights is"
                " too large; linucb_shared has one model for all actions"
            )
        grown = replace(self, shared=shared, action_ids=tuple(ids))
        old = ((0, len(ids) - len(self.action_ids)), (0, 0), (0, 0))
        gram, cross, moment = (
            np.pad(part * kept, old[: part.ndim]) for part in (self.arm_gram, self.arm_cross, self.arm_moment)
        )
        size = max(1, _BLOCK // k)
        for index, rows_of_arm in rows_by_arm(grown.arm(pairs.action_id)[pairs.offer]):
            for first in range(0, len(rows_of_arm), size):
                rows = rows_of_arm[first : first + size]
                part = pairs.take(rows)
                z, x = self.shared.regressors(part), with_one(part.context[part.row])
                weighted = x * weight[rows, np.newaxis]
                gram[index] += weight[rows] @ products(x)
                cross[index] += weighted.T @ z
                moment[index] += reward[rows] @ weighted
        return replace(grown, arm_gram=gram, arm_cross=cross, arm_moment=moment)

    def arm(self, action_id: NDArray[np.object_]) -> NDArray[np.int64]:
        """Return the place [m] of each action id; A for an unknown one."""
        place = self._place
        return np.array([place.get(identifier, len(place)) for identifier in action_id.tolist()], np.int64)

    @cached_property
    def _place(self) -> dict[str | int, int]:
        return {identifier: index for index, identifier in enumerate(self.action_ids)}


def rows_by_arm(arm: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield each arm among [k] with its rows, in order."""
    order = np.argsort(arm, kind="stable")
    starts = np.flatnonzero(np.diff(arm[order], prepend=-1))
    for rows in np.split(order, starts[1:]):
        if len(rows):
            yield int(arm[rows[0]]), rows
