"""`recpolicy registry`: what it prints, what it moves, and what it refuses in one line."""

import json
import shutil

import pytest
from command_line import recpolicy, refused
from tiny_feature_log import tiny_policy as tiny_feature_policy
from tiny_policies import write_tiny

from recpolicy.inference.feature_artifact import write_feature_policy
from recpolicy.registry.model_registry import Registry
from recpolicy.workflows.gating import RECORD_FORMAT, RECORD_VERSION


@pytest.fixture
def registry(tmp_path):
    registry = Registry(tmp_path / "registry")
    for seed, gate in enumerate([None, {"verdict": "pass"}]):
        registry.register(write_tiny(tmp_path / str(seed), seed), gate=gate)
    return registry


def test_list_shows_versions_with_alias_and_verdict(capsys, registry):
    registry.promote(2)
    answer = recpolicy(capsys, "registry", "list", registry.folder)
    head, *rows = [line.split() for line in answer.out.splitlines()]
    assert head == ["version", "alias", "agent", "gate", "registered", "digest"]
    assert rows[0][:3] == ["1", "linucb", "none"]
    assert rows[1][:4] == ["2", "champion", "linucb", "pass"]
    assert rows[1][-1] == registry.version(2).digest[:12]


def test_list_as_json_has_all_of_the_record(capsys, registry):
    answer = json.loads(recpolicy(capsys, "registry", "list", registry.folder, "--json").out)
    assert answer["aliases"] == {"champion": None, "previous": None, "challenger": None}
    assert answer["routing"]["exploration"] is True
    assert [version["number"] for version in answer["versions"]] == [1, 2]
    assert answer["versions"][1]["gate"] == {"verdict": "pass"}
    assert answer["versions"][0]["lineage"]["data"] == "tiny"


def test_only_a_version_that_passed_its_gate_serves_unless_the_operator_says_so(capsys, registry):
    words = ("registry", "promote", registry.folder, 1)
    assert "version 1 has no gate record; only a version that passed its gate serves" in refused(
        recpolicy(capsys, *words)
    )
    assert registry.aliases()["champion"] is None
    assert recpolicy(capsys, *words, "--ungated").code == 0
    recpolicy(capsys, "registry", "promote", registry.folder, 2)
    challenge = ("registry", "set-challenger", registry.folder, 1, "--traffic-fraction", "0.1")
    assert "version 1 has no gate record" in refused(recpolicy(capsys, *challenge))
    assert recpolicy(capsys, *challenge, "--shadow").code == 0  # a shadow serves nobody
    assert recpolicy(capsys, *challenge, "--ungated").code == 0
    assert [line.get("ungated") for line in registry.audit()[-4:]] == [True, None, None, True]


def test_promote_and_roll_back_say_who_is_champion(capsys, registry):
    recpolicy(capsys, "registry", "promote", registry.folder, 1, "--ungated")
    promoted = recpolicy(capsys, "registry", "promote", registry.folder, 2)
    assert promoted.out.splitlines() == [f"champion: version 2, {registry.resolve(2)}", "previous: version 1"]
    back = recpolicy(capsys, "registry", "roll-back", registry.folder, "--json")
    answer = json.loads(back.out)
    assert answer == {**registry.aliases(), "traffic_fraction": 0.0, "shadow": False, "exploration": True}
    assert (answer["champion"], answer["previous"]) == (1, None)


def test_challenger_is_named_with_its_share_until_it_is_rolled_back(capsys, registry):
    recpolicy(capsys, "registry", "promote", registry.folder, 1, "--ungated")
    said = recpolicy(capsys, "registry", "set-challenger", registry.folder, 2, "--traffic-fraction", "0.1")
    assert said.out.splitlines()[2] == "challenger: version 2, answers 10.0% of the users"
    listed = recpolicy(capsys, "registry", "list", registry.folder).out.splitlines()
    assert [line.split()[1] for line in listed[1:]] == ["champion", "challenger"]
    said = recpolicy(capsys, "registry", "set-challenger", registry.folder, 2, "--traffic-fraction", "1", "--shadow")
    assert said.out.splitlines()[2] == "challenger: version 2, shadows 100.0% of the users"
    back = recpolicy(capsys, "registry", "roll-back", registry.folder)
    assert len(back.out.splitlines()) == 2
    assert registry.aliases() == {"champion": 1, "previous": None, "challenger": None}


