"""A saved ratings table reads back equal, and anything else than what was saved is refused."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_dataset import miniature_ratings

from recpolicy.core.errors import ArtifactError, ConfigError, DataError
from recpolicy.core.files import content_digest
from recpolicy.data import ratings_store
from recpolicy.data.loaders import load_ratings
from recpolicy.data.ratings import Ratings
from recpolicy.data.ratings_files import ratings_from_frame
from recpolicy.data.ratings_store import load_saved_ratings, load_saved_split, save_ratings
from recpolicy.data.splits import split
from recpolicy.models.rating_models import fit_rating_model


@pytest.fixture(scope="module")
def original():
    return miniature_ratings()


@pytest.fixture
def saved(tmp_path, original):
    save_ratings(original, tmp_path / "ratings", split=("u2", 0))
    return tmp_path / "ratings"


def assert_equal(found: Ratings, expected: Ratings) -> None:
    for name in ("user", "item", "rating", "timestamp"):
        one, other = getattr(found, name), getattr(expected, name)
        assert (one is None) == (other is None)
        if one is not None:
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
    pd.testing.assert_frame_equal(found.users, expected.users)
    pd.testing.assert_frame_equal(found.items, expected.items)
    assert (found.name, found.scale, found.digest) == (expected.name, expected.scale, expected.digest)


def test_table_reads_back_equal(saved, original):
    assert_equal(load_saved_ratings(saved), original)


def test_text_ids_gaps_and_attributes_of_every_kind_come_back_as_they_were(tmp_path):
    users = pd.DataFrame(
        {
            "user_id": ["007", "änne", "x"],
            "age": pd.array([31, None, 8], dtype="Int64"),
            "member": pd.Series([True, None, False], dtype=object),
            "city": pd.Series(["Ulm", None, ""], dtype=object),
            "plan": pd.Categorical(["a", "b", "a"]),
            "score": [0.1, float("nan"), 3.0],
            "since": pd.to_datetime(["2020-01-01", None, "2021-02-03"]),
        }
    )
    items = pd.DataFrame({"item_id": [3, 9], "title": ["Äpfel (1950)", "None"], "genres": ["Drama|War", ""]})
    rows = pd.DataFrame({"user": ["x", "007"], "item": [9, 3], "rating": [0.5, 10]})
    table = ratings_from_frame(rows, users=users, items=items, scale=(0, 10), name="mine")
    by_hand = replace(table, users=users)  # its columns of type object are not turned into text
    for number, ratings in enumerate((table, by_hand)):
        save_ratings(ratings, tmp_path / str(number))
        assert_equal(load_saved_ratings(tmp_path / str(number)), ratings)
    assert load_saved_ratings(tmp_path / "0").scale == (0, 10)


@given(
    rows=st.lists(st.tuples(st.text(min_size=1), st.integers(), st.sampled_from([0.5, 3.0, 5.0])), min_size=1),
    years=st.lists(st.none() | st.integers(1890, 2030), min_size=1),
    times=st.booleans(),
)
def test_any_table_reads_back_equal(tmp_path_factory, rows, years, times):
    user, item, rating = zip(*rows, strict=True)
    users = pd.DataFrame({"user_id": pd.unique(pd.Series(user, dtype=object))})
    items = pd.DataFrame({"item_id": [str(year) for year in range(len(years))], "title": "", "genres": ""})
    items["year"] = pd.array(years, dtype="Int64")
    table = Ratings(
        pd.Index(users["user_id"]).get_indexer(pd.Index(user)).astype(np.int32),
        np.array([number % len(years) for number in item], np.int32),
        np.array(rating, np.float32),
        np.array(item).astype(np.int64, casting="unsafe") if times and max(map(abs, item)) < 2**62 else None,
        users,
        items,
        name="drawn",
        scale=(0.5, 5.0),
    )
    folder = tmp_path_factory.mktemp("drawn") / "ratings"
    save_ratings(table, folder)
    assert_equal(load_saved_ratings(folder), table)


@pytest.mark.parametrize(("name", "seed"), [("u2", 0), ("temporal", 0), ("leave-last-3", 0), ("random", 7)])
def test_split_reads_back_with_the_same_parts_in_the_same_order(tmp_path, original, name, seed):
    expected = split(original, name, seed)
    save_ratings(original, tmp_path / "ratings", split=(name, seed))
    found = load_saved_split(tmp_path / "ratings")
    assert (found.name, found.seed, found.digest) == (name, seed, expected.digest)
    assert_equal(found.train, expected.train)
    assert_equal(found.test, expected.test)


def test_model_fitted_before_saving_is_found_in_the_cache_after_it(tmp_path, saved, original):
    fit_rating_model(split(original, "u2").train, "bias", cache=tmp_path / "cache")
    fit_rating_model(load_saved_split(saved).train, "bias", cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache" / "rating-models").iterdir())) == 1
    fit_rating_model(load_saved_ratings(saved), "bias", cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache" / "rating-models").iterdir())) == 2


def test_one_door_opens_saved_ratings(saved, original):
    assert_equal(load_ratings(saved), original)
    with pytest.raises(ConfigError, match="scale: options of CSV and Parquet files"):
        load_ratings(saved, scale=(1, 10))


def test_loaded_columns_can_be_written_to(saved):
    load_saved_ratings(saved).rating[0] = 1.0


def test_saving_again_replaces_the_table_and_leaves_no_scraps(saved, original):
    save_ratings(original.take(np.arange(10), name="ten"), saved)
    assert len(load_saved_ratings(saved)) == 10
    assert [path.name for path in saved.parent.iterdir()] == ["ratings"]


def test_ratings_without_a_split_say_so(tmp_path, original):
    save_ratings(original, tmp_path / "ratings")
    with pytest.raises(DataError, match="saved without a split"):
        load_saved_split(tmp_path / "ratings")


def test_impossible_split_is_refused_before_anything_is_written(tmp_path, original):
    with pytest.raises(ConfigError, match="no split named 'u9'"):
        save_ratings(original, tmp_path / "ratings", split=("u9", 0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("values", "reason"),
    [(["a", 1, None], "users.parquet: a column cannot be stored"), ([float("nan"), "a", "b"], "'odd' of users")],
    ids=["several types", "text with NaN"],
)
def test_column_that_would_come_back_changed_is_refused_and_nothing_written(tmp_path, original, values, reason):
    odd = pd.Series(values * 20, dtype=object)
    table = replace(original, users=original.users.assign(odd=odd))
    with pytest.raises(DataError, match=reason) as refusal:
        save_ratings(table, tmp_path / "ratings")
    assert "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_failure_in_the_middle_leaves_the_old_table(saved, original, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(ratings_store, "write_json", fail)
    with pytest.raises(OSError, match="disk full"):
        save_ratings(original.take(np.arange(10)), saved)
    assert_equal(load_saved_ratings(saved), original)
    assert [path.name for path in saved.parent.iterdir()] == ["ratings"]


@pytest.mark.parametrize("name", ["ratings.parquet", "users.parquet", "items.parquet"])
def test_changed_or_missing_files_are_refused(saved, name):
    data = bytearray((saved / name).read_bytes())
    data[len(data) // 2] ^= 1
    (saved / name).write_bytes(data)
    with pytest.raises(ArtifactError, match=f"{name}: changed since"):
        load_saved_ratings(saved)
    (saved / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name}: missing"):
        load_ratings(saved)


@pytest.mark.parametrize("change", [{"scale": [0, 9]}, {"name": "other"}, {"split": {"name": "u3", "seed": 0}}])
def test_changed_manifest_is_refused(saved, change):
    body = json.loads((saved / "recpolicy.json").read_text())
    (saved / "recpolicy.json").write_text(json.dumps({**body, **change}))
    with pytest.raises(ArtifactError, match=r"recpolicy\.json: changed since"):
        load_saved_split(saved)


def signed(saved, **changes):
    """The manifest changed by someone who knows how it is signed."""
    body = {**json.loads((saved / "recpolicy.json").read_text()), **changes}
    del body["manifest_digest"]
    (saved / "recpolicy.json").write_text(json.dumps({**body, "manifest_digest": content_digest(body)}))


def test_ratings_of_another_digest_are_refused(saved):
    signed(saved, digest="0" * 64)
    with pytest.raises(ArtifactError, match="do not match the digest"):
        load_saved_ratings(saved)


def test_manifest_without_its_parts_is_refused(saved):
    signed(saved, types={})
    with pytest.raises(ArtifactError, match="not a recpolicy ratings folder that this recpolicy can read"):
        load_saved_ratings(saved)


@pytest.mark.parametrize(
    ("saved_split", "reason"),
    [
        ({"name": "u2", "seed": 0, "digest": "0" * 64}, "gives other parts than at the time of saving"),
        ({"name": "of the future", "seed": 0, "digest": "0" * 64}, "no split named 'of the future'"),
        ({"seed": 0}, "cannot be computed by this recpolicy"),
    ],
)
def test_split_that_is_no_longer_the_same_is_refused(saved, saved_split, reason):
    signed(saved, split=saved_split)
    with pytest.raises(ArtifactError, match=reason):
        load_saved_split(saved)


@pytest.mark.parametrize("text", ["{cut", "[]", '{"format": "recpolicy policy", "version": 1}'])
def test_foreign_or_broken_manifests_are_refused(saved, text):
    (saved / "recpolicy.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"recpolicy\.json: not ") as refusal:
        load_ratings(saved)
    assert "\n" not in str(refusal.value)


def test_absent_folder_is_refused(saved):
    shutil.rmtree(saved)
    with pytest.raises(ArtifactError, match="no such folder"):
        load_saved_ratings(saved)


@pytest.mark.band
def test_movielens_reads_back_equal_with_its_official_fold(tmp_path, ml100k, u1):
    save_ratings(ml100k, tmp_path / "ratings", split=("u1", 0))
    assert_equal(load_saved_ratings(tmp_path / "ratings"), ml100k)
    assert load_saved_split(tmp_path / "ratings").digest == u1.digest


def test_source_is_kept(original, tmp_path):
    save_ratings(replace(original, source={"source": "ml-100k"}), tmp_path / "named", split=("u2", 0))
    assert load_saved_split(tmp_path / "named").train.source == {"source": "ml-100k"}
    save_ratings(replace(original, source=None), tmp_path / "nameless")
    assert load_saved_ratings(tmp_path / "nameless").source is None
