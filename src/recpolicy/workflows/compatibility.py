"""Which policies can be judged by which logs, and beside which incumbents: one line for each refusal."""

import numpy as np

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.inference.predictor import Policy


def refuse_other_kind(policy: Policy, sequential: bool, log: str) -> None:
    """Raise ConfigError for a policy of single rounds on a log of sessions, and the other way round."""
    if policy.sequential and not sequential:
        raise ConfigError(
            f"{policy.artifact.agent} is a policy of sessions, but {log} is no log of sessions: judge it on one"
            " (recpolicy log simulate --sessions)"
        )
    if sequential and not policy.sequential:
        raise ConfigError(
            f"{policy.artifact.agent} acts in single rounds, but {log} is a log of sessions: judge it on rounds"
            " (recpolicy log ingest)"
        )


def refuse_learnt(who: str, policy: Policy, log: str, digest: str) -> None:
    """Raise DataError where the policy, or one before it, has learnt from the log of this digest, or from its slots."""
    line = (policy.metadata, *policy.metadata.get("parents", []))
    if digest in {one.get(kind) for one in line for kind in ("log", "pages")}:
        raise DataError(f"{log}: {who} has learnt from this very log; judge it on another")


def refuse_other_ids(policy: Policy, incumbent: Policy) -> None:
    """Raise DataError for an incumbent of other users or items."""
    one, other = policy.artifact, incumbent.artifact
    for kind, column, here, there in (
        ("users", "user_id", one.users, other.users), ("items", "item_id", one.items, other.items)
    ):  # fmt: skip
        if not np.array_equal(here[column].to_numpy(), there[column].to_numpy()):
            raise DataError(
                f"the incumbent ({incumbent.artifact.agent}) knows other {kind} than the candidate"
                f" ({policy.artifact.agent}): only policies of the same data can be compared"
            )
