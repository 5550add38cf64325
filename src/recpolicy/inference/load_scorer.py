"""Load a policy for answering: its files are checked, and it has to answer once before it is used."""

from pathlib import Path

from recpolicy.inference.artifact import read_inference_artifact
from recpolicy.inference.artifact_files import artifact_errors
from recpolicy.inference.scorer import CACHE_BYTES, Scorer
from recpolicy.inference.self_test import self_test
from recpolicy.inference.tuned_scorer import with_layer


def load_scorer(folder: str | Path, cache_bytes: int = CACHE_BYTES) -> Scorer:
    """Load a policy artifact for answering; raises ArtifactError for one that is damaged, foreign or cannot answer.

    Imports neither pandas nor TensorFlow, unless the artifact has no tables.json: then pandas. `cache_bytes` bounds the
    answers that are kept.
    """
    with artifact_errors(Path(folder)):
        scorer = with_layer(Scorer(read_inference_artifact(Path(folder)), cache_bytes), Path(folder))
        scorer.prepare()
        self_test(scorer)
        return scorer
