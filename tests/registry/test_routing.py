"""A challenger beside the champion, its fraction of the users, and the switch for exploration: moved, noted, undone."""

import json
import math
import shutil
import subprocess
import sys
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_policies import write_tiny
from waiting import PATIENCE

from recpolicy.core.errors import ArtifactError, ConfigError, DataError
from recpolicy.registry.aliases import Routing
from recpolicy.registry.model_registry import Registry


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three versions, the first one champion; read only."""
    root = tmp_path_factory.mktemp("made")
    registry = Registry(root / "registry")
    for seed in range(3):
        registry.register(write_tiny(root / str(seed), seed), gate={"verdict": "pass"})
    registry.promote(1)
    return registry.folder


@pytest.fixture
def registry(made, tmp_path):
    """A copy to be changed."""
    return Registry(shutil.copytree(made, tmp_path / "registry"))


def last(registry):
    """The last line of the audit, without its time."""
    line = registry.audit()[-1]
    assert line.pop("time").endswith("Z")
    return line


def test_nobody_challenges_at_first_and_exploration_is_on(registry):
    assert registry.routing() == Routing(
        champion=1, challenger=None, traffic_fraction=0.0, shadow=False, exploration=True
    )
    assert registry.aliases()["challenger"] is None
    with pytest.raises(ConfigError, match="no version has the alias challenger; set one by its number"):
        registry.resolve("challenger")


def test_a_challenger_gets_its_fraction_of_the_users(registry):
    assert registry.set_challenger(2, 0.1).number == 2
    assert registry.routing() == Routing(champion=1, challenger=2, traffic_fraction=0.1)
    assert registry.resolve("challenger") == registry.resolve(2)
    assert last(registry) == {
        "change": "set_challenger",
        "number": 2,
        "from": None,
        "traffic_fraction": 0.1,
        "shadow": False,
    }
    registry.set_traffic_fraction(0.5)
    assert registry.routing().traffic_fraction == 0.5
    assert last(registry) == {"change": "set_traffic_fraction", "number": 2, "traffic_fraction": 0.5, "from": 0.1}
    registry.set_challenger(3, 1, shadow=True)  # in its place
    assert registry.routing() == Routing(champion=1, challenger=3, traffic_fraction=1.0, shadow=True)
    assert last(registry)["from"] == 2
    registry.clear_challenger()
    assert registry.routing() == Routing(champion=1)
    assert last(registry) == {"change": "clear_challenger", "number": 3}


def test_nobody_is_promoted_unattended_over_a_champion_or_a_challenger(registry, tmp_path):
    assert registry.promote_unattended(2) == "version 1 is the champion"
    registry.set_challenger(3, 0.1, shadow=True)
    assert registry.promote_unattended(2, replace=True) == "version 3 is the challenger, as during a rollout"
    registry.clear_challenger()
    registry.register(write_tiny(tmp_path / "other", 9))
    assert registry.promote_unattended(4, replace=True) == "its first gate record says nothing"
    lines = len(registry.audit())
    assert registry.promote_unattended(1) == ""  # it is the champion already
    assert (registry.routing(), len(registry.audit())) == (Routing(champion=1), lines)
    assert registry.promote_unattended(2, replace=True, note={"by": "a test"}) == ""
    assert registry.aliases() == {"champion": 2, "previous": 1, "challenger": None}
    assert last(registry) == {"change": "promote", "number": 2, "from": 1, "note": {"by": "a test"}}


def test_first_version_of_a_registry_is_promoted_unattended(registry, tmp_path):
    fresh = Registry(tmp_path / "fresh")
    fresh.register(registry.resolve(2), gate={"verdict": "pass"})
    assert fresh.promote_unattended(1) == ""
    assert fresh.routing().champion == 1


def test_a_challenger_that_is_promoted_is_none_any_more(registry):
    registry.set_challenger(2, 0.1)
    registry.promote("challenger")
    assert registry.routing() == Routing(champion=2)
    assert registry.aliases() == {"champion": 2, "previous": 1, "challenger": None}


def test_promoting_another_leaves_the_challenger(registry):
    registry.set_challenger(2, 0.1)
    registry.promote(3)
    assert registry.routing() == Routing(champion=3, challenger=2, traffic_fraction=0.1)


@pytest.mark.parametrize("shadow", [False, True])
def test_rolling_back_withdraws_the_challenger_first(registry, shadow):
    registry.promote(2)
    registry.set_challenger(3, 0.5, shadow=shadow)
    assert registry.roll_back().number == 2
    assert registry.routing() == Routing(champion=2)
    assert registry.aliases()["previous"] == 1
    assert last(registry) == {"change": "roll_back", "number": 2, "from": 2, "challenger": 3}
    assert registry.roll_back().number == 1
    with pytest.raises(ConfigError, match="no previous champion"):
        registry.roll_back()


def test_rolling_back_to_a_champion_does_not_leave_it_challenging_itself(registry):
    registry.promote(2)
    registry.set_challenger(1, 0.2)
    registry.roll_back()
    registry.roll_back()
    assert registry.routing() == Routing(champion=1)


def test_exploration_is_paused_and_resumed_and_outlives_other_changes(registry):
    registry.pause_exploration()
    registry.set_challenger(2, 0.1)
    registry.promote(2)
    assert registry.routing() == Routing(champion=2, exploration=False)
    registry.resume_exploration()
    assert registry.routing().exploration
    assert last(registry) == {"change": "resume_exploration"}


def test_what_changes_nothing_is_not_noted(registry):
    registry.set_challenger(2, 0.1)
    before = registry.audit()
    registry.set_challenger(2, 0.1)
    registry.set_traffic_fraction(0.1)
    registry.resume_exploration()
    assert registry.audit() == before
    registry.clear_challenger()
    registry.clear_challenger()
    assert len(registry.audit()) == len(before) + 1


@pytest.mark.parametrize("fraction", [-0.1, 1.01, math.nan, math.inf, True, "0.1", None])
def test_a_fraction_that_is_none_is_refused(registry, fraction):
    registry.set_challenger(2, 0.1)
    before = registry.routing()
    with pytest.raises(ConfigError, match=r"traffic_fraction is .*; it must be 0..1"):
        registry.set_challenger(3, fraction)
    with pytest.raises(ConfigError, match=r"traffic_fraction is .*; it must be 0..1"):
        registry.set_traffic_fraction(fraction)
    assert registry.routing() == before


def test_what_cannot_challenge_is_refused(registry, tmp_path):
    with pytest.raises(ConfigError, match="version 1 cannot challenge: it is the champion"):
        registry.set_challenger("champion", 0.1)
    with pytest.raises(ConfigError, match="no version 9; registered: 1, 2, 3"):
        registry.set_challenger(9, 0.1)
    with pytest.raises(ConfigError, match="no challenger whose traffic could change"):
        registry.set_traffic_fraction(0.1)
    (registry.resolve(2) / "arrays.npz").unlink()
    with pytest.raises(ArtifactError, match="version 2 is damaged"):
        registry.set_challenger(2, 0.1)
    fresh = Registry(tmp_path / "fresh")
    fresh.register(registry.resolve(3), gate={"verdict": "pass"})
    with pytest.raises(ConfigError, match="no champion to challenge"):
        fresh.set_challenger(1, 0.1)
    for change in (registry.clear_challenger, registry.pause_exploration):
        change()
    for change in (Registry(tmp_path / "absent").clear_challenger, Registry(tmp_path / "absent").pause_exploration):
        with pytest.raises(ArtifactError, match="not a registry"):
            change()
    assert not (tmp_path / "absent").exists()


def test_aliases_from_before_there_were_challengers_are_read(registry):
    path = registry.folder / "aliases.json"
    body = json.loads(path.read_text())
    for key in ("challenger", "traffic_fraction", "shadow", "exploration"):
        del body[key]
    path.write_text(json.dumps(body))
    assert registry.routing() == Routing(champion=1)
    registry.set_challenger(2, 0.3)
    assert registry.routing() == Routing(champion=1, challenger=2, traffic_fraction=0.3)


@pytest.mark.parametrize(
    ("key", "value"),
    [("challenger", "../1"), ("traffic_fraction", 2), ("traffic_fraction", "x"), ("shadow", 1), ("exploration", None)],
)
def test_aliases_that_say_what_cannot_be_are_refused(registry, key, value):
    path = registry.folder / "aliases.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(ArtifactError, match=rf"aliases\.json: {key} is"):
        registry.routing()


def test_a_note_lands_in_the_line_of_its_change(registry, tmp_path):
    note = {"who": "ann", "why": "a test"}
    changes = [
        lambda: registry.register(write_tiny(tmp_path / "new", 9), note=note),
        lambda: registry.set_challenger(2, 0.1, note=note), lambda: registry.set_traffic_fraction(0.2, note=note),
        lambda: registry.roll_back(note=note), lambda: registry.promote(2, note=note),
        lambda: registry.roll_back(note=note), lambda: registry.set_challenger(3, 0.1, note=note),
        lambda: registry.clear_challenger(note=note), lambda: registry.pause_exploration(note=note),
        lambda: registry.resume_exploration(note=note),
    ]  # fmt: skip
    for number, change in enumerate(changes, 1 + len(registry.audit())):
        change()
        assert len(registry.audit()) == number
        assert last(registry)["note"] == note
    assert registry.version(4).note == note
    with pytest.raises(DataError, match="note: not JSON"):
        registry.promote(3, note={"value": math.nan})
    assert registry.routing().champion == 1


def test_a_record_from_before_there_were_notes_is_read(registry):
    """Its digest is over what it holds, so that a key that is not there is none."""
    from recpolicy.core.files import content_digest

    path = registry.folder / "versions" / "2" / "version.json"
    body = json.loads(path.read_text())
    del body["note"], body["record_digest"]
    path.chmod(0o644)
    path.write_text(json.dumps({**body, "record_digest": content_digest(body)}))
    assert registry.version(2).note is None
    assert registry.promote(2).number == 2


KILLED = """
import os, sys
from recpolicy.registry import model_registry as module
setattr(module, sys.argv[1], lambda *_: os._exit(9))
module.Registry(sys.argv[2]).set_challenger(2, 0.25, note={"who": "ann"})
"""


@pytest.mark.parametrize(("at", "moved"), [("write_state", False), ("append_lines", True)])
def test_killed_in_the_middle_leaves_one_state_or_the_other(registry, at, moved):
    before = registry.audit()
    assert subprocess.run([sys.executable, "-c", KILLED, at, registry.folder], timeout=PATIENCE).returncode == 9
    assert registry.audit() == before
    assert registry.routing().challenger == (2 if moved else None)
    registry.pause_exploration()  # the next writer notes what was done
    noted = registry.audit()[len(before) :]
    assert [line["change"] for line in noted] == ["set_challenger"] * moved + ["pause_exploration"]
    assert not moved or (noted[0]["traffic_fraction"], noted[0]["note"]) == (0.25, {"who": "ann"})


STEPS = st.one_of(
    st.tuples(st.just("promote"), st.integers(1, 3)),
    st.tuples(st.just("challenge"), st.integers(1, 3), st.sampled_from([0.1, 0.5]), st.booleans()),
    st.tuples(st.just("fraction"), st.sampled_from([0.0, 0.5])),
    st.tuples(st.sampled_from(["back", "clear", "pause", "resume"])),
)


@settings(max_examples=20, deadline=None)
@given(st.lists(STEPS, max_size=10))
def test_any_sequence_of_changes_does_what_a_model_of_it_does(made, tmp_path_factory, steps):
    registry = Registry(shutil.copytree(made, tmp_path_factory.mktemp("sequence") / "registry"))
    now = asdict(registry.routing()) | {"previous": None}
    nobody = {"challenger": None, "traffic_fraction": 0.0, "shadow": False}
    for step, *words in steps:
        before, lines = dict(now), len(registry.audit())
        refused = False
        if step == "promote" and words[0] != now["champion"]:
            now |= {"champion": words[0], "previous": now["champion"]}
            now |= nobody if now["challenger"] == words[0] else {}
        elif step == "challenge" and words[0] == now["champion"]:
            refused = True
        elif step == "challenge":
            now |= {"challenger": words[0], "traffic_fraction": words[1], "shadow": words[2]}
        elif step == "fraction" and now["challenger"] is None:
            refused = True
        elif step == "fraction":
            now["traffic_fraction"] = words[0]
        elif step == "clear" or (step == "back" and now["challenger"] is not None):
            now |= nobody
        elif step == "back" and now["previous"] is None:
            refused = True
        elif step == "back":
            now |= {"champion": now["previous"], "previous": None}
        elif step in ("pause", "resume"):
            now["exploration"] = step == "resume"
        call = {
            "promote": registry.promote, "challenge": lambda n, s, h: registry.set_challenger(n, s, shadow=h),
            "fraction": registry.set_traffic_fraction, "back": registry.roll_back, "clear": registry.clear_challenger,
            "pause": registry.pause_exploration, "resume": registry.resume_exploration,
        }[step]  # fmt: skip
        if refused:
            with pytest.raises(ConfigError):
                call(*words)
        else:
            call(*words)
        assert asdict(registry.routing()) | {"previous": registry.aliases()["previous"]} == now
        assert len(registry.audit()) == lines + (now != before)
