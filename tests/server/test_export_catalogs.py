"""Logs that span versions of different catalogs: exported and evaluated exactly, by enumeration of all events."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from event_factory import event
from tiny_policies import tiny_artifact

from recpolicy.core.errors import DataError
from recpolicy.data.bandit_log import within_catalog
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.inference.artifact import write_arrays, write_manifest
from recpolicy.inference.guardrails import GuardrailConfig
from recpolicy.inference.predictor import load_policy
from recpolicy.registry.add_items import change_items
from recpolicy.registry.model_registry import Registry
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.events import insert_events
from recpolicy.server.db.export import ExportOptions, LogPolicy, export
from recpolicy.server.db.feedback import FeedbackItem, RewardRules, apply_feedback
from recpolicy.server.db.guardrail_record import pack_list
from recpolicy.workflows.interaction_logs import ingest_log, read_rounds
from recpolicy.workflows.log_evaluation import compare_on_log
from recpolicy.workflows.policy_estimation import estimate

RULES = RewardRules((1.0, 5.0), window_ms=10**9)
CATALOGS = {1: (101, 102, 103), 2: (101, 102, 103, 201), 3: (101, 103, 201)}
"""Version 2 has a new item, version 3 has retired one."""
USERS = (1, 2)


@pytest.fixture
def registry(tmp_path):
    """Three versions, each with the catalog in CATALOGS."""
    registry = Registry(tmp_path / "registry")
    folder = tmp_path / "policy"
    folder.mkdir()
    artifact = tiny_artifact(users=2, items=3)
    write_arrays(artifact, folder)
    write_manifest(artifact, folder)
    registry.register(folder)
    year = pd.array([None], dtype="Int64")
    change_items(registry, 1, pd.DataFrame({"item_id": [201], "title": ["New"], "year": year, "genres": [""]}))
    change_items(registry, 2, retire=[102])
    for number, catalog in CATALOGS.items():
        artifact = load_policy(registry.resolve(number)).artifact
        assert tuple(np.array(artifact.tables.item_ids)[artifact.action_items]) == catalog
    return registry


def reward(user, item):
    """The rating that a user gives an item."""
    stars = {101: 1.0, 102: 4.5, 103: 2.5, 201: 3.0}[item]
    return stars if user == 1 else 6 - stars


def all_events(closed=False):
    """Yield every event that uniform lists of two could show, with its probability and the open items of each place.

    Requests allow everything, or two or one of the items; with `closed`, guardrails close an item after the first
    place.
    """
    for version, catalog in CATALOGS.items():
        for user in USERS:
            for allowed in (catalog, catalog[1:], catalog[1:2]):
                for shown in permutations(allowed, min(2, len(allowed))):
                    left = [item for item in allowed if item != shown[0]]
                    if closed and len(left) > 1:
                        left = [item for item in left if item != catalog[-1]]
                    if len(shown) > 1 and shown[1] not in left:
                        continue
                    chances = [1 / len(allowed), *([1 / len(left)] if len(shown) > 1 else [])]
                    bits = None if allowed == catalog else np.packbits(np.isin(catalog, allowed)).tobytes()
                    fields = {"version": version, "items": shown, "propensities": chances, "allowed": bits}
                    if closed:
                        at = np.full(len(catalog), len(shown))
                        if len(allowed) > 2 or (len(allowed) == 2 and len(left) > 1):
                            at[-1] = 1 if shown[0] != catalog[-1] else len(shown)
                        fields["guardrails"] = pack_list(GuardrailConfig().digest, at, len(shown))
                    yield event(user=user, **fields), float(np.prod(chances)), [list(allowed), left]


def logged(engine, registry, target, folder, events):
    """Export and ingest the events as a log for a version; return its rounds."""
    with transaction(engine) as connection:
        insert_events(connection, events)
        for each in events:
            user, items = int(each.user_key), [int(item) for item in each.item_ids.strip("[]").split(",")]
            said = [FeedbackItem(each.id, item, "rating", reward(user, item)) for item in items]
            apply_feedback(connection, said, each.time + 5, RULES)
    done = export(engine, LogPolicy(registry, target), ExportOptions(folder / "log"))
    tables = IdVocabulary.from_policy(load_policy(registry.resolve(target)))
    ingest_log(folder / "log", folder / "rounds", tables, {"evaluation_share": 0.0})
    return done, read_rounds(folder / "rounds" / "training.parquet", tables)


def value(policy, user, candidates):
    """The reward of the policy's best candidate in its catalog; ties share. None without one."""
    artifact = policy.artifact
    ids = np.array(artifact.tables.item_ids)[artifact.action_items]
    score = policy.scorer.predict_one(user).score
    able = np.isin(ids, candidates)
    if not able.any():
        return None
    best = ids[able][score[able] == score[able].max()]
    return float(np.mean([reward(user, item) for item in best]))


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("target", [1, 2, 3])
def test_inverse_propensities_over_all_events_give_the_exact_value(engine, tmp_path, registry, target, closed):
    enumerated = list(all_events(closed))
    done, log = logged(engine, registry, target, tmp_path, [each for each, _, _ in enumerated])
    policy = load_policy(registry.resolve(target))
    readable = {number for number in CATALOGS if target > 1 or number == 1}  # version 1 knows no item 201
    expected, able = {}, 0
    for each, chance, open_items in enumerated:
        if each.version not in readable:
            continue
        for place, items in enumerate(open_items[: each.item_ids.count(",") + 1]):
            key, part = (each.version, each.user_key, each.allowed, place), value(policy, int(each.user_key), items)
            if part is not None:
                expected[key] = expected.get(key, 0.0) + chance * part
                able += 1
    comparison = compare_on_log(policy, None, log)
    assert len(comparison.feedback) == able
    chance_of = {each.id: (each, chance) for each, chance, _ in enumerated}
    total = dict.fromkeys(expected, 0.0)
    assert comparison.candidate.table is not None
    kept = [row for row in range(len(log)) if round_value(policy, log, row)]
    for row, prob in zip(kept, comparison.candidate.prob, strict=True):
        identifier, _, place = log.event_id[row].partition(":")
        each, chance = chance_of[identifier]
        key = (each.version, each.user_key, each.allowed, int(place))
        total[key] += chance * prob / log.propensity[row] * log.reward[row]
    assert total.keys() == expected.keys()
    for key, exact in expected.items():
        assert total[key] == pytest.approx(exact, rel=1e-6), key
    left = sum(each.version not in readable for each, _, _ in enumerated)
    assert done.left_out.get("other_policy", 0) == left


