"""From events of a server to logged rounds: bit for bit, in pieces, across kills, and good enough to judge by."""

import json
import random
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from event_factory import event
from sqlalchemy import insert, update
from tiny_policies import tiny_artifact, write_tiny

from recpolicy.core.errors import DataError
from recpolicy.data.bandit_log_files import EVENTS, REWARDS, IdVocabulary
from recpolicy.data.log_ingest import IngestConfig, ingest
from recpolicy.inference.artifact import write_arrays, write_manifest
from recpolicy.inference.predictor import load_policy
from recpolicy.inference.scorer import load_scorer
from recpolicy.inference.slate_selection import ExplorationConfig
from recpolicy.registry.model_registry import Registry
from recpolicy.server import recommend
from recpolicy.server.db import export as module
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.events import insert_events
from recpolicy.server.db.export import Cursor, Export, LogPolicy, export
from recpolicy.server.db.feedback import FeedbackItem, RewardRules, apply_feedback
from recpolicy.server.db.schema import events, rewards
from recpolicy.server.live_models import LiveState, LoadedVersion
from recpolicy.server.recommend import NO_EXPLORATION, choose
from recpolicy.server.schemas.requests import RecommendRequest
from recpolicy.workflows.interaction_logs import ingest_log, read_rounds
from recpolicy.workflows.log_evaluation import compare_on_log

RULES = RewardRules((1.0, 5.0), window_ms=10**9)
EXPLORING = ExplorationConfig(share=0.4, top=5)


@pytest.fixture
def registry(tmp_path):
    registry = Registry(tmp_path / "registry")
    registry.register(write_tiny(tmp_path / "tiny"), gate={"verdict": "pass"})
    registry.promote(1)
    return registry


def show(engine, *shown):
    with transaction(engine) as connection:
        insert_events(connection, shown)


def say(engine, shown, item, rating, time=None):
    with transaction(engine) as connection:
        (outcome,) = apply_feedback(
            connection, [FeedbackItem(shown.id, item, "rating", rating)], time or shown.time + 5, RULES
        )
    assert outcome.status == "accepted"


def seen(**words):
    """An event of the tiny policy: two of its eleven items."""
    return event(**{"user": 3, "items": (104, 101), "propensities": (0.1 + 0.2, 1 / 3), **words})


def rows(folder, name=EVENTS):
    return pq.read_table(folder / name).to_pylist()


def test_every_place_becomes_a_round_with_its_propensity_bit_for_bit(each_engine, tmp_path, registry):
    engine = each_engine
    mask = np.zeros(11, bool)
    mask[[0, 3, 7]] = True
    one, other = seen(), seen(user=5, allowed=np.packbits(mask).tobytes(), policy_digest="d" * 64, agent="lints")
    show(engine, one, other)
    say(engine, other, 101, 2.5)
    done = export(engine, LogPolicy(registry), Export(tmp_path / "log"))
    assert (done.new_rounds, done.new_rewards, done.left_out) == (4, 1, {})
    first, second, third, fourth = rows(tmp_path / "log")
    assert [row["event_id"] for row in (first, second)] == [f"{one.id}:0", f"{one.id}:1"]
    assert [row["log_propensity"] for row in (first, second)] == [np.log(0.1 + 0.2), np.log(1 / 3)]
    assert first["candidates"] == list(range(101, 112))
    assert second["candidates"] == [101, 102, 103, *range(105, 112)]
    assert (third["candidates"], fourth["candidates"]) == ([101, 104, 108], [101, 108])
    assert (fourth["user_id"], fourth["item_id"], fourth["policy"], fourth["policy_version"]) == (
        5, 101, "lints", "d" * 64,
    )  # fmt: skip
    assert int(first["time"].timestamp() * 1000) == one.time
    (reward,) = rows(tmp_path / "log", REWARDS)
    assert (reward["event_id"], reward["reward"]) == (f"{other.id}:1", 2.5)


