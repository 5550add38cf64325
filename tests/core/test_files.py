"""Files that are whole or not there, and digests that tell contents apart."""

import json
import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from recpolicy.core import files
from recpolicy.core.errors import ArtifactError
from recpolicy.core.files import (
    Repeated,
    atomic_directory,
    atomic_path,
    content_digest,
    file_digest,
    read_versioned_json,
    rename_keys,
    write_json,
    write_text,
)


class Interrupted(Exception):
    """Stands for whatever may happen in the middle of writing."""


def write_and_fail(temporary, name="half.txt"):
    write_text(temporary / name if temporary.is_dir() else temporary, "half")
    raise Interrupted


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_text_is_written_in_utf8_and_folders_are_made(tmp_path):
    write_text(tmp_path / "a" / "b.txt", "Café\n")
    assert (tmp_path / "a" / "b.txt").read_bytes() == "Café\n".encode()
    assert names(tmp_path / "a") == ["b.txt"]


@pytest.mark.parametrize(
    ("folder", "file", "inner"), [(0o700, 0o600, 0o700), (0o755, 0o644, 0o755), (0o777, 0o644, 0o755)]
)
def test_a_new_file_is_as_readable_as_its_folder(tmp_path, folder, file, inner):
    tmp_path.chmod(folder)
    with atomic_path(tmp_path / "file") as path:
        path.write_text("text")
    with atomic_directory(tmp_path / "inner") as path:
        pass
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"file": file, "inner": inner}


def test_json_is_sorted_and_refuses_what_json_has_not(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": [1.5]})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": [\n    1.5\n  ],\n  "b": 1\n}\n'
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"b": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text())["b"] == 1


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.txt"
    write_text(target, "old")
    with pytest.raises(Interrupted), atomic_path(target) as temporary:
        write_and_fail(temporary)
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_nobody_sees_a_file_before_it_is_whole(tmp_path):
    target = tmp_path / "a.txt"
    write_text(target, "old")
    with atomic_path(target) as temporary:
        temporary.write_text("half")
        assert target.read_text() == "old"
    assert target.read_text() == "half"


def test_failure_leaves_the_old_folder_and_nothing_else(tmp_path):
    target = tmp_path / "run"
    target.mkdir()
    write_text(target / "old.txt", "old")
    with pytest.raises(Interrupted), atomic_directory(target) as temporary:
        write_and_fail(temporary)
    assert names(tmp_path) == ["run"]
    assert names(target) == ["old.txt"]


def test_new_folder_replaces_the_old_one_whole(tmp_path):
    target = tmp_path / "run"
    for name in ("first.txt", "second.txt"):
        with atomic_directory(target) as temporary:
            write_text(temporary / name, name)
    assert names(target) == ["second.txt"]
    assert names(tmp_path) == ["run"]


def test_old_folder_comes_back_when_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    target = tmp_path / "run"
    target.mkdir()
    write_text(target / "old.txt", "old")
    move = Path.replace

    def fail_for_the_new_one(source, destination):
        if source.suffix == ".part":
            raise PermissionError("the disk says no")
        return move(source, destination)

    monkeypatch.setattr(Path, "replace", fail_for_the_new_one)
    with pytest.raises(PermissionError), atomic_directory(target):
        pass
    assert names(target) == ["old.txt"]
    assert names(tmp_path) == ["run"]


def test_old_folder_is_kept_aside_when_not_even_it_can_come_back(tmp_path, monkeypatch):
    target = tmp_path / "run"
    target.mkdir()
    write_text(target / "old.txt", "old")
    move = Path.replace

    def only_aside(source, destination):
        if destination == target:
            raise PermissionError("the disk says no")
        return move(source, destination)

    monkeypatch.setattr(Path, "replace", only_aside)
    with pytest.raises(PermissionError), atomic_directory(target):
        pass
    (aside,) = tmp_path.iterdir()
    assert names(aside) == ["old.txt"]


def test_file_digest_reads_all_of_a_large_file(tmp_path):
    path = tmp_path / "large"
    path.write_bytes(b"a" * ((1 << 20) + 1))
    # printf 'a%.0s' $(seq 1048577) | md5sum
    assert file_digest(path, "md5") == "6f0555ac53cecbf068d354c08863805a"
    path.write_bytes(b"a" * (1 << 20) + b"b")
    assert file_digest(path, "md5") != "6f0555ac53cecbf068d354c08863805a"


values = st.one_of(
    st.integers(-3, 3),
    st.sampled_from(["", "a", "b", "ab", None, True, 1.5]),
    arrays.arrays(
        st.sampled_from([np.int32, np.int64]), arrays.array_shapes(max_dims=2, max_side=2), elements=st.integers(0, 1)
    ),
)


def plain(part):
    """What two parts must share to count as the same."""
    return repr((part.dtype.str, part.shape, part.tolist()) if isinstance(part, np.ndarray) else part)


