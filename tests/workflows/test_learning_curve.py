"""The curve of held-out choices: its ends are the untrained and the trained policy, and no test rating moves it."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from tiny_dataset import write_miniature
from trained_policies import TINY, loaded, miniature_split, trained

from recpolicy.core.errors import ArtifactError, DataError
from recpolicy.data.loaders import load_ratings
from recpolicy.data.splits import split
from recpolicy.inference.predictor import load_policy
from recpolicy.workflows.held_out_evaluation import evaluate
from recpolicy.workflows.learning_curve import learning_curve
from recpolicy.workflows.policy_training import train
from recpolicy.workflows.session_training import train_sessions

SESSIONS = {"total_timesteps": 2_000, "batch_size": 8, "rating_model": "bias", "rank": 4, "max_episode_steps": 10}


def test_curve_begins_at_the_rating_model_and_ends_at_the_policy():
    """LinUCB starts from the rating model's embeddings, so its first choice is that of the greedy rating model."""
    policy, parts = loaded("linucb"), miniature_split()
    curve = learning_curve(policy, parts, trained("linucb"))
    assert curve is not None
    steps = list(curve.choices)
    assert steps[0] == 0
    assert steps == sorted(steps)
    assert steps[-1] == TINY["total_timesteps"]
    results = evaluate({"linucb": policy}, parts).evaluation.policies
    assert curve.choices[steps[-1]] == results["linucb"].held_out_choice
    assert curve.choices[0].value == pytest.approx(results["rating_model"].held_out_choice.value, abs=1e-9)


def test_snapshots_are_choices_of_their_own(tmp_path):
    """With other arrays at a step, the curve has another choice at this step only."""
    policy, parts, folder = loaded("linucb"), miniature_split(), trained("linucb")
    curve = learning_curve(policy, parts, folder)
    worse = shutil.copytree(folder, tmp_path / "worse")
    path = sorted((worse / "snapshots").glob("*.npz"), key=lambda path: int(path.stem))[1]
    arrays = dict(np.load(path))
    np.savez(path, **{**arrays, "theta": -arrays["theta"]})
    other = learning_curve(policy, parts, worse)
    step = int(path.stem)
    assert other.choices[step].value < curve.choices[step].value - 0.2
    assert {**other.choices, step: None} == {**curve.choices, step: None}


def test_session_policy_has_a_curve(tmp_path):
    parts = split(load_ratings(write_miniature(tmp_path / "data")), "u1")
    policy = train_sessions("a2c", parts, tmp_path / "run", config=SESSIONS)
    curve = learning_curve(policy, parts, tmp_path / "run")
    result = evaluate({"a2c": policy}, parts).evaluation.policies["a2c"]
    choices = list(curve.choices.items())
    assert len(choices) > 3
    assert choices[0][0] == 0
    assert choices[-1] == (policy.metadata["training"]["total_timesteps"], result.held_out_choice)


def test_policy_that_learned_from_ratings_has_no_curve(tmp_path):
    parts = miniature_split()
    config = {**TINY, "mode": "offline"}
    policy = train("linucb", parts, tmp_path / "run", config=config)
    assert learning_curve(policy, parts, tmp_path / "run") is None


def test_damaged_snapshot_is_named(tmp_path):
    folder = shutil.copytree(trained("linucb"), tmp_path / "policy")
    (folder / "snapshots" / "0.npz").write_bytes(b"not arrays")
    with pytest.raises(ArtifactError, match="snapshots"):
        learning_curve(load_policy(folder), miniature_split(), folder)


def test_another_split_is_refused():
    parts = miniature_split()
    with pytest.raises(DataError, match="may have seen test ratings"):
        learning_curve(loaded("linucb"), replace(parts, train=parts.test, test=parts.train), trained("linucb"))
