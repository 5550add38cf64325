"""`recpolicy registry`: what it prints, what it moves, and what it refuses in one line."""

import json

import pytest
from command_line import recpolicy, refused
from tiny_policies import write_tiny

from recpolicy.serving.registry import Registry


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
    assert answer["aliases"] == {"champion": None, "previous": None}
    assert [version["number"] for version in answer["versions"]] == [1, 2]
    assert answer["versions"][1]["gate"] == {"verdict": "pass"}
    assert answer["versions"][0]["lineage"]["data"] == "tiny"


def test_promote_and_roll_back_say_who_is_champion(capsys, registry):
    recpolicy(capsys, "registry", "promote", registry.folder, 1)
    promoted = recpolicy(capsys, "registry", "promote", registry.folder, 2)
    assert promoted.out.splitlines() == [f"champion: version 2, {registry.resolve(2)}", "previous: version 1"]
    back = recpolicy(capsys, "registry", "roll-back", registry.folder, "--json")
    assert json.loads(back.out) == registry.aliases() == {"champion": 1, "previous": None}


def test_rolling_back_with_nothing_to_go_back_to_is_one_line(capsys, registry):
    assert "no previous champion" in refused(recpolicy(capsys, "registry", "roll-back", registry.folder))


def test_damaged_version_is_one_line(capsys, registry):
    (registry.resolve(2) / "arrays.npz").unlink()
    assert "version 2 is damaged" in refused(recpolicy(capsys, "registry", "promote", registry.folder, 2))
    assert registry.aliases()["champion"] is None


@pytest.mark.parametrize("number", ["9", "0", "../1", "champion"])
def test_what_is_no_version_is_one_line(capsys, registry, number):
    refused(recpolicy(capsys, "registry", "promote", registry.folder, number))


@pytest.mark.parametrize("words", [("list",), ("promote", "1"), ("roll-back",)])
def test_folder_that_is_no_registry_is_one_line(capsys, tmp_path, words):
    command, *rest = words
    assert "not a registry" in refused(recpolicy(capsys, "registry", command, tmp_path, *rest))
    assert list(tmp_path.iterdir()) == []
