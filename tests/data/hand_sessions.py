"""Session logs made by hand: users and items of hand_logs.py, 4 sessions of 12 steps; and all that can be wrong."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import corrupt_logs
import numpy as np
import pyarrow as pa
from hand_logs import ACTION_ITEMS, START, tables, third

from recpolicy.data.candidates import ALL_ITEMS, CandidateSets
from recpolicy.data.session_log import SessionLog
from recpolicy.data.session_log_files import SESSIONS, write_sessions

LENGTHS = (4, 1, 5, 2)
USER = (0, 3, 1, 0)
ITEMS = (0, 1, 2, 4, 5, 5, 4, 2, 1, 0, 2, 5)
"""Of the catalog; none twice in a session."""


def hand_sessions(**changes: Any) -> SessionLog:
    """The user leaves after sessions 0, 1 and 3; session 2 is cut."""
    session = np.repeat(np.arange(4), LENGTHS)
    step = np.concatenate([np.arange(length) for length in LENGTHS]).astype(np.int32)
    last = np.append(step[1:] == 0, True)
    rng = np.random.default_rng(5)
    liked = rng.random(12) < 0.5
    columns: dict[str, Any] = {
        "event_id": np.array([f"e{row}" for row in range(12)], object),
        "time": START + 86_400_000 * session + 60_000 * step,
        "user": np.array(USER, np.int32)[session],
        "session": np.array([f"s{one}" for one in session], object),
        "step": step,
        "item": np.array(ITEMS, np.int32),
        "log_propensity": np.log(rng.uniform(1e-7, 1, 12)),
        "reward": liked.astype(np.float64),
        "liked": liked,
        "ended": last & (session != 2),
        "policy": np.full(12, "ppo", object),
        "version": np.where(session < 2, "aa", "bb").astype(object),
    }
    return SessionLog(**({"action_items": ACTION_ITEMS, "scale": (0.0, 1.0), "name": "hand"} | columns | changes))


def hand_candidates() -> CandidateSets:
    """Without item 5 in session 0 and after its place in session 2; only items 2 and 5 in session 3."""
    sets = np.array([[True, True, True, True, False], [False, False, True, False, True]])
    index = np.array([0, 0, 0, 0, ALL_ITEMS, ALL_ITEMS, 0, 0, 0, 0, 1, 1], np.int32)
    return CandidateSets.without_exclusions(np.packbits(sets, axis=1), index, len(ACTION_ITEMS))


def write_hand(folder: Path, text: bool = False, **changes: Any) -> Path:
    """The hand-made sessions in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_sessions(folder / SESSIONS, hand_sessions(**changes), tables(text))
    return folder


rewritten = partial(corrupt_logs.rewritten, SESSIONS)
column = partial(corrupt_logs.column, SESSIONS)
metadata = partial(corrupt_logs.metadata, SESSIONS)
"""Changes of a folder that `write_hand` wrote."""


def without(*rows: int) -> corrupt_logs.Change:
    """A change that leaves out rows."""
    return rewritten(lambda table: table.take([row for row in range(12) if row not in rows]))


def _scribble(folder: Path) -> None:
    """The footer is sound, the pages are not."""
    whole = bytearray((folder / SESSIONS).read_bytes())
    whole[4:400] = bytes(396)
    (folder / SESSIONS).write_bytes(whole)


def appended(name: str, values: list[Any], kind: Any) -> corrupt_logs.Change:
    """A change that adds a column."""
    return rewritten(lambda table: table.append_column(name, pa.array(values, kind)))


def _same(old: list[Any]) -> list[Any]:
    return old


