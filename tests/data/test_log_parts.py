"""Logs of several parts: their order, what they must share, and how much of them is in memory."""

import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hand_logs import (
    ACTION_ITEMS,
    FAULTS,
    NUMBERS,
    assert_same_rounds,
    hand_rounds,
    metadata,
    page_rounds,
    rewrite,
    tables,
    write_log,
)

from recpolicy.core import memory
from recpolicy.core.errors import DataError, MemoryLimitError
from recpolicy.data import candidates, event_reader, log_columns
from recpolicy.data.bandit_log_files import write_events, write_rewards
from recpolicy.data.log_ingest import IngestConfig, ingest
from recpolicy.data.log_parts import EVENTS, REWARDS, has_events, log_parts, part_path

ALL = IngestConfig(evaluation_share=0.0)


def in_parts(folder, rounds, cuts):
    """Write a log in parts of events and of rewards."""
    folder.mkdir()
    for number, (first, last) in enumerate(zip([0, *cuts], [*cuts, len(rounds)], strict=True)):
        part = rounds.take(first, last, "part")
        write_events(part_path(folder, EVENTS, number), part, tables(), with_rewards=False)
        write_rewards(part_path(folder, REWARDS, number), part.event_id, part.time + 60_000, part.reward)
    return folder


def test_parts_are_found_in_the_order_of_their_numbers(tmp_path):
    names = (EVENTS, "events-000001.parquet", "events-000010.parquet", "events-1000000.parquet")
    for name in (*names[::-1], "events-1.parquet", "events.parquet.part", "rewards.parquet", ".events-000002.x.part"):
        (tmp_path / name).touch()
    assert [path.name for path in log_parts(tmp_path, EVENTS)] == list(names)
    assert [part_path(tmp_path, EVENTS, number).name for number in (0, 10, 1_000_000)] == [names[0], *names[2:]]
    assert has_events(tmp_path)
    assert not has_events(tmp_path / "nothing")


@pytest.mark.parametrize("rounds", [hand_rounds(), hand_rounds(candidates=True), page_rounds()])
@pytest.mark.parametrize("cuts", [[], [5], [1, 1, 7, 11]])
def test_a_log_in_parts_is_the_same_log(tmp_path, rounds, cuts):
    log, _, report = ingest(in_parts(tmp_path / "parts", rounds, cuts), tables(), ALL)
    assert_same_rounds(log, rounds)
    assert (report.events, report.joined) == (12, 12)


def test_a_part_with_lists_goes_with_a_part_with_packed_sets(tmp_path):
    rounds = page_rounds()
    folder = in_parts(tmp_path / "parts", rounds, [6])
    lists = [(11 + ACTION_ITEMS[row]).tolist() for row in rounds.allowed(slice(0, 6))]

    def unpack(table):
        place = table.schema.get_field_index("candidates")
        return table.set_column(place, "candidates", pa.array(lists, NUMBERS)).drop_columns(["excluded"])

    rewrite(folder / EVENTS, unpack)
    assert_same_rounds(ingest(folder, tables(), ALL)[0], rounds)


def test_bits_follow_the_action_items_of_the_file_and_those_behind_the_last_do_not_count(tmp_path, monkeypatch):
    monkeypatch.setattr(candidates, "_CELLS", 10)  # two sets at a time
    rounds = page_rounds()
    folder = in_parts(tmp_path / "parts", rounds, [])

    def turn(table):
        bits = np.unpackbits(np.frombuffer(b"".join(table["candidates"].to_pylist()), np.uint8)[:, np.newaxis], axis=1)
        bits[:, :5], bits[:, 5:] = bits[:, 4::-1].copy(), 1
        place = table.schema.get_field_index("candidates")
        sets = [bytes(row) for row in np.packbits(bits, axis=1)]
        return table.set_column(place, "candidates", pa.array(sets, pa.binary(1)))

    rewrite(folder / EVENTS, turn)
    metadata(action_items=(11 + ACTION_ITEMS[::-1]).tolist())(folder)
    log, _, _ = ingest(folder, tables(), ALL)
    assert_same_rounds(log, rounds)
    assert (log.candidates.sets & 0b111 == 0).all()


