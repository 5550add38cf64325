"""An archive becomes a version, or is refused whole with one line, and nothing is left behind."""

import io
import stat
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_feature_log import tiny_policy
from tiny_policies import write_tiny

from recpolicy.core.errors import ArtifactError
from recpolicy.inference.feature_artifact import write_feature_policy
from recpolicy.inference.load_scorer import load_scorer
from recpolicy.registry.import_version import ImportLimits, import_version, unpack_version
from recpolicy.registry.model_registry import Registry


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    """Read only."""
    return write_tiny(tmp_path_factory.mktemp("artifact") / "policy")


def files_of(artifact):
    """Name and content of each file."""
    return {
        str(path.relative_to(artifact)): path.read_bytes() for path in sorted(artifact.rglob("*")) if path.is_file()
    }


def zipped(path, files, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files:
            archive.writestr(name, content)
    return path


def tarred(path, files, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in files:
            member = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def packed(kind, path, files):
    return zipped(path, files) if kind == "zip" else tarred(path, files, "w" if kind == "tar" else "w:gz")


def refusal(archive, folder, **words):
    """The message; nothing may be left where the artifact would have been."""
    target = folder / "into" / "policy"
    with pytest.raises(ArtifactError) as refused:
        unpack_version(archive, target, **words)
    assert "\n" not in str(refused.value)
    assert list((folder / "into").iterdir()) == []
    return str(refused.value)


every_kind = pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])


@every_kind
@pytest.mark.parametrize("top", ["", "policy/", "./"])
def test_an_artifact_is_unpacked_from_the_top_or_the_only_folder(artifact, tmp_path, kind, top):
    files = [(top + name, content) for name, content in files_of(artifact).items()]
    folder = unpack_version(packed(kind, tmp_path / f"policy.{kind}", files), tmp_path / "into" / "policy")
    assert files_of(folder) == files_of(artifact)
    assert load_scorer(folder).predict_one(1).score.shape == (11,)
    assert [path.name for path in folder.parent.iterdir()] == ["policy"]


def test_folders_may_have_entries_and_files_that_are_no_part_are_left_out(artifact, tmp_path):
    files = [("policy/", b""), ("policy/action/", b""), *((f"policy/{n}", c) for n, c in files_of(artifact).items())]
    archive = zipped(tmp_path / "policy.zip", [*files, ("policy/report.html", b"<html>")])
    assert files_of(unpack_version(archive, tmp_path / "policy")) == files_of(artifact)


@every_kind
def test_it_is_registered_with_a_note(artifact, tmp_path, kind):
    registry = Registry(tmp_path / "registry")
    archive = packed(kind, tmp_path / "archive", files_of(artifact).items())  # the name says nothing
    assert import_version(registry, archive, note={"who": "ann"}).number == 1
    assert registry.audit()[0]["note"] == {"who": "ann"}
    assert import_version(registry, archive).number == 1


@every_kind
@pytest.mark.parametrize(
    "name",
    ["../outside", "policy/../../outside", "/tmp/outside", "..", "a/..", "..\\outside", "C:outside", "a\nb", "\x01"],
)
def test_names_outside_the_folder_are_refused(artifact, tmp_path, kind, name):
    files = [*files_of(artifact).items(), (name, b"evil")]
    assert "not inside the archive's own folder" in refusal(packed(kind, tmp_path / "archive", files), tmp_path)
    assert not (tmp_path / "outside").exists()
    assert not Path("/tmp/outside").exists()


@pytest.mark.parametrize(
    "type_", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE]
)
def test_links_and_devices_are_refused_in_tar(artifact, tmp_path, type_):
    link = tarfile.TarInfo("arrays")
    link.type, link.linkname = type_, "/etc/hostname"
    archive = tarred(tmp_path / "archive", [(link, b""), *files_of(artifact).items()])
    assert "'arrays' is not a file or folder" in refusal(archive, tmp_path)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_are_refused_in_zip(artifact, tmp_path, kind):
    link = zipfile.ZipInfo("arrays")
    link.external_attr = (kind | 0o777) << 16
    archive = zipped(tmp_path / "archive", [(link, b"/etc/hostname"), *files_of(artifact).items()])
    assert "'arrays' is not a file or folder" in refusal(archive, tmp_path)


@every_kind
@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("again", ["users.parquet", "./users.parquet", "Users.parquet", "users.parquet/x", "action"])
def test_two_entries_of_one_path_are_refused(artifact, tmp_path, kind, again):
    files = [*files_of(artifact).items(), (again, b"other")]
    assert f"contains {again!r} twice" in refusal(packed(kind, tmp_path / "archive", files), tmp_path)


@every_kind
def test_too_many_files_are_refused(artifact, tmp_path, kind):
    archive = packed(kind, tmp_path / "archive", [*files_of(artifact).items(), *((f"x/{n}", b"") for n in range(30))])
    assert "contains more than 20 entries" in refusal(archive, tmp_path, limits=ImportLimits(files=20))
    assert unpack_version(archive, tmp_path / "policy", limits=ImportLimits(files=40)).is_dir()


@every_kind
def test_too_many_bytes_are_refused_before_they_are_written(artifact, tmp_path, kind):
    archive = packed(kind, tmp_path / "archive", [("bomb", bytes(5_000_000)), *files_of(artifact).items()])
    assert kind == "tar" or archive.stat().st_size < 100_000
    assert "unpacks to more than 1,000,000 bytes" in refusal(
        archive, tmp_path, limits=ImportLimits(total_bytes=1_000_000)
    )


