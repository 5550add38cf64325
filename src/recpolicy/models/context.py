"""User contexts: the embedding and, optionally, demographics. U users, D embedding."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.models.embeddings import Embeddings

_OLDEST = 75.0


def contexts(embeddings: Embeddings, users: pd.DataFrame, demographics: bool = False) -> NDArray[np.float32]:
    """Return the contexts [U, D], with demographics [U, D + ...]: age / 75, gender and occupation as 0/1 columns.

    Attributes missing from the users table are omitted; an unknown age counts as the mean age.
    """
    parts = [embeddings.user]
    if demographics and "age" in users:
        age = pd.to_numeric(users["age"], errors="coerce").to_numpy(np.float32, na_value=np.nan)
        known = age[np.isfinite(age)]
        mean = known.mean() if len(known) else 0.0
        parts.append((np.where(np.isfinite(age), age, mean) / _OLDEST).astype(np.float32)[:, np.newaxis])
    if demographics:
        for column in ("gender", "occupation"):
            if column in users:
                parts.append(pd.get_dummies(users[column]).to_numpy(np.float32))
    return np.concatenate(parts, axis=1)
