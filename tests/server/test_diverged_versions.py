"""The registry refuses a version whose training diverged, and the server serves the one before."""

import shutil

import numpy as np
import pytest
from hostile_policies import seal
from trained_policies import trained

from recpolicy.core.errors import ArtifactError
from recpolicy.registry.model_registry import Registry
from recpolicy.server.live_models import ModelManager


@pytest.fixture
def diverged(tmp_path):
    """An artifact with NaN weights that an older recpolicy wrote, with digests that fit."""
    folder = shutil.copytree(trained("lints"), tmp_path / "diverged")
    with np.load(folder / "arrays.npz") as stored:
        content = dict(stored)
    np.savez(folder / "arrays.npz", **{**content, "policy/theta": np.full_like(content["policy/theta"], np.nan)})
    seal(folder)
    return folder


def test_the_old_version_goes_on(tmp_path, diverged):
    registry = Registry(tmp_path / "registry")
    registry.promote(registry.register(trained("linucb")).number, ungated=True)
    models = ModelManager.from_registry(registry)
    live = models.live
    with pytest.raises(ArtifactError, match=r"policy/theta holds numbers that are not finite.*; train it again"):
        registry.register(diverged)
    assert [version.number for version in registry.versions()] == [1]
    models.refresh()
    assert models.live.champion.scorer is live.champion.scorer