LISTS = pa.list_(pa.int64())
ROW = r"sessions\.parquet: row 3: "
FAULTS: Mapping[str, tuple[corrupt_logs.Change, str]] = {
    "no file": (lambda folder: (folder / SESSIONS).unlink(), r"^[^:]+sessions\.parquet: no such file"),
    "cut short": (corrupt_logs.cut(SESSIONS), r"sessions\.parquet: not a readable Parquet file"),
    "overwritten": (_scribble, r"sessions\.parquet: damaged: .*write or copy it again"),
    "columns missing": (
        rewritten(lambda table: table.drop_columns(["step", "liked"])),
        r"sessions\.parquet: no column step, liked; found event_id, time",
    ),
    "no sessions": (rewritten(lambda table: table.slice(0, 0)), r"sessions\.parquet: no sessions"),
    "other version": (metadata(b'{"version": 99}'), r"version 99; expected 'recpolicy session log', version 4"),
    "rounds": (metadata(b'{"format": "recpolicy log"}'), r"written as 'recpolicy log', version 4; expected"),
    "scale no pair": (metadata(b'{"scale": [1]}'), r"its scale is \[1\]; expected the lowest and the highest reward"),
    "catalog unknown": (metadata(b'{"action_items": [11, 99]}'), "its action_items names item 99"),
    "catalog no list": (metadata(b'{"action_items": 3}'), "its action_items is 3; expected a list"),
    "metadata no JSON": (metadata(b"{"), "metadata 'recpolicy' is not JSON"),
    "metadata no object": (metadata(b"[]"), "metadata 'recpolicy' does not describe a log"),
    "propensity NaN": (column("log_propensity", third(float("nan"))), ROW + "log_propensity nan: expected"),
    "propensity null": (column("log_propensity", third(None)), ROW + "log_propensity nan"),
    "propensity above 1": (column("log_propensity", third(0.5)), ROW + r"log_propensity 0\.5: expected the logarithm"),
    "propensity 0": (column("log_propensity", third(-float("inf"))), ROW + "log_propensity -inf"),
    "propensity float32": (
        column("log_propensity", _same, pa.float32()),
        "column log_propensity is of type float; expected float64",
    ),
    "user unknown": (column("user_id", third(9)), ROW + "user_id 9 is none of the 4"),
    "item unknown": (column("item_id", third(99)), ROW + "item_id 99 is none of the 6"),
    "item outside the catalog": (column("item_id", third(14)), ROW + "the item shown is not in the catalog"),
    "event twice": (column("event_id", third("e0")), ROW + "its event_id occurs twice"),
    "event null": (column("event_id", third(None)), ROW + "event_id is missing"),
    "reward too high": (column("reward", third(1.5)), ROW + r"reward 1\.5 is not in 0\.\.1"),
    "reward null": (column("reward", third(None)), ROW + "reward is missing"),
    "reward text": (column("reward", ["x"] * 12, pa.string()), "column reward is of type string; expected numbers"),
    "liked a number": (column("liked", [1] * 12, pa.int64()), "column liked is of type int64; expected true or false"),
    "ended null": (column("ended", third(None)), ROW + "ended is missing"),
    "step negative": (column("step", third(-1)), ROW + "step -1: expected 0, 1, 2"),
    "step null": (column("step", third(None)), ROW + "step is missing"),
    "step a fraction": (column("step", [0.5] * 12, pa.float64()), "step is of type double; expected whole numbers"),
    "step missing": (without(1), r"row 2: steps are missing before this one \(session 's0', step 2\)"),
    "begin missing": (without(0), r"row 1: the session does not start with step 0 \(session 's0', step 1\)"),
    "step twice": (
        column("step", lambda old: [*old[:3], 2, *old[4:]]),
        r"row 4: this step occurs twice \(session 's0', step 2\)",
    ),
    "candidates too short": (
        appended("candidates", [b""] * 12, pa.binary()),
        r"row 1: candidates have 0 bytes; expected 1, a bit for each of the 5",
    ),
    "not a candidate": (
        appended("candidates", [[11, 12, 13, 15]] * 12, LISTS),
        r"row 5: the item shown is not among the candidates of its step",
    ),
    "candidate unknown": (appended("candidates", [[11, 14]] * 12, LISTS), "row 1: a candidate is not in the catalog"),
    "excluded items": (appended("excluded", [[10]] * 12, LISTS), "column excluded: sessions have candidates only"),
    "another user": (column("user_id", third(2)), ROW + "the user differs from the previous step"),
    "time backwards": (
        column("time", lambda old: [*old[:2], old[0], *old[3:]]), ROW + r"the time is earlier than that of the previous"
    ),
    "after its end": (column("ended", lambda old: [False, True, *old[2:]]), ROW + "the session continues after"),
    "item twice": (column("item_id", third(11)), ROW + "the item was shown in this session before"),
}  # fmt: skip
"""What can be wrong with a file that `write_hand` wrote, and how its error must begin."""