def test_a_zip_that_claims_to_be_smaller_than_it_is_is_refused(artifact, tmp_path):
    archive = zipped(tmp_path / "archive", [("bomb", bytes(5_000_000)), *files_of(artifact).items()])
    data = archive.read_bytes()
    claimed = struct.pack("<I", 5_000_000)
    assert data.count(claimed) == 2  # beside the file, and in the directory at the end
    archive.write_bytes(data.replace(claimed, struct.pack("<I", 10)))
    assert "cannot be unpacked" in refusal(archive, tmp_path, limits=ImportLimits(total_bytes=1_000_000))


def test_a_header_that_claims_gigabytes_is_not_read(tmp_path):
    long_name = tarfile.TarInfo("././@LongLink")
    long_name.type, long_name.size = tarfile.GNUTYPE_LONGNAME, 3 << 30
    (tmp_path / "archive").write_bytes(long_name.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    assert "a header is longer than a header can be" in refusal(tmp_path / "archive", tmp_path)


def test_an_entry_of_negative_size_is_refused(tmp_path):
    """It would lead back to itself (CVE-2025-8194)."""
    entry = tarfile.TarInfo("a")
    entry.size = -512
    (tmp_path / "archive").write_bytes(entry.tobuf(tarfile.GNU_FORMAT) * 2 + bytes(1024))
    assert "accepts no links" in refusal(tmp_path / "archive", tmp_path)


def test_headers_nested_without_end_are_refused(tmp_path):
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2
    (tmp_path / "archive").write_bytes((header.tobuf(tarfile.GNU_FORMAT) + b"x\0".ljust(512, b"\0")) * 5000)
    refusal(tmp_path / "archive", tmp_path)


def test_an_encrypted_entry_is_refused(artifact, tmp_path):
    archive = zipped(tmp_path / "archive", files_of(artifact).items())
    data = bytearray(archive.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + offset] |= 1
    archive.write_bytes(data)
    assert "password" in refusal(archive, tmp_path)


def test_a_changed_or_missing_file_of_the_artifact_is_refused(artifact, tmp_path):
    files = files_of(artifact)
    changed = zipped(tmp_path / "changed", {**files, "arrays.npz": b"other"}.items())
    assert "arrays.npz: missing or changed" in refusal(changed, tmp_path)
    del files["users.parquet"]
    assert "users.parquet: missing or changed" in refusal(zipped(tmp_path / "missing", files.items()), tmp_path)


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x03\x04cut", b"\x1f\x8bcut", b"anything else", bytes(5000)])
def test_what_is_no_archive_is_refused(tmp_path, content):
    (tmp_path / "archive").write_bytes(content)
    refusal(tmp_path / "archive", tmp_path)


def test_what_is_not_there_or_in_the_way_is_said(artifact, tmp_path):
    assert "No such file" in refusal(tmp_path / "absent.zip", tmp_path)
    archive = zipped(tmp_path / "archive", files_of(artifact).items())
    (tmp_path / "taken").mkdir()
    with pytest.raises(ArtifactError, match="taken: already exists"):
        unpack_version(archive, tmp_path / "taken")


def test_an_archive_without_a_policy_is_refused(tmp_path):
    assert "contains no policy" in refusal(zipped(tmp_path / "a", [("x/y", b""), ("z/recpolicy.json", b"")]), tmp_path)
    assert "contains no policy" in refusal(zipped(tmp_path / "b", []), tmp_path)


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(["zip", "tar", "tar.gz"]), at=st.integers(0, 10**6), flip=st.integers(1, 255))
def test_a_damaged_archive_is_unpacked_as_it_was_or_refused(artifact, tmp_path_factory, kind, at, flip):
    folder = tmp_path_factory.mktemp("damaged")
    archive = packed(kind, folder / "archive", files_of(artifact).items())
    data = bytearray(archive.read_bytes())
    data[at % len(data)] ^= flip
    archive.write_bytes(data)
    try:
        unpacked = unpack_version(archive, folder / "into" / "policy")
    except ArtifactError:
        assert list((folder / "into").iterdir()) == []
    else:  # the manifest names all files but itself, and a tar has no checksum of it
        assert {**files_of(unpacked), "recpolicy.json": None} == {**files_of(artifact), "recpolicy.json": None}


def test_an_archive_of_a_feature_policy_becomes_a_version(tmp_path):
    policy = tiny_policy("linucb_shared")
    write_feature_policy(policy, tmp_path / "policy")
    archive = packed("tar.gz", tmp_path / "policy.tar.gz", list(files_of(tmp_path / "policy").items()))
    version = import_version(Registry(tmp_path / "registry"), archive)
    assert version.policy_digest == policy.policy_digest
    damaged = {**files_of(tmp_path / "policy"), "features.json": b"{}"}
    archive = packed("zip", tmp_path / "damaged.zip", list(damaged.items()))
    with pytest.raises(ArtifactError, match=r"features\.json: missing or changed since it was written"):
        import_version(Registry(tmp_path / "registry"), archive)
    assert [version.number for version in Registry(tmp_path / "registry").versions()] == [1]