@given(st.lists(values, max_size=3), st.lists(values, max_size=3))
def test_content_digest_tells_contents_apart_and_nothing_else(left, right):
    assert (content_digest(*left) == content_digest(*right)) == ([*map(plain, left)] == [*map(plain, right)])


def test_content_digest_does_not_see_how_an_array_lies_in_memory():
    table = np.arange(6, dtype=np.int32).reshape(2, 3)
    assert content_digest(np.asfortranarray(table)) == content_digest(table)
    assert content_digest(table.T) != content_digest(table)


def test_content_digest_of_words_and_mappings():
    words = np.array(["a", "b"], object)
    assert content_digest(words) == content_digest(words.copy()) != content_digest(words[::-1])
    assert content_digest({"a": 1, "b": 2}) == content_digest({"b": 2, "a": 1})


FORMAT = "recpolicy example"
MIGRATIONS = {
    1: lambda body: rename_keys(body, {"colour": "color"}),
    2: lambda body: {**body, "size": body["width"] * body["height"]},
}


def example(tmp_path, **content):
    write_json(tmp_path / "a.json", {"format": FORMAT, **content})
    return tmp_path / "a.json"


@pytest.mark.parametrize(
    ("version", "content"),
    [
        (1, {"colour": "red", "width": 2, "height": 3}),
        (2, {"color": "red", "width": 2, "height": 3}),
        (3, {"color": "red", "width": 2, "height": 3, "size": 6}),
    ],
)
def test_older_versions_are_migrated_step_by_step(tmp_path, version, content):
    body = read_versioned_json(example(tmp_path, version=version, **content), FORMAT, 3, MIGRATIONS)
    assert body == {"format": FORMAT, "version": 3, "color": "red", "width": 2, "height": 3, "size": 6}


@pytest.mark.parametrize("version", [0, 4, 2.0, "2", True, None])
def test_unknown_versions_are_refused(tmp_path, version):
    with pytest.raises(ArtifactError, match=r"a\.json: format version .*, but this recpolicy reads 1, 2, 3"):
        read_versioned_json(example(tmp_path, version=version), FORMAT, 3, MIGRATIONS)


def test_an_incomplete_file_of_an_older_version_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="not a complete file of format version 2: KeyError"):
        read_versioned_json(example(tmp_path, version=2, width=2), FORMAT, 3, MIGRATIONS)


def test_a_digest_is_that_of_the_file_as_it_was_written(tmp_path):
    body = {"format": FORMAT, "version": 1, "colour": "red", "width": 2, "height": 3}
    path = example(tmp_path, **body, digest=content_digest(body))
    read = read_versioned_json(path, FORMAT, 3, MIGRATIONS, digest_key="digest")
    assert (read["color"], "digest" in read) == ("red", False)
    write_json(path, {**body, "digest": content_digest(body), "colour": "blue"})
    with pytest.raises(ArtifactError, match="changed since it was written; save it again"):
        read_versioned_json(path, FORMAT, 3, MIGRATIONS, digest_key="digest", advice="save it again")


def test_older_versions_may_have_another_name_of_the_format(tmp_path):
    path = example(tmp_path, version=1, colour="red", width=2, height=3)
    migrations = {1: lambda body: {**body, "format": "recpolicy sample"}}
    assert read_versioned_json(path, "recpolicy sample", 2, migrations, former_format=FORMAT)["version"] == 2
    with pytest.raises(ArtifactError, match="not a recpolicy sample"):
        read_versioned_json(path, "recpolicy sample", 2, migrations)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "not a recpolicy example"),
        ("[]", "not a recpolicy example"),
        ("{", "not readable as JSON"),
        (None, "no such file"),
    ],
)
def test_other_files_are_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / "a.json").write_text(text)
    with pytest.raises(ArtifactError, match=message):
        read_versioned_json(tmp_path / "a.json", FORMAT, 1)


def test_keys_are_renamed_at_the_top_or_everywhere():
    body = {"a": {"a": 1}, "b": [{"a": 2}], "c": 3}
    assert rename_keys(body, {"a": "x"}) == {"x": {"a": 1}, "b": [{"a": 2}], "c": 3}
    assert rename_keys(body, {"a": "x"}, nested=True) == {"x": {"x": 1}, "b": [{"x": 2}], "c": 3}
    assert list(rename_keys(body, {"a": "x"})) == ["x", "b", "c"]
    assert rename_keys(None, {"a": "x"}) is None


def test_content_digest_of_repeated_texts_is_that_of_their_array(monkeypatch):
    values = np.array(["a", 'é"x', "7", ""], object)
    rows = np.array([3, 0, 1, 1, 2, 0, 3], np.int32)
    expected = content_digest(values[rows], "and", values[:0])
    for size in (1, 3, 100):
        monkeypatch.setattr(files, "_TEXTS", size)
        assert content_digest(Repeated(values, rows), "and", Repeated(values, rows[:0])) == expected
