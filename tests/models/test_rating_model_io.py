import json
from dataclasses import fields

import numpy as np
import pytest
from tiny_dataset import miniature_ratings

from recpolicy.core.errors import ArtifactError, DataError
from recpolicy.core.files import content_digest
from recpolicy.models.rating_model import RatingModel
from recpolicy.models.rating_model_io import load_rating_model, save_rating_model
from recpolicy.models.rating_models import fit_rating_model


@pytest.fixture
def saved(tmp_path):
    save_rating_model(fit_rating_model(miniature_ratings(0), "item_knn", cache=None), tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(("name", "config"), [("item_knn", {}), ("bayesian_fm", {"rank": 2, "sweeps": 6})])
def test_loading_gives_back_every_field(tmp_path, name, config):
    model = fit_rating_model(miniature_ratings(0), name, config, seed=2, cache=None)
    assert (model.levels is None) == (name == "item_knn")
    save_rating_model(model, tmp_path / "model")
    loaded = load_rating_model(tmp_path / "model")
    for field in fields(RatingModel):
        value = getattr(model, field.name)
        assert np.array_equal(getattr(loaded, field.name), value) if isinstance(value, np.ndarray) else (
            getattr(loaded, field.name) == value
        )  # fmt: skip


def test_saving_again_replaces_the_model_and_leaves_no_scraps(saved):
    save_rating_model(fit_rating_model(miniature_ratings(0), "bias", cache=None), saved)
    assert load_rating_model(saved).name == "bias"
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


def test_changed_arrays_are_refused(saved):
    data = bytearray((saved / "arrays.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (saved / "arrays.npz").write_bytes(data)
    with pytest.raises(ArtifactError, match=r"arrays\.npz: missing or changed"):
        load_rating_model(saved)


def test_missing_arrays_are_refused(saved):
    (saved / "arrays.npz").unlink()
    with pytest.raises(ArtifactError, match=r"arrays\.npz: missing or changed"):
        load_rating_model(saved)


def test_changed_description_is_refused(saved):
    body = json.loads((saved / "model.json").read_text())
    body["model"]["noise_std"] = 0.1
    (saved / "model.json").write_text(json.dumps(body))
    with pytest.raises(ArtifactError, match=r"model\.json: changed since"):
        load_rating_model(saved)


@pytest.mark.parametrize("text", ["{cut", "[]", '{"format": "something else"}'])
def test_foreign_or_broken_descriptions_are_refused(saved, text):
    (saved / "model.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"model\.json: not"):
        load_rating_model(saved)


def test_names_of_the_first_version_are_mapped(saved):
    """The digest is that of the file as it was written."""
    body = json.loads((saved / "model.json").read_text())
    del body["digest"]
    body["version"] = 1
    body["model"] |= {"name": "movie_mean", "config": {"damping": 1.0, "baseline": {"reg_movie": 3.0}}}
    (saved / "model.json").write_text(json.dumps({**body, "digest": content_digest(body)}))
    model = load_rating_model(saved)
    assert (model.name, model.config) == ("item_mean", {"damping": 1.0, "baseline": {"reg_item": 3.0}})


def test_another_format_version_says_so(saved):
    body = json.loads((saved / "model.json").read_text())
    (saved / "model.json").write_text(json.dumps({**body, "version": 99}))
    with pytest.raises(ArtifactError, match="format version 99, but this recpolicy reads 1, 2"):
        load_rating_model(saved)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"nowhere.*no such file"):
        load_rating_model(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        (np.full((2, 3), 3.0), np.ones((2, 2)), "must be the same"),
        (np.full((2, 3), np.nan), np.ones((2, 3)), "must lie in 1..5"),
        (np.full((2, 3), 5.5), np.ones((2, 3)), "must lie in 1..5"),
        (np.full((2, 3), 3.0), np.full((2, 3), -1.0), "not negative"),
    ],
)
def test_a_model_checks_itself(mean, std, message):
    with pytest.raises(DataError, match=message):
        RatingModel("bias", mean, std, 1.0, (1.0, 5.0), "digest", 0, {})