def test_a_run_appends_only_what_is_new_and_the_whole_is_that_of_one_run(tmp_path, registry, engine):
    policy, whole = LogPolicy(registry), tmp_path / "whole"
    shown = [seen(user=1 + place % 7) for place in range(6)]
    for count, one in enumerate(shown, 1):
        show(engine, one)
        say(engine, one, 104, 4.0)
        done = export(engine, policy, Export(tmp_path / "log"))
        assert (done.new_rounds, done.rounds, done.new_rewards, done.rewards) == (2, 2 * count, 1, count)
    before = (tmp_path / "log" / EVENTS).stat().st_mtime_ns
    assert export(engine, policy, Export(tmp_path / "log")).new_rounds == 0
    assert (tmp_path / "log" / EVENTS).stat().st_mtime_ns == before
    export(engine, policy, Export(whole))
    for name in (EVENTS, REWARDS):
        assert rows(tmp_path / "log", name) == rows(whole, name)


@pytest.mark.parametrize("where", ["events", "between", "rewards"])
def test_a_run_that_was_killed_at_any_moment_goes_on(tmp_path, registry, engine, monkeypatch, where):
    policy, wanted = LogPolicy(registry), Export(tmp_path / "log")
    first, second = seen(), seen(user=4)
    show(engine, first)
    say(engine, first, 104, 4.0)
    export(engine, policy, wanted)
    show(engine, second)
    say(engine, second, 101, 3.0)
    kind = module._Rewards if where == "rewards" else module._Events

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if where == "between":
            patch.setattr(module._Rewards, "query", die)
        else:
            patch.setattr(kind, "batch", die)
        with pytest.raises(KeyboardInterrupt):
            export(engine, policy, wanted)
    done = export(engine, policy, wanted)
    assert (done.rounds, done.rewards) == (4, 2)
    assert [row["event_id"] for row in rows(wanted.out, REWARDS)] == [f"{first.id}:0", f"{second.id}:1"]
    assert sorted(path.name for path in wanted.out.iterdir()) == [".lock", EVENTS, REWARDS]


def test_a_row_that_was_committed_late_is_not_lost(tmp_path, registry, engine):
    policy, wanted = LogPolicy(registry), Export(tmp_path / "log")
    shown = [seen(user=1 + place) for place in range(5)]
    numbered = [{**one._asdict(), "seq": seq} for seq, one in enumerate(shown, 10)]
    for step, expected in (([0, 3], 2), ([], 2), ([1], 3), ([4], 4), ([2], 5)):
        with transaction(engine) as connection:
            for place in step:
                connection.execute(insert(events).values(numbered[place]))
        assert export(engine, policy, wanted).rounds == 2 * expected
    found = {row["event_id"].split(":")[0] for row in rows(wanted.out)}
    assert found == {one.id for one in shown}


def test_numbers_passed_over_are_forgotten_after_an_hour_and_long_gaps_at_once():
    cursor = Cursor(4).after(np.array([6, 9]), {}, now=0)
    assert (cursor.seq, cursor.gaps) == (9, ((5, 5, 0), (7, 8, 0)))
    later = cursor.after(np.array([8, 10, 12]), {}, now=1_000)
    assert (later.seq, later.gaps) == (12, ((5, 5, 0), (7, 7, 0), (11, 11, 1_000)))
    assert later.after(np.array([13]), {}, now=3_600_000).gaps == ((11, 11, 1_000),)
    assert Cursor().after(np.array([50_000]), {}, now=0).gaps == ()


def register(registry, folder, artifact):
    folder.mkdir()
    write_arrays(artifact, folder)
    write_manifest(artifact, folder)
    registry.register(folder, gate={"verdict": "pass"})


VECTOR = np.array([0.25, -1.5, 3.0], np.float32)


