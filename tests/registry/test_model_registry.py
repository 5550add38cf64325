"""What a registry promises: versions that never change, aliases that move whole, an account of every change."""

import json
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_feature_log import tiny_policy
from tiny_policies import write_tiny
from waiting import PATIENCE

from recpolicy.core.errors import ArtifactError, ConfigError, DataError
from recpolicy.core.files import content_digest, file_digest
from recpolicy.inference.feature_artifact import read_feature_policy, write_feature_policy
from recpolicy.inference.predictor import load_policy
from recpolicy.registry import model_registry as registry_module
from recpolicy.registry.model_registry import Registry


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    """Three policies; read only."""
    root = tmp_path_factory.mktemp("artifacts")
    return [write_tiny(root / str(seed), seed) for seed in range(3)]


@pytest.fixture(scope="module")
def made(tmp_path_factory, artifacts):
    """A registry with three versions, none promoted; read only."""
    folder = tmp_path_factory.mktemp("made") / "registry"
    for number, artifact in enumerate(artifacts):
        Registry(folder).register(artifact, gate={"verdict": "pass", "value": number / 7}, lineage={"run": number})
    return folder


@pytest.fixture
def registry(made, tmp_path):
    """A copy to be changed."""
    return Registry(shutil.copytree(made, tmp_path / "registry"))


def changes(registry):
    return [(line["change"], line["number"]) for line in registry.audit()]


