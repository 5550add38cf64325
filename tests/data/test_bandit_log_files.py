"""Logs on disk: what is written is read back equal, the schema, and every fault named by file and row."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hand_logs import (
    ACTION_ITEMS,
    FAULTS,
    NUMBERS,
    START,
    assert_same_rounds,
    column,
    contexts,
    hand_rounds,
    metadata,
    newcomer_rounds,
    page_rounds,
    rewrite,
    tables,
    third,
    write_log,
)

from recpolicy.core.errors import DataError
from recpolicy.data import bandit_log_files, log_columns
from recpolicy.data.bandit_log_files import read_catalog, write_events
from recpolicy.data.event_reader import read_events, read_late_rewards
from recpolicy.data.log_ingest import IngestConfig, ingest, read_complete_rounds
from recpolicy.data.log_parts import EVENTS, REWARDS


def read(folder, text=False):
    return read_events([folder / EVENTS], tables(text))[0]


def action_items(folder):
    return read_catalog([folder / EVENTS], tables()).action_items


@pytest.mark.parametrize("candidates", [False, True], ids=["whole catalog", "candidates"])
@pytest.mark.parametrize("text", [False, True], ids=["numbers", "text"])
def test_what_was_written_is_read_back_equal(tmp_path, candidates, text):
    rounds = hand_rounds(candidates=candidates)
    write_events(tmp_path / EVENTS, rounds, tables(text), with_rewards=True)
    assert_same_rounds(read_complete_rounds(tmp_path / EVENTS, tables(text)), rounds)


@pytest.mark.parametrize("text", [False, True], ids=["numbers", "text"])
def test_newcomers_and_their_vectors_are_read_back_equal(tmp_path, text):
    rounds = newcomer_rounds(text=text, candidates=True)
    write_events(tmp_path / EVENTS, rounds, tables(text), with_rewards=True)
    assert_same_rounds(read_complete_rounds(tmp_path / EVENTS, tables(text)), rounds)
    table = pq.read_table(tmp_path / EVENTS)
    assert table.schema.field("context").type == pa.list_(pa.float32())
    assert table["context"].null_count == (~rounds.with_context).sum() > 0
    assert table["user_id"].to_pylist()[1:8:3] == (["new-b", "new-a", "new-b"] if text else [70, 60, 70])


@pytest.mark.parametrize("kind", [pa.large_list(pa.float64()), pa.list_(pa.float32(), 3), pa.list_(pa.int8())], ids=str)
def test_vectors_of_other_types_are_the_same_numbers(tmp_path, kind):
    write_log(tmp_path, hand_rounds())
    contexts(None, kind)(tmp_path)
    found = read(tmp_path).context
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[1, 2, 3]] * 2 + [[np.nan] * 3] + [[1, 2, 3]] * 9)


def test_a_column_of_nulls_says_as_much_as_none(tmp_path):
    rounds = hand_rounds()
    write_log(tmp_path, rounds)
    rewrite(tmp_path / EVENTS, lambda table: table.append_column("context", pa.nulls(12, pa.list_(pa.float32()))))
    found = read(tmp_path)
    assert found.context is found.cold_start_users is None
    np.testing.assert_array_equal(found.columns["user"], rounds.user)


def test_newcomers_of_all_pieces_are_numbered_together(tmp_path, monkeypatch):
    rounds = newcomer_rounds()
    write_events(tmp_path / EVENTS, rounds, tables(), with_rewards=True)
    for size in (5, 2, 1):  # pieces without any vector among them
        monkeypatch.setattr(log_columns, "_ROWS", size)
        assert_same_rounds(read_complete_rounds(tmp_path / EVENTS, tables()), rounds)
    column("context", lambda old: [*old[:7], [1.0, 2.0], *old[8:]])(tmp_path)
    with pytest.raises(DataError, match="row 8: context has 2 numbers; expected 3"):
        read_complete_rounds(tmp_path / EVENTS, tables())


def test_newcomers_are_not_written_by_another_table(tmp_path):
    fewer = tables()
    fewer = type(fewer)(fewer.users[:3], fewer.items, fewer.scale)
    with pytest.raises(DataError, match="hand: the log has a table of 4 users, but 3 are given"):
        write_events(tmp_path / EVENTS, newcomer_rounds(), fewer, with_rewards=True)


def test_pieces_of_a_file_are_put_together(tmp_path, monkeypatch):
    rounds = hand_rounds(candidates=True)
    write_events(tmp_path / EVENTS, rounds, tables(), with_rewards=True)
    monkeypatch.setattr(log_columns, "_ROWS", 5)
    assert_same_rounds(read_complete_rounds(tmp_path / EVENTS, tables()), rounds)
    column("log_propensity", lambda old: [*old[:10], 1.0, old[11]])(tmp_path)
    with pytest.raises(DataError, match=r"row 11: log_propensity 1\.0"):
        read_complete_rounds(tmp_path / EVENTS, tables())


def test_pieces_with_and_without_candidates_do_not_go_together(tmp_path, monkeypatch):
    write_log(tmp_path, hand_rounds(candidates=True))
    lists = [[11, 12, 13, 15, 16]] * 12
    column("candidates", [*lists[:5], *[None] * 5, *lists[10:]], NUMBERS)(tmp_path)
    monkeypatch.setattr(log_columns, "_ROWS", 5)
    with pytest.raises(DataError, match="row 6: candidates are missing, but other rows have them"):
        read(tmp_path)


@pytest.mark.parametrize(("text", "kind"), [(False, pa.int64()), (True, pa.string())])
def test_the_schema_of_events_and_rewards(tmp_path, text, kind):
    write_log(tmp_path, hand_rounds(), text=text)
    word, time = pa.dictionary(pa.int32(), pa.string()), pa.timestamp("ms", tz="UTC")
    expected = {
        "event_id": pa.string(), "time": time, "user_id": kind, "item_id": kind, "log_propensity": pa.float64(),
        "policy": word, "policy_version": word, "candidates": pa.dictionary(pa.int32(), pa.binary()),
        "reward": pa.float64(),
    }  # fmt: skip
    events = pq.read_schema(tmp_path / EVENTS)
    assert dict(zip(events.names, events.types, strict=True)) == expected
    rewards = pq.read_schema(tmp_path / REWARDS)
    assert dict(zip(rewards.names, rewards.types, strict=True)) == {
        "event_id": pa.string(), "time": time, "reward": pa.float64()
    }  # fmt: skip
    assert pq.read_table(tmp_path / EVENTS)["time"][0].as_py() == pd.Timestamp("2026-01-05", tz="UTC")
    assert pq.read_table(tmp_path / EVENTS)["reward"].null_count == 12


def test_other_programs_may_write_it_in_their_own_way(tmp_path):
    """Plain text, nanoseconds without a zone, int32 ids, large lists, whole-number rewards, no metadata."""
    rounds = hand_rounds(candidates=True)
    lists = [(11 + ACTION_ITEMS[row]).tolist()[::-1] for row in rounds.allowed(slice(0, 12))]
    table = {
        "server": pa.array(["x"] * 12),
        "event_id": pa.array(rounds.event_id, pa.large_string()),
        "time": pa.array(rounds.time * 1_000_000, pa.int64()).cast(pa.timestamp("ns")),
        "user_id": pa.array(rounds.user + 1, pa.int32()),
        "item_id": pa.array(rounds.item + 11, pa.int32()),
        "log_propensity": pa.array(rounds.log_propensity),
        "policy": pa.array(rounds.policy, pa.string()),
        "policy_version": pa.array(rounds.version, pa.string()),
        "candidates": pa.array(lists, pa.large_list(pa.int32())),
        "reward": pa.array(rounds.reward.astype(int)),
    }
    pq.write_table(pa.table(table), tmp_path / EVENTS)
    np.testing.assert_array_equal(action_items(tmp_path), np.arange(6))  # it does not say: all items
    found = read_complete_rounds(tmp_path / EVENTS, tables())
    for name in ("event_id", "time", "user", "item", "log_propensity", "policy", "version", "reward"):
        np.testing.assert_array_equal(getattr(found, name), getattr(rounds, name), err_msg=name)
    np.testing.assert_array_equal(found.allowed(slice(0, 12))[:, ACTION_ITEMS], rounds.allowed(slice(0, 12)))


def test_columns_that_may_be_missing(tmp_path):
    write_log(tmp_path, hand_rounds(candidates=True))
    rewrite(tmp_path / EVENTS, lambda table: table.drop_columns(["reward", "candidates"]))
    events = read(tmp_path)
    assert np.isnan(events.columns["reward"]).all()
    assert events.candidates is None


def test_times_of_another_zone_are_brought_to_utc(tmp_path):
    write_log(tmp_path, hand_rounds())
    column("time", lambda old: old, pa.timestamp("us", tz="Asia/Tokyo"))(tmp_path)
    assert read(tmp_path).columns["time"][0] == START


def test_the_catalog_of_the_log_is_the_one_in_the_file(tmp_path):
    write_log(tmp_path, hand_rounds())
    np.testing.assert_array_equal(action_items(tmp_path), ACTION_ITEMS)
    metadata(action_items=[16, 11, 16])(tmp_path)
    np.testing.assert_array_equal(action_items(tmp_path), [0, 5])


def test_rewards_are_read_back_equal_and_none_at_all_is_no_fault(tmp_path):
    rounds = hand_rounds()
    write_log(tmp_path, rounds, delay=7)
    found = read_late_rewards([tmp_path / REWARDS], (1.0, 5.0))
    order = np.argsort(found.time)  # they stand in the order of their hashes
    np.testing.assert_array_equal(np.array(found.event_id.to_pylist())[order], rounds.event_id)
    np.testing.assert_array_equal(found.time[order], rounds.time + 7)
    np.testing.assert_array_equal(found.reward[order], rounds.reward)
    rewrite(tmp_path / REWARDS, lambda table: table.slice(0, 0))
    assert len(read_late_rewards([tmp_path / REWARDS], (1.0, 5.0))) == 0


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_named_by_file_and_row(tmp_path, fault):
    spoil, message = FAULTS[fault]
    spoil(write_log(tmp_path, hand_rounds()))
    with pytest.raises(DataError, match=message) as raised:
        ingest(tmp_path, tables(), IngestConfig())
    assert "\n" not in str(raised.value)
    assert "np." not in str(raised.value)


def test_ids_of_text_are_not_numbers(tmp_path):
    write_log(tmp_path, hand_rounds(), text=True)
    with pytest.raises(DataError, match="its action_items names item 'film-11'"):
        read(tmp_path)
    metadata(action_items=[11, 12, 13, 15, 16])(tmp_path)
    with pytest.raises(DataError, match=r"row 1: user_id 'user-\d' is none of the 4"):
        read(tmp_path)


def test_an_unknown_candidate_is_found_among_the_candidates_of_its_own_row(tmp_path):
    """Lists of different lengths, one of them empty before it would be refused for another reason."""
    write_log(tmp_path, hand_rounds())
    column("candidates", lambda old: third([99])([[11, 12, 13, 15, 16], [11, 12, 13, 15, 16, 11]] * 6), NUMBERS)(
        tmp_path
    )
    with pytest.raises(DataError, match="row 3: a candidate is none of the 6 items"):
        read(tmp_path)


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    write_events(tmp_path / EVENTS, hand_rounds(), tables(), with_rewards=True)
    before = (tmp_path / EVENTS).read_bytes()

    def full_disk(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_events(tmp_path / EVENTS, hand_rounds(seed=1), tables(), with_rewards=True)
    assert (tmp_path / EVENTS).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [EVENTS]


@pytest.mark.parametrize("name", bandit_log_files.ORIGIN_FIELDS)
def test_where_rounds_come_from_is_told(tmp_path, name):
    rounds = replace(hand_rounds(), **{name: "ab" * 32})
    write_events(tmp_path / EVENTS, rounds, tables(), with_rewards=True)
    found = read_complete_rounds(tmp_path / EVENTS, tables())
    assert (getattr(found, name), getattr(found.take(2, 5, "part"), name)) == ("ab" * 32, "ab" * 32)
    assert found.digest == hand_rounds().digest
    learn, judge, _ = ingest(tmp_path, tables(), IngestConfig())
    assert getattr(learn, name) == getattr(judge, name) == "ab" * 32
    metadata = {"recpolicy": f'{{"{name}": 3}}'}
    rewrite(tmp_path / EVENTS, lambda table: table.replace_schema_metadata(metadata))
    with pytest.raises(DataError, match=rf"its metadata names {name} 3; expected (the (digest|name)|round)"):
        read_complete_rounds(tmp_path / EVENTS, tables())


@pytest.mark.parametrize(
    "rounds", [hand_rounds(), hand_rounds(candidates=True), page_rounds(), newcomer_rounds()],
    ids=["plain", "candidates", "pages", "newcomers"],
)  # fmt: skip
@pytest.mark.parametrize("rows", [100, 5, 1])
def test_a_log_that_is_written_in_pieces_is_the_same_log(tmp_path, monkeypatch, rounds, rows):
    monkeypatch.setattr(bandit_log_files, "_ROWS_AT_ONCE", rows)
    write_events(tmp_path / EVENTS, rounds, tables(), with_rewards=True)
    assert pq.ParquetFile(tmp_path / EVENTS).num_row_groups == -(-12 // rows)
    assert read_complete_rounds(tmp_path / EVENTS, tables()).digest == rounds.digest
    monkeypatch.setattr(log_columns, "_VALUES", 12 * rows)  # and read in pieces
    assert read_complete_rounds(tmp_path / EVENTS, tables()).digest == rounds.digest


def test_a_newcomer_whose_number_is_beyond_64_bits_is_refused(tmp_path):
    write_events(tmp_path / EVENTS, newcomer_rounds(), tables(), with_rewards=True)

    def change(table):
        ids = [2**63 + 1 if one > 4 else one for one in table.column("user_id").to_pylist()]
        return table.set_column(table.schema.get_field_index("user_id"), "user_id", pa.array(ids, pa.uint64()))

    rewrite(tmp_path / EVENTS, change)
    with pytest.raises(DataError, match=r"row \d+: user_id 9223372036854775809 is above 9223372036854775807"):
        read_complete_rounds(tmp_path / EVENTS, tables())