def test_what_the_log_cannot_hold_is_left_out_and_counted(tmp_path, registry, engine):
    register(registry, tmp_path / "smaller", tiny_artifact(arms=6))
    register(registry, tmp_path / "other", replace(tiny_artifact(), context=tiny_artifact(seed=1).context))
    vector = VECTOR.tobytes()
    kept, *others = (
        seen(), seen(user="new", context=vector), seen(user=70, context=vector[:8]), seen(version=2), seen(version=99),
        seen(propensities=(0.5, 0.0)), seen(user=70, context=vector, version=3), seen(context=vector, version=2),
        seen(user=70, context=(VECTOR * np.nan).tobytes()), seen(user=70, context=(VECTOR * 1e6).tobytes()),
    )  # fmt: skip
    show(engine, kept, *others)
    for one in (kept, *others):
        say(engine, one, 104, 4.0)
    done = export(engine, LogPolicy(registry), Export(tmp_path / "log"))
    assert done.left_out == {"new_user": 5, "other_policy": 3, "no_propensity": 1}
    assert (done.rounds, done.rewards) == (2, 1)
    show(engine, seen(version=3))  # by their ids, users are those of the log, whatever the features
    assert export(engine, LogPolicy(registry), Export(tmp_path / "log")).rounds == 4
    show(engine, seen(version=2))
    assert export(engine, LogPolicy(registry), Export(tmp_path / "log")).left_out["other_policy"] == 4
    with pytest.raises(DataError, match="the log has another catalog or other features than the policy"):
        export(engine, LogPolicy(registry, 2), Export(tmp_path / "log"))


def test_newcomers_come_with_the_vector_that_was_seen(tmp_path, registry, engine):
    """And so does a user whom the policy knows, and who was described otherwise; it may be a version trained on."""
    register(registry, tmp_path / "on", replace(tiny_artifact(), policy=tiny_artifact(seed=1).policy))
    new, known = seen(user=70, context=VECTOR.tobytes()), seen(user=3, context=(-VECTOR).tobytes(), version=2)
    show(engine, seen(), new, known)
    say(engine, new, 104, 4.0)
    done = export(engine, LogPolicy(registry), Export(tmp_path / "log"))
    assert (done.new_rounds, done.new_rewards, done.left_out) == (6, 1, {})
    found = rows(tmp_path / "log")
    assert [row["user_id"] for row in found] == [3, 3, 70, 70, 3, 3]
    mine, other = VECTOR.tolist(), (-VECTOR).tolist()
    assert [row["context"] for row in found] == [None, None, mine, mine, other, other]


def test_a_vector_is_believed_up_to_twice_the_longest_that_was_trained_with(tmp_path, registry, engine):
    longest = np.linalg.norm(tiny_artifact().context, axis=1).max()
    unit = VECTOR / np.linalg.norm(VECTOR)
    for times, rounds in ((1.99, 2), (2.01, 2)):
        show(engine, seen(user=70, context=(unit * longest * times).astype(np.float32).tobytes()))
        assert export(engine, LogPolicy(registry), Export(tmp_path / "log")).rounds == rounds


