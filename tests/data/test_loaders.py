"""One door to ratings: names, folders, files."""

import json
import shutil

import pandas as pd
import pytest

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.datasets import data_folder
from recpolicy.data.loaders import load_ratings
from recpolicy.data.splits import split


@pytest.fixture(autouse=True)
def empty_directory(tmp_path, monkeypatch):
    """Every test runs in an empty directory without RECPOLICY_DATA."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RECPOLICY_DATA", raising=False)
    return tmp_path


def test_name_is_found_in_the_current_directory(miniature_folder, empty_directory):
    shutil.copytree(miniature_folder, empty_directory / "ml-100k")
    assert load_ratings("ml-100k").name == "ml-100k"


@pytest.mark.parametrize("up", [0, 1], ids=["the folder itself", "the folder above"])
def test_name_is_found_where_the_environment_says(miniature_folder, monkeypatch, up):
    monkeypatch.setenv("RECPOLICY_DATA", str([miniature_folder, miniature_folder.parent][up]))
    assert load_ratings("ml-100k").shape == (60, 80)
    assert data_folder("ml-1m") != data_folder("ml-100k")


def test_folder_is_read_by_what_is_in_it(miniature_folder, empty_directory):
    assert load_ratings(shutil.copytree(miniature_folder, empty_directory / "mine")).name == "mine"


def test_file_is_read_with_its_options(empty_directory):
    (empty_directory / "mine.csv").write_text("uid;item;rating\n1;2;9\n")
    ratings = load_ratings("mine.csv", columns={"user": "uid"}, separator=";", scale=(0, 10))
    assert (ratings.name, ratings.rating.tolist()) == ("mine", [9])


def test_absent_dataset_says_what_to_run():
    with pytest.raises(DataError, match="ml-100k is not here; run: recpolicy data fetch"):
        load_ratings("ml-100k")
    with pytest.raises(DataError, match="download ml-1m from GroupLens"):
        load_ratings("ml-1m")


def test_unknown_name_is_given_the_nearest_known():
    with pytest.raises(DataError, match=r"ml-10k: no such file or folder\. Did you mean 'ml-100k'\?"):
        load_ratings("ml-10k")


def test_options_of_files_are_refused_for_folders(miniature_folder):
    with pytest.raises(ConfigError, match="scale: options of CSV and Parquet files"):
        load_ratings(miniature_folder, scale=(1, 10))


def test_a_data_frame_gives_the_ratings_of_the_same_file(tmp_path):
    frame = pd.DataFrame({"uid": [1, 1, 2], "item": ["a", "b", "a"], "rating": [5.0, 1.0, 3.0]})
    frame.to_csv(tmp_path / "mine.csv", index=False)
    options = {"columns": {"user": "uid"}, "scale": (0, 5)}
    assert load_ratings(frame, **options).digest == load_ratings(tmp_path / "mine.csv", **options).digest
    with pytest.raises(ConfigError, match="separator and header are options of text files"):
        load_ratings(frame, separator=";")


def test_ratings_know_how_they_are_read_again(empty_directory):
    (empty_directory / "mine.csv").write_text("uid;item;rating\n" + "".join(f"{n};{n % 3};{n}\n" for n in range(10)))
    ratings = load_ratings("mine.csv", columns={"user": "uid"}, separator=";", scale=(0, 10))
    parts = split(ratings, "random")
    assert parts.train.source == parts.test.source == ratings.source
    assert load_ratings(**ratings.source).digest == ratings.digest
    assert json.loads(json.dumps(ratings.source)) == ratings.source | {"scale": [0, 10]}


def test_ratings_of_a_data_frame_have_no_source(empty_directory):
    table = pd.DataFrame({"user": [1, 1], "item": [2, 3], "rating": [3, 4]})
    assert load_ratings(table).source is None
    table.to_csv("mine.csv", index=False)
    titles = pd.DataFrame({"item": [2, 3], "title": ["A", "B"]})
    assert load_ratings("mine.csv", items=titles).source is None


def test_short_texts(miniature_folder):
    ratings = load_ratings(miniature_folder)
    assert repr(ratings) == f"Ratings({ratings.name}: {len(ratings):,} ratings of 60 users on 80 items)"
    assert repr(split(ratings, "random")).startswith("Split(random: train ")