def test_an_id_that_occurs_in_two_parts_is_named_with_the_second(tmp_path):
    folder = in_parts(tmp_path / "parts", hand_rounds(), [6])
    path = part_path(folder, EVENTS, 1)
    table = pq.read_table(path)
    pq.write_table(table.set_column(0, "event_id", pa.array(["e7", "e8", "e3", "e9", "e10", "e11"])), path)
    with pytest.raises(DataError, match=r"events-000001\.parquet: row 3: event_id 'e3' occurs twice"):
        ingest(folder, tables(), ALL)


def test_two_ids_of_one_hash_are_not_the_same_id(tmp_path, monkeypatch):
    rounds, real = page_rounds(), event_reader.text_hashes
    monkeypatch.setattr(event_reader, "text_hashes", lambda texts: real(texts) % np.uint64(3))
    assert_same_rounds(ingest(in_parts(tmp_path / "parts", rounds, [5]), tables(), ALL)[0], rounds)


def test_parts_of_another_catalog_are_refused(tmp_path):
    folder = in_parts(tmp_path / "parts", hand_rounds(), [6])
    (folder / "events.x").write_bytes((folder / EVENTS).read_bytes())
    part = part_path(folder, EVENTS, 1)
    part.rename(folder / "aside")
    metadata(action_items=[11, 12, 13, 14, 15, 16])(folder)
    (folder / EVENTS).rename(part)
    (folder / "events.x").rename(folder / EVENTS)
    with pytest.raises(DataError, match=r"events-000001\.parquet: has another catalog than events\.parquet"):
        ingest(folder, tables(), ALL)


def test_a_fault_in_a_later_part_is_named_by_its_file(tmp_path):
    folder = in_parts(tmp_path / "parts", hand_rounds(), [6])
    spoil, message = FAULTS["propensity above 1"]
    whole = (folder / EVENTS).read_bytes()
    part_path(folder, EVENTS, 1).rename(folder / EVENTS)
    spoil(folder)
    (folder / EVENTS).rename(part_path(folder, EVENTS, 1))
    (folder / EVENTS).write_bytes(whole)
    with pytest.raises(DataError, match=message.replace(r"events\.parquet", r"events-000001\.parquet")):
        ingest(folder, tables(), ALL)


def test_events_without_a_reward_leave_eight_bytes_each(tmp_path, monkeypatch):
    """Ten rewards in logs of 4,000 and of 16,000 events, read in pieces of 1,000."""
    monkeypatch.setattr(log_columns, "_ROWS", 1_000)
    peaks = []
    for number in (4_000, 4_000, 16_000):
        rounds = hand_rounds(number, candidates=False)
        folder = tmp_path / f"{len(peaks)}"
        folder.mkdir()
        write_events(folder / EVENTS, rounds, tables(), with_rewards=False)
        write_rewards(folder / REWARDS, rounds.event_id[:10], rounds.time[:10] + 5, rounds.reward[:10])
        del rounds
        tracemalloc.start()
        assert len(ingest(folder, tables(), ALL)[0]) == 10
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] - peaks[1] < 3 * 8 * 12_000


def test_a_log_that_does_not_fit_is_one_line_before_the_work(tmp_path, monkeypatch):
    write_log(tmp_path, hand_rounds())
    monkeypatch.setattr(memory, "available_bytes", lambda: 3_000)
    with pytest.raises(MemoryLimitError, match=r"12 rounds of 5 items need about 4 KiB of memory; 3 KiB are available"):
        ingest(tmp_path, tables(), ALL)
    rewrite(tmp_path / REWARDS, lambda table: table.slice(0, 5))  # five rounds at most
    assert len(ingest(tmp_path, tables(), ALL)[0]) == 5
