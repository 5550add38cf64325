"""From events of a server to logged rounds: bit for bit, in pieces, across kills, and good enough to judge by."""

import json
import random
import shutil
import tracemalloc
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from event_factory import event
from sqlalchemy import insert, update
from tiny_policies import tiny_artifact, write_tiny

from recpolicy.core.errors import DataError
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.log_ingest import IngestConfig, ingest
from recpolicy.data.log_parts import EVENTS, REWARDS, log_parts
from recpolicy.inference.artifact import write_arrays, write_manifest
from recpolicy.inference.load_scorer import load_scorer
from recpolicy.inference.predictor import load_policy
from recpolicy.inference.slate_selection import ExplorationConfig
from recpolicy.registry.model_registry import Registry
from recpolicy.server import computed_lists
from recpolicy.server.db import export as module
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.events import insert_events
from recpolicy.server.db.export import Cursor, ExportOptions, LogPolicy, export
from recpolicy.server.db.feedback import FeedbackItem, RewardRules, apply_feedback
from recpolicy.server.db.schema import events, rewards
from recpolicy.server.db.session_history import pack_history
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
    """The rows of all parts of a log."""
    return [row for path in log_parts(folder, name) for row in pq.read_table(path).to_pylist()]


def candidates(row, catalog=range(101, 112)):
    """The candidates of a row: the items of its packed set, without the excluded ones."""
    packed = row["candidates"]
    bits = np.ones(len(catalog), int) if packed is None else np.unpackbits(np.frombuffer(packed, np.uint8))
    listed = [item for item, bit in zip(catalog, bits, strict=False) if bit]
    return [item for item in listed if item not in row["excluded"]]


def test_every_place_becomes_a_round_with_its_propensity_bit_for_bit(each_engine, tmp_path, registry):
    engine = each_engine
    mask = np.zeros(11, bool)
    mask[[0, 3, 7]] = True
    one, other = seen(), seen(user=5, allowed=np.packbits(mask).tobytes(), policy_digest="d" * 64, agent="lints")
    show(engine, one, other)
    say(engine, other, 101, 2.5)
    done = export(engine, LogPolicy(registry), ExportOptions(tmp_path / "log"))
    assert (done.new_rounds, done.new_rewards, done.left_out) == (4, 1, {})
    first, second, third, fourth = rows(tmp_path / "log")
    assert [row["event_id"] for row in (first, second)] == [f"{one.id}:0", f"{one.id}:1"]
    assert [row["log_propensity"] for row in (first, second)] == [np.log(0.1 + 0.2), np.log(1 / 3)]
    assert candidates(first) == list(range(101, 112))
    assert candidates(second) == [101, 102, 103, *range(105, 112)]
    assert (candidates(third), candidates(fourth)) == ([101, 104, 108], [101, 108])
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
        done = export(engine, policy, ExportOptions(tmp_path / "log"))
        assert (done.new_rounds, done.rounds, done.new_rewards, done.rewards) == (2, 2 * count, 1, count)
    assert [path.name for path in log_parts(tmp_path / "log", EVENTS)] == [
        EVENTS, *(f"events-{number:06d}.parquet" for number in range(1, 6))
    ]  # fmt: skip
    before = contents(tmp_path / "log")
    assert export(engine, policy, ExportOptions(tmp_path / "log")).new_rounds == 0
    assert contents(tmp_path / "log") == before
    export(engine, policy, ExportOptions(whole))
    for name in (EVENTS, REWARDS):
        assert rows(tmp_path / "log", name) == rows(whole, name)


