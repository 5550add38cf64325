"""Slate logs on disk: what is written is read back equal, and every fault is named by file and row."""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hand_logs import ACTION_ITEMS, hand_rounds, tables
from hand_sessions import hand_sessions
from hand_slates import FAULTS, hand_slates, metadata, rewritten, write_hand

from recpolicy.core.errors import DataError
from recpolicy.data import log_columns
from recpolicy.data.bandit_log_files import write_events
from recpolicy.data.session_log_files import is_session_log, write_sessions
from recpolicy.data.slate_log_files import SLATES, is_slate_log, read_slates


@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("shelved", [False, True])
def test_slates_are_read_back_as_they_were_written(tmp_path, shelved, text):
    folder = write_hand(tmp_path, text, shelved=shelved)
    found = read_slates(folder / SLATES, tables(text))
    assert found.digest == hand_slates(shelved).digest
    assert found.name == str(folder / SLATES)
    assert found.slots == 2


def test_slates_are_read_the_same_in_small_pieces(tmp_path, monkeypatch):
    folder = write_hand(tmp_path)
    monkeypatch.setattr(log_columns, "_ROWS", 3)
    assert read_slates(folder / SLATES, tables()).digest == hand_slates().digest


def test_slot_rewards_may_be_unknown(tmp_path):
    folder = write_hand(tmp_path, slot_reward=None)
    assert read_slates(folder / SLATES, tables()).slot_reward is None
    rewritten(lambda table: table.drop_columns(["slot_reward"]))(folder)
    assert read_slates(folder / SLATES, tables()).slot_reward is None


def test_a_file_that_says_nothing_of_itself_speaks_of_all_items_in_any_slot(tmp_path):
    folder = write_hand(tmp_path)
    rewritten(lambda table: table.replace_schema_metadata(None))(folder)
    found = read_slates(folder / SLATES, tables())
    assert found.action_items.tolist() == [0, 1, 2, 3, 4, 5]
    assert found.shelves is None
    assert found.scale == (0.0, 2.0)


def test_shelves_follow_their_items_in_whatever_order_the_file_names_them(tmp_path):
    folder = write_hand(tmp_path)
    metadata(b'{"action_items": [16, 15, 13, 12, 11], "shelves": [1, 1, 0, 1, 0]}')(folder)
    found = read_slates(folder / SLATES, tables())
    assert found.action_items.tolist() == ACTION_ITEMS.tolist()
    assert found.shelves.tolist() == [0, 1, 0, 1, 1]


def test_without_shelves_no_item_stands_on_a_page_twice(tmp_path):
    folder = write_hand(tmp_path, shelved=False)

    def change(table):
        pages = table.column("slate").to_pylist()
        pages[4] = [pages[4][0]] * 2
        return table.set_column(table.schema.get_field_index("slate"), "slate", pa.array(pages))

    rewritten(change)(folder)
    with pytest.raises(DataError, match=r"row 5: an item that occurs twice in the slate"):
        read_slates(folder / SLATES, tables())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_file_is_refused_with_its_row(tmp_path, fault):
    change, message = FAULTS[fault]
    folder = write_hand(tmp_path)
    change(folder)
    with pytest.raises(DataError, match=message) as refused:
        read_slates(folder / SLATES, tables())
    assert "\n" not in str(refused.value)


def test_logs_are_told_apart_by_what_they_say_and_else_by_their_columns(tmp_path):
    write_hand(tmp_path)
    write_events(tmp_path / "events.parquet", hand_rounds(), tables(), with_rewards=True)
    write_sessions(tmp_path / "sessions.parquet", hand_sessions(), tables())
    told = {name: is_slate_log(tmp_path / name) for name in (SLATES, "events.parquet", "sessions.parquet")}
    assert told == {SLATES: True, "events.parquet": False, "sessions.parquet": False}
    assert not is_session_log(tmp_path / SLATES)
    rewritten(lambda table: table.replace_schema_metadata(None))(tmp_path)
    assert is_slate_log(tmp_path / SLATES)


def test_the_same_slates_give_the_same_bytes(tmp_path):
    files = [write_hand(tmp_path / name) / SLATES for name in "ab"]
    assert len({hashlib.sha256(file.read_bytes()).hexdigest() for file in files}) == 1
    assert pq.read_schema(files[0]).field("log_propensity").type == pa.list_(pa.float64())


def test_a_log_of_other_ids_is_refused(tmp_path):
    folder = write_hand(tmp_path)
    with pytest.raises(DataError, match=r"its action_items names item 11"):
        read_slates(folder / SLATES, tables(text=True))


def test_all_rewards_and_propensities_come_back_to_the_last_bit(tmp_path):
    folder = write_hand(tmp_path)
    np.testing.assert_array_equal(
        read_slates(folder / SLATES, tables()).log_propensity, hand_slates().log_propensity, strict=True
    )