@pytest.mark.parametrize("share", ["1.5", "-1", "nan", "much"])
def test_share_that_cannot_be_is_one_line(capsys, registry, share):
    registry.promote(1, ungated=True)
    refused(recpolicy(capsys, "registry", "set-challenger", registry.folder, 2, "--traffic-fraction", share))
    assert registry.routing().challenger is None


def test_show_tells_of_a_number_or_an_alias(capsys, registry):
    registry.promote(2, note={"why": "better"})
    lines = dict(
        line.split(maxsplit=1)
        for line in recpolicy(capsys, "registry", "show", registry.folder, "champion").out.splitlines()
    )
    assert (lines["version"], lines["alias"], lines["gate"], lines["data"]) == ("2", "champion", "pass", "tiny")
    assert (lines["digest"], lines["folder"]) == (registry.version(2).digest, str(registry.resolve(2)))
    answer = json.loads(recpolicy(capsys, "registry", "show", registry.folder, 1, "--json").out)
    assert (answer["number"], answer["lineage"]["seed"]) == (1, 0)
    assert "no version 9" in refused(recpolicy(capsys, "registry", "show", registry.folder, 9))


def test_audit_tells_every_change_with_its_reason(capsys, registry):
    recpolicy(capsys, "registry", "promote", registry.folder, 1, "--ungated")
    recpolicy(
        capsys, "registry", "set-challenger", registry.folder, 2, "--traffic-fraction", "0.1", "--message", "a try"
    )
    registry.pause_exploration()
    lines = [
        line.split(maxsplit=3) for line in recpolicy(capsys, "registry", "audit", registry.folder).out.splitlines()
    ]
    assert [line[1:3] for line in lines[:4]] == [
        ["register", "1"],
        ["register", "2"],
        ["promote", "1"],
        ["set_challenger", "2"],
    ]
    assert json.loads(lines[3][3]) == {"from": None, "traffic_fraction": 0.1, "shadow": False, "note": {"why": "a try"}}
    assert lines[4][1:] == ["pause_exploration"]
    assert json.loads(recpolicy(capsys, "registry", "audit", registry.folder, "--json").out) == registry.audit()


def test_archive_is_registered_or_refused_in_one_line(capsys, registry, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "policy"), "gztar", write_tiny(tmp_path / "third", 3))
    said = recpolicy(capsys, "registry", "import", registry.folder, archive, "--message", "from the lab")
    assert said.out == f"registered: version 3, {registry.resolve(3)}\n"
    assert registry.audit()[-1]["note"] == {"why": "from the lab"}
    (tmp_path / "other.zip").write_bytes(b"no archive")
    assert "cannot be unpacked" in refused(
        recpolicy(capsys, "registry", "import", registry.folder, tmp_path / "other.zip")
    )
    assert len(registry.versions()) == 3


def test_rolling_back_with_nothing_to_go_back_to_is_one_line(capsys, registry):
    assert "no previous champion" in refused(recpolicy(capsys, "registry", "roll-back", registry.folder))


def test_what_somebody_else_wrote_cannot_move_the_cursor(capsys, registry, tmp_path):
    hostile, note = "\x1b[2J\rgone", {"why": "\x9b2J"}
    registry.register(write_tiny(tmp_path / "third", 7), lineage={"data": hostile, "split": hostile}, note=note)
    registry.promote(3, ungated=True, note={"why": hostile})
    for words in (("list",), ("show", "3"), ("audit",)):
        out = recpolicy(capsys, "registry", words[0], registry.folder, *words[1:]).out
        assert [letter for letter in out if not letter.isprintable() and letter != "\n"] == []
    assert r"\x1b[2J\rgone" in recpolicy(capsys, "registry", "show", registry.folder, 3).out


def test_damaged_version_is_one_line(capsys, registry):
    (registry.resolve(2) / "arrays.npz").unlink()
    assert "version 2 is damaged" in refused(recpolicy(capsys, "registry", "promote", registry.folder, 2))
    assert registry.aliases()["champion"] is None