def round_value(policy, log, row):
    """True if a candidate of the round is in the policy's catalog."""
    mask = log.allowed(slice(row, row + 1))
    candidates = log.action_items if mask is None else log.action_items[mask[0]]
    return bool(np.isin(candidates, policy.artifact.action_items).any())


def test_candidates_are_those_of_the_version_that_chose(engine, tmp_path, registry):
    enumerated = list(all_events())
    _, log = logged(engine, registry, 3, tmp_path, [each for each, _, _ in enumerated])
    ids = np.array(load_policy(registry.resolve(3)).artifact.tables.item_ids)[log.action_items]
    assert ids.tolist() == [101, 102, 103, 201]  # with the retired item, which versions 1 and 2 showed
    open_items = {each.id: parts for each, _, parts in enumerated}
    for row in range(len(log)):
        identifier, _, place = log.event_id[row].partition(":")
        mask = log.allowed(slice(row, row + 1))
        assert sorted(ids if mask is None else ids[mask[0]]) == sorted(open_items[identifier][int(place)])


def test_versions_before_and_after_a_change_compare_on_one_log(engine, tmp_path, registry):
    """Where the candidates are those of version 1, version 2 chooses as version 1: their difference is exactly 0."""
    events = [each for each, _, _ in all_events() if each.version == 1]
    _, log = logged(engine, registry, 2, tmp_path, events)
    new, old = (load_policy(registry.resolve(number)) for number in (2, 1))
    assert compare_on_log(new, old, log).gain.value == 0
    result = estimate(new, log, old)
    assert result.differences["ips"].value == 0


def test_under_guardrails_rounds_with_a_retired_candidate_are_left_out(engine, tmp_path, registry):
    events = [each for each, _, _ in all_events()]
    _, log = logged(engine, registry, 3, tmp_path, events)
    policy = load_policy(registry.resolve(3))
    comparison = compare_on_log(policy, None, log, guardrails=GuardrailConfig(blocked=(103,)))
    ids, part = np.array(policy.artifact.tables.item_ids), within_catalog(log, policy.artifact.action_items)
    assert ids[part.action_items].tolist() == [101, 103, 201]
    whole = {event: set(ids[row]) for event, row in zip(log.event_id, masks(log), strict=True)}
    left = {event: set(ids[row]) for event, row in zip(part.event_id, masks(part), strict=True)}
    earlier = {f"{each.id}:1": each.item_ids.strip("[]").split(",")[0] for each in events}
    assert left == {event: items for event, items in whole.items() if 102 not in items and event in left}
    assert all(earlier.get(event) != "102" for event in left)
    assert 0 < len(left) < sum(102 not in items for items in whole.values())  # 102 was shown before some
    assert len(comparison.feedback) < len(left)  # where only the blocked item is open, there is no choice
    assert any("they have candidates that a policy lacks" in note for note in comparison.notes)


def masks(log):
    """The item rows that are candidates, round by round."""
    mask = log.allowed(slice(0, len(log)))
    assert mask is not None
    return [log.action_items[row] for row in mask]


def test_a_log_of_other_users_or_other_items_is_left_out(engine, tmp_path, registry):
    stranger = tiny_artifact(users=2, items=3)
    folder = tmp_path / "stranger"
    folder.mkdir()
    other = replace(stranger, items=stranger.items.assign(item_id=[101, 102, 999]))
    write_arrays(other, folder)
    write_manifest(other, folder)
    number = registry.register(folder).number
    with transaction(engine) as connection:
        insert_events(connection, [event(items=(101,), version=number, propensities=(0.5,))])
    done = export(engine, LogPolicy(registry, 3), ExportOptions(tmp_path / "log"))
    assert (done.rounds, done.left_out) == (0, {"other_policy": 1})


def test_a_log_without_a_choice_for_the_policy_is_one_line(engine, tmp_path, registry):
    bits = np.packbits([False, True, False]).tobytes()
    _, log = logged(engine, registry, 3, tmp_path, [event(items=(102,), propensities=(1.0,), allowed=bits)])
    with pytest.raises(DataError, match="no round has its candidates in the catalog of the policy"):
        compare_on_log(load_policy(registry.resolve(3)), None, log)