def contents(folder):
    """The bytes of all files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("where", ["events", "between", "rewards"])
def test_a_run_that_was_killed_at_any_moment_goes_on(tmp_path, registry, engine, monkeypatch, where):
    policy, wanted = LogPolicy(registry), ExportOptions(tmp_path / "log")
    first, second = seen(), seen(user=4)
    show(engine, first)
    say(engine, first, 104, 4.0)
    export(engine, policy, wanted)
    show(engine, second)
    say(engine, second, 101, 3.0)
    before = contents(wanted.out)
    kind = module.RewardRows if where == "rewards" else module.EventRows

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if where == "between":
            patch.setattr(module.RewardRows, "query", die)
        else:
            patch.setattr(kind, "batch", die)
        with pytest.raises(KeyboardInterrupt):
            export(engine, policy, wanted)
    done = export(engine, policy, wanted)
    assert (done.rounds, done.rewards) == (4, 2)
    assert [row["event_id"] for row in rows(wanted.out, REWARDS)] == [f"{first.id}:0", f"{second.id}:1"]
    assert sorted(path.name for path in wanted.out.iterdir()) == [
        ".lock", "events-000001.parquet", EVENTS, "rewards-000001.parquet", REWARDS
    ]  # fmt: skip
    assert before.items() <= contents(wanted.out).items()


def test_a_row_that_was_committed_late_is_not_lost(tmp_path, registry, engine):
    policy, wanted = LogPolicy(registry), ExportOptions(tmp_path / "log")
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
    done = export(engine, LogPolicy(registry), ExportOptions(tmp_path / "log"))
    assert done.left_out == {"new_user": 6, "other_policy": 1, "no_propensity": 1}
    assert (done.rounds, done.rewards) == (4, 2)
    show(engine, seen(version=3))  # by their ids, users are those of the log, whatever the features
    assert export(engine, LogPolicy(registry), ExportOptions(tmp_path / "log")).rounds == 6
    smaller = seen(version=2)  # its catalog is a part of the log's, and so are its candidates
    show(engine, smaller)
    assert export(engine, LogPolicy(registry), ExportOptions(tmp_path / "log")).rounds == 8
    (first, _) = (row for row in rows(tmp_path / "log") if row["event_id"].startswith(smaller.id))
    assert candidates(first) == list(range(101, 107))
    larger = export(engine, LogPolicy(registry, 2), ExportOptions(tmp_path / "small"))
    assert larger.left_out["other_policy"] == 9  # those of versions with items that it does not have
    with pytest.raises(DataError, match="the log has another catalog or other features than the policy"):
        export(engine, LogPolicy(registry, 2), ExportOptions(tmp_path / "log"))


def test_newcomers_come_with_the_vector_that_was_seen(tmp_path, registry, engine):
    """And so does a user whom the policy knows, and who was described otherwise; it may be a version trained on."""
    register(registry, tmp_path / "on", replace(tiny_artifact(), policy=tiny_artifact(seed=1).policy))
    new, known = seen(user=70, context=VECTOR.tobytes()), seen(user=3, context=(-VECTOR).tobytes(), version=2)
    show(engine, seen(), new, known)
    say(engine, new, 104, 4.0)
    done = export(engine, LogPolicy(registry), ExportOptions(tmp_path / "log"))
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
        assert export(engine, LogPolicy(registry), ExportOptions(tmp_path / "log")).rounds == rounds


def as_version_3(path, *without):
    """Rewrite a part as version 3 wrote it: the candidates of each row are a list of ids."""
    table, said = pq.read_table(path), pq.ParquetFile(path).metadata.metadata
    lists = pa.array([candidates(row) for row in table.to_pylist()], pa.list_(pa.int64()))
    place, body = table.schema.get_field_index("candidates"), json.loads(table.schema.metadata[b"recpolicy"])
    table = table.set_column(place, "candidates", lists).drop_columns(["excluded", *without])
    schema = table.schema.with_metadata({b"recpolicy": json.dumps({**body, "version": 3})})
    with pq.ParquetWriter(path, schema) as writer:
        writer.write_table(table.cast(schema))
        writer.add_key_value_metadata({module._CURSOR: said[module._CURSOR]})


def test_packed_candidates_are_those_of_the_old_lists_round_by_round(tmp_path, registry, engine):
    played(engine, tmp_path / "tiny", 60, seed=4)
    export(engine, LogPolicy(registry), ExportOptions(tmp_path / "new"))
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    as_version_3(tmp_path / "old" / EVENTS)
    tables, logs = IdVocabulary.from_policy(load_policy(tmp_path / "tiny")), []
    for name in ("new", "old"):
        ingest_log(tmp_path / name, tmp_path / f"{name}-rounds", tables)
        logs.append(read_rounds(tmp_path / f"{name}-rounds" / "training.parquet", tables))
    new, old = logs
    np.testing.assert_array_equal(new.allowed(slice(0, len(new))), old.allowed(slice(0, len(old))))
    assert new.digest == old.digest  # a log keeps its digest, and policies that learned from it know it
    assert len(new.candidates.sets) < len(old.candidates.sets)
    assert 0 < new.allowed(slice(0, len(new))).sum(axis=1).min() < 10


def test_a_killed_export_goes_on_after_its_last_part(tmp_path, registry, engine, monkeypatch):
    """Parts of two events; the process dies in the third, whose file stays behind as after kill -9."""
    monkeypatch.setattr(module, "EVENTS_IN_PART", 2)
    wanted, policy = ExportOptions(tmp_path / "log"), LogPolicy(registry)
    show(engine, *(seen(user=1 + number % 7) for number in range(7)))
    made, real = [], module.EventRows.batch

    def die_in_the_third(*words):
        made.append(words)
        if len(made) == 3:
            raise KeyboardInterrupt
        return real(*words)

    with monkeypatch.context() as patch:
        patch.setattr(module.EventRows, "batch", die_in_the_third)
        with pytest.raises(KeyboardInterrupt):
            export(engine, policy, wanted)
    finished = contents(wanted.out)
    assert [path.name for path in log_parts(wanted.out, EVENTS)] == [EVENTS, "events-000001.parquet"]
    (wanted.out / ".events-000002.parquet.x.part").write_bytes(b"PAR1")
    done = export(engine, policy, wanted)
    assert (done.new_rounds, done.rounds) == (6, 14)
    assert finished.items() <= contents(wanted.out).items()
    assert not list(wanted.out.glob("*.part")) + list(wanted.out.glob(".*.part"))
    export(engine, policy, ExportOptions(tmp_path / "whole"))
    assert rows(wanted.out) == rows(tmp_path / "whole")


def test_the_memory_of_an_export_does_not_grow_with_the_events(tmp_path, registry, engine, monkeypatch):
    monkeypatch.setattr(module, "EVENTS_IN_PART", 200)
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 50)
    peaks, policy = [], LogPolicy(registry)
    for number, count in enumerate((400, 400, 3_200)):  # the first run fills caches
        show(engine, *(seen(user=1 + place % 7) for place in range(count)))
        tracemalloc.start()
        export(engine, policy, ExportOptions(tmp_path / "log"))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(log_parts(tmp_path / "log", EVENTS)) == (2, 4, 20)[number]
    assert peaks[2] < 2 * peaks[1]  # eight times the events, in ten times the parts


def test_a_sample_of_the_events_is_uniform_and_always_the_same(tmp_path, registry, each_engine):
    show(each_engine, *(seen(user=1 + number % 7) for number in range(400)))
    half, fifth = (
        {row["event_id"] for row in rows(sampled(tmp_path / str(share), each_engine, registry, share))}
        for share in (0.5, 0.2)
    )
    assert 2 * 140 < len(half) < 2 * 260
    assert 2 * 40 < len(fifth) < 2 * 120
    assert fifth < half
    assert {row["event_id"] for row in rows(sampled(tmp_path / "again", each_engine, registry, 0.5))} == half


def sampled(folder, engine, registry, share):
    export(engine, LogPolicy(registry), ExportOptions(folder, fraction=share))
    return folder


def test_a_log_that_an_older_version_began_goes_on_without_its_vectors(tmp_path, registry, engine):
    policy, wanted = LogPolicy(registry), ExportOptions(tmp_path / "log")
    show(engine, seen())
    export(engine, policy, wanted)
    path = wanted.out / EVENTS
    as_version_3(path, "context")
    before = path.read_bytes()
    assert export(engine, policy, wanted).rounds == 2
    show(engine, seen(user=70, context=VECTOR.tobytes()))
    done = export(engine, policy, wanted)
    assert (done.new_rounds, done.rounds) == (2, 4)
    assert path.read_bytes() == before
    assert [row.get("context") for row in rows(wanted.out)] == [None, None, VECTOR.tolist(), VECTOR.tolist()]
    assert "context" not in pq.read_schema(path).names
    tables = IdVocabulary.from_policy(load_policy(tmp_path / "tiny"))
    log, _, _ = ingest(wanted.out, tables, IngestConfig(evaluation_share=0.0, wait_hours=0.0, default_reward=3.0))
    np.testing.assert_array_equal(log.with_context, [False, False, True, True])
    everything = np.ones(11, bool)
    np.testing.assert_array_equal(log.allowed(slice(0, 4)), [everything, np.arange(11) != 3] * 2)


def test_a_log_of_another_origin_is_not_touched(tmp_path, registry, engine):
    done = export(engine, LogPolicy(registry), ExportOptions(tmp_path / "log"))
    assert done.rounds == 0
    table = pq.read_table(tmp_path / "log" / EVENTS)
    pq.write_table(table, tmp_path / "log" / EVENTS)
    show(engine, seen())
    with pytest.raises(DataError, match="the file is not an export of a server"):
        export(engine, LogPolicy(registry), ExportOptions(tmp_path / "log"))


def test_what_is_asked_for_is_exported(tmp_path, registry, engine):
    old, new, rare = seen(time=1_000), seen(time=2_000), seen(user=5, time=2_000)
    show(engine, old, new, rare)
    for one in (old, new):
        say(engine, one, 104, 4.0)
    say(engine, rare, 101, 3.0)
    wanted = ExportOptions(tmp_path / "log", since=2_000, least_rewards=2, places=1)
    done = export(engine, LogPolicy(registry), wanted)
    assert [row["event_id"] for row in rows(wanted.out)] == [f"{new.id}:0"]
    assert (done.rounds, done.rewards) == (1, 1)
    only_first = export(engine, LogPolicy(registry), ExportOptions(tmp_path / "first", places=1))
    assert (only_first.rounds, only_first.rewards) == (3, 2)


def test_text_ids_stay_text(tmp_path, engine):
    registry = Registry(tmp_path / "registry")
    register(registry, tmp_path / "texts", tiny_artifact(text=True))
    registry.promote(1)
    words = {"items": ('"104"', '"101"')}
    show(
        engine, seen(user="u,3", **words), *(seen(user=user, context=VECTOR.tobytes(), **words) for user in ("70", 70))
    )
    done = export(engine, LogPolicy(registry), ExportOptions(tmp_path / "log"))
    assert rows(tmp_path / "log")[1]["user_id"] == "u,3"
    assert rows(tmp_path / "log")[2]["user_id"] == "70"
    assert done.left_out == {"new_user": 1}  # the number 70
    second = rows(tmp_path / "log")[1]
    assert second["excluded"] == ['"104"']
    assert len(candidates(second, [f'"{item}"' for item in range(101, 112)])) == 10


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
            patch.setattr(computed_lists.np.random, "default_rng", lambda lot=lot: lot)
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
    export(engine, LogPolicy(registry), ExportOptions(tmp_path / "log"))
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
    export(engine, LogPolicy(registry), ExportOptions(tmp_path / "log"))
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
    export(engine, LogPolicy(registry), ExportOptions(tmp_path / "log"))
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


def test_the_session_that_a_policy_saw_is_exported_with_each_round(each_engine, tmp_path, registry):
    """Item rows of the version: 0 is item 101."""
    session = pack_history(np.array([3, 0, 3]), [True, False, False])
    shown = [seen(history=session), seen(user=4, history=b""), seen(user=5)]
    show(each_engine, *shown)
    say(each_engine, shown[0], 104, 4.0)
    export(each_engine, LogPolicy(registry), ExportOptions(tmp_path / "log"))
    exported = [(row["history_item"], row["history_liked"]) for row in rows(tmp_path / "log")]
    assert exported == 2 * [([104, 101, 104], [True, False, False])] + 2 * [([], [])] + 2 * [(None, None)]
    show(each_engine, seen(user=6, history=session))
    assert export(each_engine, LogPolicy(registry), ExportOptions(tmp_path / "log")).new_rounds == 2
    tables = IdVocabulary.from_policy(load_policy(tmp_path / "tiny"))
    assert ingest_log(tmp_path / "log", tmp_path / "rounds", tables, {"evaluation_share": 0.0}).joined == 1
