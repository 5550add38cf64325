"""Numbers of a ratings table."""

import json

import pandas as pd
import pytest

from recpolicy.data.ratings_files import ratings_from_frame
from recpolicy.data.summary import summarise


def test_summary_of_a_table_worked_out_by_hand():
    frame = pd.DataFrame({"user": [1, 1, 2], "item": [5, 6, 5], "rating": [1, 4, 4], "timestamp": [86400, 0, 60]})
    items = pd.DataFrame({"item_id": [5, 6, 7, 8]})
    summary = summarise(ratings_from_frame(frame, items=items))
    assert (summary["ratings"], summary["users"], summary["items"], summary["items_with_ratings"]) == (3, 2, 4, 2)
    assert summary["density"] == 3 / 8
    assert summary["mean"] == pytest.approx(3)
    assert summary["std"] == pytest.approx(2**0.5)  # deviations -2, 1, 1: variance 6 / 3
    assert summary["shares"] == {"1": 1 / 3, "4": 2 / 3}
    assert (summary["first"], summary["last"]) == ("1970-01-01T00:00:00Z", "1970-01-02T00:00:00Z")
    assert json.loads(json.dumps(summary)) == summary
