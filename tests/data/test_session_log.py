"""SessionLog checks itself once, at the edge; its digest covers all that was logged."""

from dataclasses import replace

import numpy as np
import pytest
from hand_sessions import LENGTHS, hand_sessions

from recpolicy.core.errors import DataError


def changed(name: str, row: int, value: object) -> dict[str, np.ndarray]:
    values = getattr(hand_sessions(), name).copy()
    values[row] = value
    return {name: values}


def test_sessions_know_where_they_begin():
    log = hand_sessions()
    assert log.start.tolist() == [0, 4, 5, 10, 12]
    assert tuple(log.length) == LENGTHS
    assert len(log) == 12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (changed("log_propensity", 2, 0.1), r"hand: step 2 of all: log-propensity 0\.1: expected finite and <= 0"),
        (changed("log_propensity", 2, np.nan), "log-propensity nan"),
        (changed("reward", 3, 1.5), r"step 3 of all: reward 1\.5: expected within 0\.\.1"),
        (changed("reward", 3, np.nan), "reward nan"),
        (changed("item", 1, 3), "item row 3: not in the catalog"),
        (changed("item", 1, 0), r"step 1 of all: the item was shown in this session before \(session 's0'\)"),
        (changed("step", 1, 2), "step 1 of all: steps are missing before this one"),
        (changed("step", 0, 1), "the session does not start with step 0"),
        (changed("step", 3, 2), "step 3 of all: this step occurs twice"),
        (changed("session", 11, "s0"), r"step 11 of all: the rows of the session are not contiguous \(session 's0'\)"),
        (changed("user", 8, 0), "the user differs from the previous step"),
        (changed("time", 8, 0), "the time is earlier than that of the previous step"),
        (changed("ended", 8, True), "step 9 of all: the session continues after its end"),
        (changed("event_id", 11, "e0"), "step 11 of all: its event_id occurs twice"),
        ({"action_items": np.array([1, 0], np.int32)}, "ascending order"),
        ({"liked": np.ones(3, bool)}, r"columns of different lengths: \[3, 12\]"),
        ({"log_propensity": np.zeros(3)}, r"columns of different lengths: \[3, 12\]"),
    ],
)
def test_what_is_no_log_of_sessions_is_refused(changes, message):
    with pytest.raises(DataError, match=message):
        hand_sessions(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        changed("event_id", 0, "x"),
        changed("time", 0, 0),
        {"user": np.full(12, 1, np.int32)},
        {"session": np.repeat(np.array(["a", "b", "c", "d"], object), LENGTHS)},
        changed("item", 0, 5),
        changed("log_propensity", 0, -9.0),
        {"log_propensity": None},
        changed("reward", 0, 0.25),
        {"liked": np.ones(12, bool)},
        {"ended": np.zeros(12, bool)},
        changed("policy", 0, "x"),
        changed("version", 0, "x"),
        {"scale": (0.0, 2.0)},
        {"action_items": np.arange(6, dtype=np.int32)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_the_digest_covers_everything_but_the_name(changes):
    log = hand_sessions()
    assert hand_sessions(**changes).digest != log.digest
    assert replace(log, name="other").digest == log.digest