@pytest.mark.parametrize("number", ["9", "0", "../1", "champion"])
def test_what_is_no_version_is_one_line(capsys, registry, number):
    refused(recpolicy(capsys, "registry", "promote", registry.folder, number))


@pytest.mark.parametrize(
    "words",
    [
        ("list",),
        ("promote", "1"),
        ("roll-back",),
        ("audit",),
        ("show", "1"),
        ("set-challenger", "1", "--traffic-fraction", "1"),
    ],
)
def test_folder_that_is_no_registry_is_one_line(capsys, tmp_path, words):
    command, *rest = words
    assert "not a registry" in refused(recpolicy(capsys, "registry", command, tmp_path, *rest))
    assert list(tmp_path.iterdir()) == []


def test_add_registers_a_folder_of_any_kind_with_the_record_of_its_gate(capsys, registry, tmp_path):
    write_feature_policy(tiny_feature_policy("squarecb"), tmp_path / "features")
    answer = recpolicy(capsys, "registry", "add", registry.folder, tmp_path / "features", "--message", "why not")
    assert answer.out.splitlines() == [
        f"registered: version 3, gate none, {registry.resolve(3)}",
        f"next: recpolicy registry promote {registry.folder} 3",
    ]
    assert registry.version(3).note == {"why": "why not"}
    record = {"verdict": "pass", "policy": {"policy_digest": registry.version(3).policy_digest}}
    body = {"format": RECORD_FORMAT, "version": RECORD_VERSION, **record}
    (tmp_path / "gate.json").write_text(json.dumps(body))
    words = ("registry", "add", tmp_path / "new", tmp_path / "features", "--gate", tmp_path / "gate.json", "--json")
    assert json.loads(recpolicy(capsys, *words).out)["gate"] == "pass"
    assert Registry(tmp_path / "new").promote(1).agent == "squarecb"
    other = ("registry", "add", registry.folder, tmp_path / "0", "--gate", tmp_path / "gate.json")
    assert "gate.json: belongs to another policy" in refused(recpolicy(capsys, *other))
    assert "no such folder" in refused(recpolicy(capsys, "registry", "add", registry.folder, tmp_path / "nothing"))


def test_items_are_added_and_retired_by_commands(capsys, registry, tmp_path):
    registry.promote(2)
    (tmp_path / "new.csv").write_text("item,title\n501,One\n502,Two\n")
    added = recpolicy(capsys, "registry", "add-items", registry.folder, "champion", tmp_path / "new.csv")
    assert added.out.splitlines() == [
        "registered: version 3, version 2 with 2 items added",
        f"next: recpolicy registry promote {registry.folder} 3 --ungated, or gate it first",
    ]
    retired = recpolicy(capsys, "registry", "retire-items", registry.folder, 3, 501, 104, "--message", "old", "--json")
    parent = registry.version(3).policy_digest
    answer = {"number": 4, "from": 3, "parent": parent, "added": [], "retired": [501, 104], "restored": []}
    assert json.loads(retired.out) == answer
    assert registry.version(4).note == {"why": "old"}
    shown = recpolicy(capsys, "registry", "show", registry.folder, 4).out
    assert "catalog     version 3, 2 retired" in shown
    restored = recpolicy(capsys, "registry", "restore-items", registry.folder, 4, 104)
    assert restored.out.splitlines()[0] == "registered: version 5, version 4 with 1 item restored"
    assert "item 104 is not retired" in refused(recpolicy(capsys, "registry", "restore-items", registry.folder, 5, 104))
    assert "catalog     as trained" in recpolicy(capsys, "registry", "show", registry.folder, 2).out


def test_items_that_cannot_be_changed_are_one_line(capsys, registry, tmp_path):
    (tmp_path / "new.csv").write_text("item,title\n104,Again\n")
    said = refused(recpolicy(capsys, "registry", "add-items", registry.folder, 1, tmp_path / "new.csv"))
    assert "new.csv: item 104 is in the policy already" in said
    assert "no version 9" in refused(recpolicy(capsys, "registry", "retire-items", registry.folder, 9, 104))
    assert "no item with id 9 in" in refused(recpolicy(capsys, "registry", "retire-items", registry.folder, 1, 9))
    assert len(registry.versions()) == 2
