"""The champion with what it has learned online, as each process serves it.

Every process keeps the arrays that it serves and reads only the arms that changed since. Requests in progress keep the
arrays that they began with.
"""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ArtifactError
from recpolicy.inference.scorer import Scorer
from recpolicy.server.online.checkpoints import ArmBlock, CurrentState, checkpoint_folder, read_blocks, read_current
from recpolicy.server.online.posterior import Posterior, as_policy_rows, can_learn

logger = logging.getLogger(__name__)


class LearnedPolicy:
    """A function from a trained policy to the same policy with its latest checkpoint."""

    def __init__(self, state: Path):
        self._state_folder = state
        self._base: Scorer | None = None
        self._served: tuple[CurrentState, Scorer] | None = None

    def __call__(self, base: Scorer) -> Scorer:
        """Return the policy with its last checkpoint, or unchanged without a valid checkpoint."""
        if not can_learn(base.artifact):
            return base
        if self._base is not base:
            self._base, self._served = base, None
        try:
            return self._latest(base)
        except ArtifactError as error:
            logger.error("the server ignores a damaged checkpoint of online learning: %s", error)
            self._served = None
            return base

    def _latest(self, base: Scorer) -> Scorer:
        folder = checkpoint_folder(self._state_folder, str(base.metadata["policy_digest"]))
        for _ in range(3):  # another process may replace the file of the arms between the two reads
            state = read_current(folder)
            if state is None or not state.counts["learnt"]:
                return base
            if self._served is not None and self._served[0].digest == state.digest:
                return self._served[1]
            before, start = self._continued(base, state)
            try:
                blocks = list(read_blocks(folder, state, base.artifact, start))
            except FileNotFoundError:
                continue
            self._served = state, with_learned_arms(base, before, blocks, state.digest)
            return self._served[1]
        raise ArtifactError(f"{folder}: the file of the posterior is missing; remove the folder to start again")

    def _continued(self, base: Scorer, state: CurrentState) -> tuple[Scorer, int]:
        """Return the policy that a state continues, and the byte from which on."""
        if self._served is None:
            return base, 0
        before, scorer = self._served
        return (scorer, before.length) if state.extends(before) else (base, 0)


def with_learned_arms(base: Scorer, before: Scorer, blocks: Iterable[ArmBlock], digest: str) -> Scorer:
    """Return `before` with the arms of these blocks; `base` is the policy as trained, `digest` that of the result."""
    policy: dict[str, NDArray[Any]] = dict(before.artifact.policy)
    theta, covariance = (np.array(policy[name], np.float32) for name in ("theta", "covariance"))
    for block in blocks:
        theta[block.arm], covariance[block.arm] = as_policy_rows(block.theta, block.covariance)
    metadata = {
        **base.artifact.metadata,
        "policy_digest": digest,
        "learned_from": base.artifact.metadata["policy_digest"],
    }
    return base.with_policy({**policy, "theta": theta, "covariance": covariance}, metadata)


def with_posterior(base: Scorer, posterior: Posterior) -> Scorer:
    """Return a policy with another posterior, and with its digest."""
    blocks = [ArmBlock.from_posteriors(posterior.learned)] if posterior.learned else []
    return with_learned_arms(base, base, blocks, posterior.digest)
