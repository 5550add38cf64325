"""Session logs on disk: what is written is read back equal, in any order of rows, and every fault is named."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hand_logs import hand_rounds, tables, write_log
from hand_sessions import FAULTS, column, hand_candidates, hand_sessions, metadata, rewritten, without, write_hand

from recpolicy.core.errors import DataError
from recpolicy.data import log_columns
from recpolicy.data.log_metadata import read_metadata
from recpolicy.data.log_parts import EVENTS
from recpolicy.data.session_log import COLUMNS, SessionLog
from recpolicy.data.session_log_files import SESSIONS, is_session_log, read_sessions, write_sessions


def assert_same_sessions(one: SessionLog, other: SessionLog) -> None:
    """Equal in all but the name, bit by bit."""
    for name in (*COLUMNS, "action_items"):
        left, right = getattr(one, name), getattr(other, name)
        assert left.dtype == right.dtype, name
        np.testing.assert_array_equal(left, right, err_msg=name)
    np.testing.assert_array_equal(one.log_propensity, other.log_propensity)
    assert one.scale == other.scale
    assert one.digest == other.digest


@pytest.mark.parametrize("text", [False, True], ids=["numbers", "text"])
def test_what_was_written_is_read_back_equal(tmp_path, text):
    write_hand(tmp_path, text)
    assert_same_sessions(read_sessions(tmp_path / SESSIONS, tables(text)), hand_sessions())


def test_the_rows_may_come_in_any_order_and_in_pieces(tmp_path, monkeypatch):
    """The sessions then come in the order of their first row; here s0 is still the first, s3 the second."""
    write_hand(tmp_path)
    order = [2, 10, 0, 9, 3, 8, 1, 11, 4, 7, 6, 5]
    rewritten(lambda table: table.take(order))(tmp_path)
    monkeypatch.setattr(log_columns, "_ROWS", 5)
    found, hand = read_sessions(tmp_path / SESSIONS, tables()), hand_sessions()
    rows = np.r_[0:4, 10:12, 5:10, 4]
    for name in (*COLUMNS, "log_propensity"):
        np.testing.assert_array_equal(getattr(found, name), getattr(hand, name)[rows], err_msg=name)


def test_candidates_are_read_back_in_any_order_of_rows_pieces_and_bits(tmp_path, monkeypatch):
    log = hand_sessions(candidates=hand_candidates())
    write_hand(tmp_path, candidates=hand_candidates())
    rewritten(lambda table: table.take([2, 10, 0, 9, 3, 8, 1, 11, 4, 7, 6, 5]))(tmp_path)
    monkeypatch.setattr(log_columns, "_ROWS", 5)
    order = np.r_[0:4, 10:12, 5:10, 4]
    expected = log.candidates.mask(slice(None))[order]
    found = read_sessions(tmp_path / SESSIONS, tables())
    np.testing.assert_array_equal(found.candidates.mask(slice(None)), expected)
    written = read_metadata(tmp_path / SESSIONS)
    metadata(json.dumps({**written, "action_items": written["action_items"][::-1]}).encode())(tmp_path)
    bits = np.packbits(log.candidates.mask(slice(None))[:, ::-1], axis=1)
    row = [2, 10, 0, 9, 3, 8, 1, 11, 4, 7, 6, 5]
    column("candidates", [bits[step].tobytes() for step in row], pa.binary())(tmp_path)
    found = read_sessions(tmp_path / SESSIONS, tables())
    np.testing.assert_array_equal(found.candidates.mask(slice(None)), expected)


def test_candidates_count_in_the_digest_and_go_with_their_sessions():
    plain, log = hand_sessions(), hand_sessions(candidates=hand_candidates())
    assert plain.digest != log.digest
    part = log.select_sessions(np.array([False, True, False, True]))
    np.testing.assert_array_equal(part.candidates.mask(slice(None)), log.candidates.mask(slice(None))[[4, 10, 11]])
    assert len(part.candidates.sets) == 1


def test_candidates_that_do_not_fit_the_steps_are_refused():
    sets = hand_candidates()
    with pytest.raises(DataError, match="candidates of 11 steps and 5 items; expected 12 steps and 5 items"):
        hand_sessions(candidates=sets.take(slice(11)))
    with pytest.raises(DataError, match="step 4 of all: item row 5: not among the candidates of its step"):
        hand_sessions(candidates=sets.take(np.array([0] * 12)))


def test_a_fault_between_rows_names_the_row_of_the_file(tmp_path):
    """Step 2 of session s0, whose row is the first of the file, follows a step that is not there."""
    write_hand(tmp_path)
    rewritten(lambda table: table.take([2, 10, 0, 11]))(tmp_path)
    with pytest.raises(DataError, match=r"sessions\.parquet: row 1: steps are missing .*'s0', step 2"):
        read_sessions(tmp_path / SESSIONS, tables())


def test_the_schema(tmp_path):
    word = pa.dictionary(pa.int32(), pa.string())
    expected = {
        "event_id": pa.string(), "time": pa.timestamp("ms", tz="UTC"), "user_id": pa.int64(), "session_id": word,
        "step": pa.int32(), "item_id": pa.int64(), "log_propensity": pa.float64(), "reward": pa.float64(),
        "liked": pa.bool_(), "ended": pa.bool_(), "policy": word, "policy_version": word,
    }  # fmt: skip
    schema = pq.read_schema(write_hand(tmp_path) / SESSIONS)
    assert dict(zip(schema.names, schema.types, strict=True)) == expected


def test_without_metadata_it_speaks_of_all_items_and_of_likes(tmp_path):
    write_hand(tmp_path)
    rewritten(lambda table: table.replace_schema_metadata({}))(tmp_path)
    found = read_sessions(tmp_path / SESSIONS, tables())
    np.testing.assert_array_equal(found.action_items, np.arange(6))
    assert found.scale == (0.0, 1.0)
    assert is_session_log(tmp_path / SESSIONS)


@pytest.mark.parametrize("how", ["written", "no column", "nulls"])
def test_a_log_without_propensities_says_so(tmp_path, how):
    write_hand(tmp_path, log_propensity=None) if how == "written" else write_hand(tmp_path)
    if how == "no column":
        rewritten(lambda table: table.drop_columns(["log_propensity"]))(tmp_path)
    if how == "nulls":
        column("log_propensity", [None] * 12, pa.null())(tmp_path)
    assert read_sessions(tmp_path / SESSIONS, tables()).log_propensity is None


def test_pieces_with_and_without_propensities_do_not_go_together(tmp_path, monkeypatch):
    write_hand(tmp_path)
    column("log_propensity", lambda old: [*old[:5], *[None] * 5, *old[10:]])(tmp_path)
    monkeypatch.setattr(log_columns, "_ROWS", 5)
    with pytest.raises(DataError, match="row 6: log_propensity is missing, but other rows have it"):
        read_sessions(tmp_path / SESSIONS, tables())


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_one_line_that_names_file_and_row(tmp_path, fault):
    spoil, message = FAULTS[fault]
    spoil(write_hand(tmp_path))
    with pytest.raises(DataError, match=message) as raised:
        read_sessions(tmp_path / SESSIONS, tables())
    assert "\n" not in str(raised.value)


def test_sessions_and_rounds_are_told_apart(tmp_path):
    write_log(tmp_path / "rounds", hand_rounds())
    assert not is_session_log(tmp_path / "rounds" / EVENTS)
    assert is_session_log(write_hand(tmp_path / "sessions") / SESSIONS)


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    write_hand(tmp_path)
    before = (tmp_path / SESSIONS).read_bytes()

    def full_disk(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(pq, "write_table", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_sessions(tmp_path / SESSIONS, hand_sessions(), tables())
    assert (tmp_path / SESSIONS).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [SESSIONS]


def test_a_session_that_was_left_out_whole_is_not_missed(tmp_path):
    without(4)(write_hand(tmp_path))
    assert read_sessions(tmp_path / SESSIONS, tables()).length.tolist() == [4, 5, 2]