def snapshot(folder: Path) -> dict[str, str]:
    """Every file with its digest; the lock is no content."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): file_digest(path) for path in files}


def damage(registry, number, name="arrays.npz"):
    path = registry.resolve(number) / name
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_versions_are_numbered_from_one_and_say_what_they_are(registry, artifacts):
    versions = registry.versions()
    assert [version.number for version in versions] == [1, 2, 3]
    assert [version.gate for version in versions] == [{"verdict": "pass", "value": n / 7} for n in range(3)]
    assert [version.lineage for version in versions] == [{"run": n} for n in range(3)]
    policy = load_policy(artifacts[1])
    assert (versions[1].agent, versions[1].policy_digest) == ("linucb", policy.metadata["policy_digest"])
    assert versions[1].registered_at.endswith("Z")
    assert registry.version(2) == versions[1]


def test_lineage_is_the_artifacts_own_note_unless_told(tmp_path, artifacts):
    version = Registry(tmp_path / "registry").register(artifacts[1])
    assert version.lineage["data"] == "tiny"
    assert version.lineage["seed"] == 1
    assert version.gate is None


def test_registered_policy_predicts_as_the_one_it_was_copied_from(registry, artifacts):
    copied, original = load_policy(registry.resolve(2)), load_policy(artifacts[1])
    pd.testing.assert_frame_equal(copied.predict([1, 5]), original.predict([1, 5]))
    assert snapshot(registry.resolve(2)) == snapshot(artifacts[1])


def test_files_of_a_version_are_read_only(registry):
    files = [path for path in (registry.folder / "versions").rglob("*") if path.is_file()]
    assert len(files) == 3 * 7
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o444}


def test_same_artifact_again_is_the_same_version(registry, artifacts, tmp_path):
    before = snapshot(registry.folder)
    evaluated = shutil.copytree(artifacts[1], tmp_path / "copy")
    (evaluated / "metrics.json").write_text("{}")  # as `recpolicy evaluate` leaves it beside
    assert registry.register(evaluated, gate={"verdict": "other"}).number == 2
    assert snapshot(registry.folder) == before


def test_damaged_version_is_registered_anew_under_the_next_number(registry, artifacts):
    damage(registry, 2)
    assert registry.register(artifacts[1], gate={"verdict": "pass"}).number == 4
    assert registry.promote(4).number == 4


def test_no_version_is_champion_before_one_is_promoted(registry):
    assert registry.aliases() == {"champion": None, "previous": None, "challenger": None}
    with pytest.raises(ConfigError, match="no version has the alias champion"):
        registry.resolve("champion")


def test_promoting_moves_the_champion_and_remembers_the_one_before(registry):
    assert registry.promote(1).number == 1
    assert registry.promote(3).number == 3
    assert registry.aliases() == {"champion": 3, "previous": 1, "challenger": None}
    assert registry.resolve("champion") == registry.resolve(3) == registry.resolve("3")
    assert registry.resolve("previous") == registry.resolve(1)


def test_promoting_the_champion_changes_nothing(registry):
    registry.promote(1)
    registry.promote(2)
    before = snapshot(registry.folder)
    assert registry.promote(2).number == 2
    assert snapshot(registry.folder) == before


def test_rolling_back_makes_the_previous_champion_champion_and_only_once(registry):
    registry.promote(1)
    registry.promote(2)
    assert registry.roll_back().number == 1
    assert registry.aliases() == {"champion": 1, "previous": None, "challenger": None}
    with pytest.raises(ConfigError, match="no previous champion to roll back to"):
        registry.roll_back()


@settings(max_examples=25)
@given(st.lists(st.sampled_from([1, 2, 3, "back"]), max_size=12))
def test_aliases_follow_any_sequence_of_changes(made, tmp_path_factory, sequence):
    registry = Registry(shutil.copytree(made, tmp_path_factory.mktemp("sequence") / "registry"))
    champion = previous = None
    expected = [("register", 1), ("register", 2), ("register", 3)]
    for step in sequence:
        if step == "back" and previous is None:
            with pytest.raises(ConfigError, match="no previous"):
                registry.roll_back()
        elif step == "back":
            registry.roll_back()
            champion, previous = previous, None
            expected.append(("roll_back", champion))
        else:
            registry.promote(step)
            if step != champion:
                champion, previous = step, champion
                expected.append(("promote", step))
        assert registry.aliases() == {"champion": champion, "previous": previous, "challenger": None}
    assert changes(registry) == expected


@pytest.mark.parametrize("name", ["arrays.npz", "users.parquet", "action/saved_model.pb", "recpolicy.json"])
def test_damaged_version_is_never_promoted(registry, name):
    registry.promote(1)
    damage(registry, 2, name)
    with pytest.raises(ArtifactError, match="version 2 is damaged") as refusal:
        registry.promote(2)
    assert "\n" not in str(refusal.value)
    assert registry.aliases() == {"champion": 1, "previous": None, "challenger": None}


def test_damaged_version_is_not_rolled_back_to(registry):
    registry.promote(1)
    registry.promote(2)
    (registry.resolve(1) / "arrays.npz").unlink()
    with pytest.raises(ArtifactError, match=r"version 1 is damaged.*arrays\.npz: missing"):
        registry.roll_back()
    assert registry.aliases() == {"champion": 2, "previous": 1, "challenger": None}


def test_policy_put_in_place_of_another_is_never_promoted(registry):
    shutil.rmtree(registry.resolve(2))
    shutil.copytree(registry.resolve(3), registry.resolve(2))
    with pytest.raises(ArtifactError, match="does not match"):
        registry.promote(2)


def test_changed_record_is_refused_and_the_others_are_still_listed(registry, caplog):
    path = registry.folder / "versions" / "2" / "version.json"
    body = json.loads(path.read_text())
    path.chmod(0o644)
    path.write_text(json.dumps({**body, "gate": {"verdict": "pass", "value": 1}}))
    with pytest.raises(ArtifactError, match=r"version\.json: changed since"):
        registry.promote(2)
    assert [version.number for version in registry.versions()] == [1, 3]
    assert "version.json: changed since" in caplog.text


def test_record_moved_to_another_number_is_refused(registry):
    (registry.folder / "versions" / "2").rename(registry.folder / "versions" / "9")
    with pytest.raises(ArtifactError, match=r"version\.json: describes version 2; expected version 9"):
        registry.promote(9)


@pytest.mark.parametrize(
    "name",
    ["../1", "1/../2", "/1", "1/policy", "..", ".", "", "0", "01", "-1", "1\n", " 1", "1.0", "٣", True, "Champion",
     "champion/..", "9" * 10],
)  # fmt: skip
def test_only_numbers_and_aliases_are_names(registry, name):
    with pytest.raises(ConfigError, match="no version"):
        registry.resolve(name)
    with pytest.raises(ConfigError, match="no version"):
        registry.promote(name)


def test_unknown_number_is_refused_with_the_known_ones(registry):
    with pytest.raises(ConfigError, match="no version 7; registered: 1, 2, 3"):
        registry.resolve(7)


@pytest.mark.parametrize("number", ["../../elsewhere", 2.5, -1, True])
def test_aliases_that_are_no_numbers_are_refused(registry, number):
    state = json.loads((registry.folder / "aliases.json").read_text())
    (registry.folder / "aliases.json").write_text(json.dumps({**state, "champion": number}))
    with pytest.raises(ArtifactError, match="expected the number of a version"):
        registry.resolve("champion")


@pytest.mark.parametrize("name", ["../outside.npz", "/etc/hostname", "action/../../outside.npz", "..\\outside.npz"])
def test_artifact_that_names_files_outside_itself_is_refused(tmp_path, artifacts, name):
    folder = shutil.copytree(artifacts[0], tmp_path / "policy")
    (tmp_path / "outside.npz").write_bytes(b"secret")
    manifest = json.loads((folder / "recpolicy.json").read_text())
    manifest["files"][name] = file_digest(tmp_path / "outside.npz")
    (folder / "recpolicy.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="not inside the artifact"):
        Registry(tmp_path / "registry").register(folder)
    assert not (tmp_path / "registry").exists()


def test_damaged_artifact_is_not_registered(registry, artifacts, tmp_path):
    folder = shutil.copytree(artifacts[0], tmp_path / "policy")
    (folder / "action" / "saved_model.pb").write_bytes(b"other")
    before = snapshot(registry.folder)
    with pytest.raises(ArtifactError, match=r"saved_model\.pb: missing or changed"):
        registry.register(folder)
    assert snapshot(registry.folder) == before


def test_artifact_that_changes_while_it_is_copied_is_not_registered(registry, tmp_path, monkeypatch):
    folder = write_tiny(tmp_path / "policy", seed=9)

    def copy_then_change(source, target, names):
        registry_files_copy(source, target, names)
        (target / "arrays.npz").chmod(0o644)
        (target / "arrays.npz").write_bytes(b"half of it")

    registry_files_copy = registry_module.copy_artifact
    monkeypatch.setattr(registry_module, "copy_artifact", copy_then_change)
    with pytest.raises(ArtifactError, match=r"arrays\.npz: missing or changed"):
        registry.register(folder)
    assert [path.name for path in sorted((registry.folder / "versions").iterdir())] == ["1", "2", "3"]


def test_gate_record_that_is_not_json_is_refused(tmp_path, artifacts):
    with pytest.raises(DataError, match="gate: not JSON"):
        Registry(tmp_path / "registry").register(artifacts[0], gate={"value": float("nan")})
    assert not (tmp_path / "registry").exists()


def test_folder_of_something_else_is_not_turned_into_a_registry(tmp_path, artifacts):
    with pytest.raises(ArtifactError, match="not a registry"):
        Registry(artifacts[0]).versions()
    before = snapshot(artifacts[0])
    with pytest.raises(ArtifactError, match="not empty; choose another folder"):
        Registry(artifacts[0]).register(artifacts[1])
    assert snapshot(artifacts[0]) == before
    with pytest.raises(ArtifactError, match="not a registry"):
        Registry(tmp_path / "absent").promote(1)
    assert not (tmp_path / "absent").exists()


def test_writers_take_turns(tmp_path, artifacts):
    """Threads hold locks of their own here, as processes do."""
    folders = [write_tiny(tmp_path / "policies" / str(seed), seed) for seed in range(6)]
    with ThreadPoolExecutor(12) as pool:
        versions = list(
            pool.map(lambda one: Registry(tmp_path / "registry").register(one, gate={"verdict": "pass"}), folders * 2)
        )
    assert sorted(version.number for version in versions[:6]) == [1, 2, 3, 4, 5, 6]
    assert versions[6:] == versions[:6]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda number: Registry(tmp_path / "registry").promote(number), range(1, 7)))
    moves = [line for line in Registry(tmp_path / "registry").audit() if line["change"] == "promote"]
    assert [move["from"] for move in moves] == [None, *(move["number"] for move in moves[:-1])]
    assert sorted(move["number"] for move in moves) == [1, 2, 3, 4, 5, 6]


def test_writer_that_waits_too_long_says_so(registry, monkeypatch):
    monkeypatch.setattr(registry_module, "_LOCK_SECONDS", 0.05)
    with FileLock(registry.folder / ".lock"), pytest.raises(ArtifactError, match="another process is changing"):
        registry.promote(1)


KILLED = """
import os, sys
from pathlib import Path
from recpolicy.registry import model_registry as module
die = lambda *_: os._exit(9)
setattr(module, sys.argv[1], die)
registry = module.Registry(sys.argv[2])
registry.register(sys.argv[4]) if sys.argv[3] == "register" else registry.promote(3)
"""


@pytest.mark.parametrize(
    ("at", "change", "moved"),
    [
        ("write_record", "register", False),  # the files are copied, the folder is not in place
        ("append_lines", "register", True),  # in place, not noted
        ("write_state", "promote", False),
        ("append_lines", "promote", True),
    ],
)
def test_killed_in_the_middle_leaves_one_state_or_the_other(registry, tmp_path, at, change, moved):
    registry.promote(1)
    before = changes(registry)
    policy = write_tiny(tmp_path / "policy", seed=9)
    words = (at, registry.folder, change, policy)
    assert subprocess.run([sys.executable, "-c", KILLED, *map(str, words)], timeout=PATIENCE).returncode == 9
    assert changes(registry) == before
    assert len(registry.versions()) == (4 if moved and change == "register" else 3)
    assert registry.aliases()["champion"] == (3 if moved and change == "promote" else 1)
    registry.promote(2)  # the next writer clears up and notes what was done
    noted = [(change, 4 if change == "register" else 3)] if moved else []
    assert changes(registry) == [*before, *noted, ("promote", 2)]
    assert not list(registry.folder.rglob("*.part"))
    assert registry.register(policy).number == 4


def test_audit_line_that_was_cut_short_is_written_again(registry):
    registry.promote(1)
    registry.promote(2)
    path = registry.folder / "audit.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert changes(registry)[-1] == ("promote", 1)
    registry.promote(3)
    assert changes(registry)[-3:] == [("promote", 1), ("promote", 2), ("promote", 3)]


def test_audit_says_what_changed_and_when(registry):
    registry.promote(1)
    registry.promote(2)
    first, *_, last = registry.audit()
    assert first["digest"] == registry.version(1).digest
    assert first["time"] == registry.version(1).registered_at
    assert {key: last[key] for key in ("change", "number", "from")} == {"change": "promote", "number": 2, "from": 1}
    assert [line["time"] for line in registry.audit()] == sorted(line["time"] for line in registry.audit())


def test_damaged_audit_is_one_line(registry):
    with (registry.folder / "audit.jsonl").open("a") as stream:
        stream.write("{cut\n")
    with pytest.raises(ArtifactError, match=r"audit\.jsonl: a line is not a JSON object") as refusal:
        registry.promote(1)
    assert "\n" not in str(refusal.value)


def test_digest_of_a_version_is_that_of_its_manifest(registry):
    manifest = json.loads((registry.resolve(1) / "recpolicy.json").read_text())
    assert registry.version(1).digest == content_digest(manifest)


def test_a_feature_policy_is_registered_promoted_and_refused_when_damaged(tmp_path, artifacts):
    registry = Registry(tmp_path / "registry")
    registry.register(artifacts[0], gate={"verdict": "pass"})
    policy = tiny_policy("squarecb")
    write_feature_policy(policy, tmp_path / "features")
    version = registry.register(tmp_path / "features", gate={"verdict": "pass"})
    assert (version.number, version.agent, version.policy_digest) == (2, "squarecb", policy.policy_digest)
    assert registry.register(tmp_path / "features").number == 2
    assert registry.promote(2).number == 2
    registry.promote(1)
    assert read_feature_policy(registry.resolve(2)).policy_digest == policy.policy_digest
    damage(registry, 2)
    with pytest.raises(ArtifactError, match=r"version 2 is damaged: .*arrays\.npz"):
        registry.promote(2)