def test_a_log_that_an_older_version_began_goes_on_without_its_vectors(tmp_path, registry, engine):
    policy, wanted = LogPolicy(registry), Export(tmp_path / "log")
    show(engine, seen())
    export(engine, policy, wanted)
    path = wanted.out / EVENTS
    before = rows(wanted.out)
    table, said = pq.read_table(path).drop_columns(["context"]), pq.ParquetFile(path).metadata.metadata
    with pq.ParquetWriter(path, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({module._CURSOR: said[module._CURSOR]})
    assert export(engine, policy, wanted).rounds == 2
    show(engine, seen(user=70, context=VECTOR.tobytes()))
    done = export(engine, policy, wanted)
    assert (done.new_rounds, done.rounds) == (2, 4)
    assert rows(wanted.out)[:2] == before
    assert [row["context"] for row in rows(wanted.out)] == [None, None, VECTOR.tolist(), VECTOR.tolist()]
    assert pq.read_schema(path) == module._Events(policy, wanted).schema


def test_a_log_of_another_origin_is_not_touched(tmp_path, registry, engine):
    done = export(engine, LogPolicy(registry), Export(tmp_path / "log"))
    assert done.rounds == 0
    table = pq.read_table(tmp_path / "log" / EVENTS)
    pq.write_table(table, tmp_path / "log" / EVENTS)
    show(engine, seen())
    with pytest.raises(DataError, match="the file is not an export of a server"):
        export(engine, LogPolicy(registry), Export(tmp_path / "log"))


def test_what_is_asked_for_is_exported(tmp_path, registry, engine):
    old, new, rare = seen(time=1_000), seen(time=2_000), seen(user=5, time=2_000)
    show(engine, old, new, rare)
    for one in (old, new):
        say(engine, one, 104, 4.0)
    say(engine, rare, 101, 3.0)
    wanted = Export(tmp_path / "log", since=2_000, least_rewards=2, places=1)
    done = export(engine, LogPolicy(registry), wanted)
    assert [row["event_id"] for row in rows(wanted.out)] == [f"{new.id}:0"]
    assert (done.rounds, done.rewards) == (1, 1)
    only_first = export(engine, LogPolicy(registry), Export(tmp_path / "first", places=1))
    assert (only_first.rounds, only_first.rewards) == (3, 2)


def test_text_ids_stay_text(tmp_path, engine):
    registry = Registry(tmp_path / "registry")
    register(registry, tmp_path / "texts", tiny_artifact(text=True))
    registry.promote(1)
    words = {"items": ('"104"', '"101"')}
    show(
        engine, seen(user="u,3", **words), *(seen(user=user, context=VECTOR.tobytes(), **words) for user in ("70", 70))
    )
    done = export(engine, LogPolicy(registry), Export(tmp_path / "log"))
    assert rows(tmp_path / "log")[1]["user_id"] == "u,3"
    assert rows(tmp_path / "log")[2]["user_id"] == "70"
    assert done.left_out == {"new_user": 1}  # the number 70
    assert '"104"' not in rows(tmp_path / "log")[1]["candidates"]
    assert len(rows(tmp_path / "log")[1]["candidates"]) == 10


def played(engine, folder, number, seed):
    """Let the tiny policy answer `number` requests for two items, exploring; returns expected rewards [U, I]."""
    scorer, rng = load_scorer(folder), np.random.default_rng(seed)
    live = LiveState(LoadedVersion(scorer, 1))
    expected = 1.5 + 3 * np.random.default_rng(3).random((7, 11))
    shown, came = [], []
    random.seed(seed)  # by which a server decides whether it explores
    for place in range(number):
        user = int(rng.integers(1, 8))
        lot = np.random.default_rng([seed, place])
        with pytest.MonkeyPatch.context() as patch:  # and by which what it shows then
            patch.setattr(recommend.np.random, "default_rng", lambda lot=lot: lot)
            chosen = choose(live, RecommendRequest(user=user, k=2, exclude=[103]), EXPLORING)
        row = chosen.event._replace(time=1_000_000 + 10 * place)
        shown.append(row)
        same = {name: getattr(row, name) for name in ("user_key", "version", "variant", "explored", "time")}
        for position, item in enumerate(chosen.item_ids):
            reward = expected[user - 1, item - 101] + rng.uniform(-0.5, 0.5)
            came.append({**same, "event_id": row.id, "position": position, "reward": reward})
    with transaction(engine) as connection:
        insert_events(connection, shown)
        connection.execute(insert(rewards), came)
    return expected


def test_estimates_from_an_exported_log_are_unbiased(tmp_path, registry, engine):
    expected = played(engine, tmp_path / "tiny", 3_000, seed=1)
    export(engine, LogPolicy(registry), Export(tmp_path / "log"))
    policy = load_policy(tmp_path / "tiny")
    log, _, report = ingest(tmp_path / "log", IdVocabulary.from_policy(policy), IngestConfig(evaluation_share=0.0))
    assert (report.events, report.joined, report.unknown_rewards) == (6_000, 6_000, 0)
    score = policy.scores()[0].copy()
    score[:, 2] = -np.inf  # the item that was never allowed
    first = np.array([one.endswith(":0") for one in log.event_id])
    # At the first place: the second-best item, which only exploring shows. At the second place: the best that is left.
    for place, rank in ((first, 1), (~first, 0)):
        allowed = log.allowed(slice(0, len(log)))[place]
        ranked = np.where(allowed, score[log.user[place]], -np.inf)
        target = np.argsort(-ranked, axis=1)[:, rank]
        weight = (log.item[place] == target) / log.propensity[place]
        terms = weight * log.reward[place]
        truth = expected[log.user[place], target].mean()
        error = terms.std() / np.sqrt(place.sum())
        assert abs(terms.mean() - truth) < 4 * error
        assert abs(weight.mean() - 1) < 4 * weight.std() / np.sqrt(place.sum()) + 1e-9
        assert weight.std() > 0.1


def test_recpolicy_log_ingest_takes_an_exported_log(tmp_path, registry, engine):
    played(engine, tmp_path / "tiny", 60, seed=2)
    with transaction(engine) as connection:  # feedback that came later
        connection.execute(update(rewards).where(rewards.c.position == 1).values(time=rewards.c.time + 60_000))
    export(engine, LogPolicy(registry), Export(tmp_path / "log"))
    tables = IdVocabulary.from_policy(load_policy(tmp_path / "tiny"))
    report = ingest_log(tmp_path / "log", tmp_path / "rounds", tables)
    assert (report.events, report.joined, report.training + report.evaluation) == (120, 120, 120)
    rounds = read_rounds(tmp_path / "rounds" / "training.parquet", tables)
    with engine.connect() as connection:
        stored = {row.id: json.loads(row.propensities) for row in connection.execute(events.select())}
    for name, found in zip(rounds.event_id, rounds.log_propensity, strict=True):
        event_id, place = name.split(":")
        assert found == np.log(stored[event_id][int(place)])


def test_a_server_s_newcomers_are_learnt_from_and_judged_as_they_were_seen(tmp_path, registry, engine):
    """Described by ratings or by a vector when they were served; their greedy lists are what the policy would do."""
    live, policy = LiveState(LoadedVersion(load_scorer(tmp_path / "tiny"), 1)), load_policy(tmp_path / "tiny")
    rng, shown, vectors = np.random.default_rng(5), [], {}
    for user in range(70, 90):
        words = {"context": rng.normal(1, 0.5, 3).tolist()}
        if user % 2:
            ratings = [{"item": int(item), "rating": 1.0 + user % 5} for item in rng.choice(range(101, 112), 3, False)]
            words = {"ratings": ratings}
        chosen = choose(live, RecommendRequest(user=user, k=2, **words), EXPLORING if user < 85 else NO_EXPLORATION)
        vectors[user] = np.frombuffer(chosen.event.context, np.float32)
        shown.append(chosen.event._replace(time=1_000_000 + user))
    came = [
        {name: getattr(row, name) for name in ("user_key", "version", "variant", "explored", "time")}
        | {"event_id": row.id, "position": 0, "reward": 4.0}
        for row in shown
    ]
    with transaction(engine) as connection:
        insert_events(connection, shown)
        connection.execute(insert(rewards), came)
    export(engine, LogPolicy(registry), Export(tmp_path / "log"))
    log, _, _ = ingest(tmp_path / "log", IdVocabulary.from_policy(policy), IngestConfig(evaluation_share=0.0))
    assert len(log) == 20
    np.testing.assert_array_equal(log.contexts(policy.artifact.context), np.stack(list(vectors.values())))
    assert log.cold_start_users.ids.tolist() == list(range(70, 90))
    with pytest.raises(DataError, match="from the features of another training"):
        log.contexts(policy.artifact.context[::-1])
    greedy = log.time >= 1_000_085
    prob = compare_on_log(policy, None, log).candidate.prob
    np.testing.assert_array_equal(prob[greedy], 1)
    assert (prob[~greedy] == 0).any()
