"""Ask a loaded policy for answers before anybody else does.

The checks of artifact_checks.py look at each part of an artifact; only an answer shows that the parts fit each other.
n users, I items, A arms.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ArtifactError
from recpolicy.inference.block_prediction import BatchPrediction, BatchScores, estimate_rewards
from recpolicy.inference.slate_selection import ExplorationConfig, choose_slate

if TYPE_CHECKING:
    from recpolicy.inference.scorer import FoldIn, Scorer

_NEW = ("a new user",)
"""An id that no table holds: ids are numbers or texts."""
_SHOWN = 10
_CLOSE = 1e-3
_WITH_EXPLORATION = ExplorationConfig(share=0.5)


@contextmanager
def answer_errors() -> Iterator[None]:
    """Raise ArtifactError for every error within: arrays that do not fit each other raise many kinds."""
    try:
        with np.errstate(all="ignore"):
            yield
    except ArtifactError:
        raise
    except Exception as error:
        raise ArtifactError(f"the policy cannot answer: {type(error).__name__}: {error}: train it again") from error


def self_test(scorer: "Scorer") -> None:
    """Score, predict and recommend for a known and a new user.

    Raises ArtifactError unless every answer has the right length and finite numbers, and probabilities add up to 1.
    """
    with answer_errors():
        _check_answers(scorer)


def _check_answers(scorer: "Scorer") -> None:
    users, arms = scorer.user_ids[:1] + scorer.user_ids[-1:], len(scorer.action_items)
    known = next(scorer.contexts(users, {}, len(users)))
    estimate, rating = estimate_rewards(scorer.artifact, known.context)
    _check_shape("rating", rating, (len(users), len(scorer.item_ids)))
    for name in ("mean", "width", "score", "bound", "std_ratio"):
        _check_shape(name, getattr(estimate, name), (len(users), arms))
    _check_scores(scorer, next(scorer.score_batches(users)), len(users))
    low, high = scorer.scale
    fold_in: FoldIn = {_NEW: {scorer.item_ids[-1]: low, scorer.item_ids[0]: high}}
    history = {users[0]: [(scorer.item_ids[scorer.action_items[0]], True)]} if scorer.sequential and arms > 1 else None
    _check_prediction(scorer, next(scorer.predict_batches(users[:1], history=history)))
    prediction = next(scorer.predict_batches([_NEW], fold_in))
    _check_prediction(scorer, prediction)
    score, k = prediction.score[0].astype(np.float64), min(_SHOWN, arms)
    slate = choose_slate(score, np.ones(arms, bool), k, _WITH_EXPLORATION, np.random.default_rng(0), explored=False)
    _check("propensity", slate.propensity, (k,))
    _ = scorer.rated(users[0])


def _check_prediction(scorer: "Scorer", prediction: BatchPrediction) -> None:
    scores = BatchScores(prediction.rating, prediction.std, prediction.value, prediction.score)
    _check_scores(scorer, scores, 1)
    probability = prediction.probability
    _check("probability", probability, (1, len(scorer.item_ids)))
    if probability.min() < 0 or abs(float(probability.sum()) - 1) > _CLOSE:
        raise ArtifactError("the policy's probabilities do not add up to 1: train it again")


def _check_scores(scorer: "Scorer", scores: BatchScores, n: int) -> None:
    for name in ("rating", "std", "value"):
        _check(name, getattr(scores, name), (n, len(scorer.item_ids)))
    _check("score", scores.score, (n, len(scorer.action_items)))


def _check(name: str, values: NDArray[Any] | None, shape: tuple[int, ...]) -> None:
    """Raise ArtifactError unless the values have the shape and are finite; None is right."""
    _check_shape(name, values, shape)
    if values is not None and not np.isfinite(values).all():
        raise ArtifactError(f"the policy answers with a {name} that is not finite: train it again")


def _check_shape(name: str, values: NDArray[Any] | None, shape: tuple[int, ...]) -> None:
    if values is not None and values.shape != shape:
        raise ArtifactError(
            f"the policy's arrays do not fit: a {name} of {list(values.shape)}; expected {list(shape)}: train it again"
        )
