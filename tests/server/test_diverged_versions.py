"""A server refuses a version whose training diverged, and serves the one before."""

import shutil

import numpy as np
import pytest
from trained_policies import trained

from recpolicy.core.errors import ArtifactError
from recpolicy.core.files import file_digest
from recpolicy.registry.model_registry import Registry
from recpolicy.server.live_models import ModelManager


@pytest.fixture
def diverged(tmp_path):
    """An artifact with NaN weights that an older recpolicy wrote, with digests that fit."""
    folder = shutil.copytree(trained("lints"), tmp_path / "diverged")
    path, manifest = folder / "arrays.npz", folder / "recpolicy.json"
    with np.load(path) as stored:
        content = dict(stored)
    digest = file_digest(path)
    np.savez(path, **{**content, "policy/theta": np.full_like(content["policy/theta"], np.nan)})
    manifest.write_text(manifest.read_text(encoding="utf-8").replace(digest, file_digest(path)), encoding="utf-8")
    return folder


def test_the_old_version_goes_on(tmp_path, diverged):
    registry = Registry(tmp_path / "registry")
    good, bad = registry.register(trained("linucb")).number, registry.register(diverged).number
    registry.promote(good, ungated=True)
    models = ModelManager.from_registry(registry)
    live = models.live
    registry.promote(bad, ungated=True)
    with pytest.raises(ArtifactError, match=r"policy/theta holds numbers that are not finite.*; train it again"):
        models.refresh()
    assert models.live is live
    assert models.live.champion.number == good
