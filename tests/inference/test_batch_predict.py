"""Estimates written to files are those of `Policy.predict`, whole or not at all, and held a block at a time."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_policies import RANK, tiny_artifact

from recpolicy.core.errors import ConfigError, DataError, UnknownIdError
from recpolicy.inference import batch_predict as batch_module
from recpolicy.inference import scorer as scorer_module
from recpolicy.inference.batch_predict import predict_to_files
from recpolicy.inference.predictor import Policy

USERS, ITEMS = 7, 11


@pytest.fixture
def policy():
    return Policy(tiny_artifact())


@pytest.fixture
def parquet(tmp_path):
    return tmp_path / "out" / "estimates.parquet"


FORMULA = '=HYPERLINK("http://x")'


def test_a_csv_holds_no_formula(parquet, tmp_path):
    artifact = tiny_artifact(text=True)
    items = artifact.items.assign(title=pd.Series([FORMULA, "-x", "plain"] + ["y"] * (ITEMS - 3), dtype="str"))
    policy, csv = Policy(replace(artifact, items=items)), tmp_path / "estimates.csv"
    predict_to_files(policy, parquet, csv)
    titles = pyarrow.csv.read_csv(csv)["title"].to_pylist()[:4]
    assert titles == [f"'{FORMULA}", "'-x", "plain", "y"]
    assert pd.read_parquet(parquet)["title"].tolist()[:2] == [FORMULA, "-x"]
    assert pyarrow.csv.read_csv(csv)["rating"].to_pylist() == pytest.approx(pd.read_parquet(parquet)["rating"])


@pytest.mark.parametrize("arms", [None, 4], ids=["whole catalog", "part of it"])
def test_all_users_and_items_are_those_of_predict(parquet, arms):
    policy = Policy(tiny_artifact(arms=arms))
    assert predict_to_files(policy, parquet) == USERS * ITEMS
    expected = policy.predict(list(range(1, USERS + 1)))
    pd.testing.assert_frame_equal(pd.read_parquet(parquet), expected)


@settings(max_examples=20)
@given(
    users=st.lists(st.integers(1, USERS), min_size=1, max_size=9),
    items=st.lists(st.integers(101, 100 + ITEMS), min_size=1),
    batch=st.integers(1, 10),
)
def test_chosen_ids_are_answered_in_their_order_whatever_the_batch(tmp_path_factory, users, items, batch):
    policy, parquet = Policy(tiny_artifact()), tmp_path_factory.mktemp("chosen") / "file"
    assert predict_to_files(policy, parquet, users=users, items=items, batch=batch) == len(users) * len(items)
    pd.testing.assert_frame_equal(pd.read_parquet(parquet), policy.predict(users, items), rtol=1e-5)


def test_session_policy_has_its_value_too(parquet):
    draw, wide = np.random.default_rng(0).normal, 2 * RANK  # the user and the item shown last
    arrays = {
        "view": np.array("last_item"), "steps": np.int64(5), "last_n": np.int64(2), "genres": np.ones((ITEMS, 1)),
        "kernel_0": draw(size=(wide, ITEMS)), "bias_0": draw(size=ITEMS),
        "value/kernel_0": draw(size=(wide, 1)), "value/bias_0": draw(size=1),
    }  # fmt: skip
    policy = Policy(replace(tiny_artifact(), estimator="session", head="softmax", settings={}, policy=arrays))
    predict_to_files(policy, parquet, users=[3, 1], batch=1)
    pd.testing.assert_frame_equal(pd.read_parquet(parquet), policy.predict([3, 1]), rtol=1e-5)
    assert pd.read_parquet(parquet)["session_value"].notna().all()


@pytest.mark.parametrize("text", [False, True], ids=["numbers", "text with quotes and commas"])
def test_csv_says_the_same_as_parquet(parquet, text):
    policy = Policy(tiny_artifact(text=text))
    csv = parquet.with_suffix(".csv")
    predict_to_files(policy, parquet, csv, batch=2)
    written = pd.read_parquet(parquet)
    assert written["item_id"].tolist()[:ITEMS] == policy.artifact.items["item_id"].tolist()
    read = (
        pyarrow.csv.read_csv(csv)
        .to_pandas()
        .astype(dict.fromkeys(("rating", "std", "low", "high", "value"), np.float32))
    )
    pd.testing.assert_frame_equal(read, written, check_exact=True)


@pytest.mark.parametrize(("batch", "blocks"), [(1, [1] * 7), (3, [3, 3, 1]), (7, [7]), (64, [7])])
def test_no_block_holds_more_users_than_the_batch(policy, parquet, monkeypatch, batch, blocks):
    written = []

    class Counting(batch_module.CSVWriter):
        def write_batch(self, block):
            written.append(block.num_rows)
            super().write_batch(block)

    monkeypatch.setattr(batch_module, "CSVWriter", Counting)
    predict_to_files(policy, parquet, parquet.with_suffix(".csv"), batch=batch)
    assert written == [users * ITEMS for users in blocks]
    with pq.ParquetFile(parquet) as file:
        groups = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
    assert groups == written


def test_a_block_is_computed_when_the_one_before_is_written(policy, parquet, monkeypatch):
    events = []
    compute = scorer_module.predict_block

    def noted(*words):
        events.append("computed")
        return compute(*words)

    class Noting(batch_module.CSVWriter):
        def write_batch(self, block):
            events.append("written")
            super().write_batch(block)

    monkeypatch.setattr(scorer_module, "predict_block", noted)
    monkeypatch.setattr(batch_module, "CSVWriter", Noting)
    predict_to_files(policy, parquet, parquet.with_suffix(".csv"), batch=3)
    assert events == ["computed", "written"] * 3


def test_failure_midway_leaves_what_was_there(policy, parquet, monkeypatch):
    csv = parquet.with_suffix(".csv")
    predict_to_files(policy, parquet, csv, users=[1])
    before = parquet.read_bytes(), csv.read_bytes()

    class Failing(batch_module.CSVWriter):
        def write_batch(self, block):
            super().write_batch(block)
            raise OSError("disk full")

    monkeypatch.setattr(batch_module, "CSVWriter", Failing)
    with pytest.raises(OSError, match="disk full"):
        predict_to_files(policy, parquet, csv, batch=3)
    assert (parquet.read_bytes(), csv.read_bytes()) == before
    assert sorted(path.name for path in parquet.parent.iterdir()) == ["estimates.csv", "estimates.parquet"]


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"users": [1, 2, 3, 99], "batch": 1}, "no user with id 99"),
        ({"items": [101, 7]}, "no item with id 7"),
    ],
)
def test_unknown_ids_are_one_line_before_anything_is_written(policy, parquet, asked, reason):
    with pytest.raises(UnknownIdError, match=reason) as refusal:
        predict_to_files(policy, parquet, **asked)
    assert "\n" not in str(refusal.value)
    assert not parquet.parent.exists()


@pytest.mark.parametrize("what", ["users", "items"])
def test_nothing_asked_is_refused(policy, parquet, what):
    with pytest.raises(DataError, match=f"no {what} given"):
        predict_to_files(policy, parquet, **{what: []})
    assert not parquet.parent.exists()


def test_batch_of_nothing_and_one_path_for_both_files_are_refused(policy, parquet):
    with pytest.raises(ConfigError, match="batch is 0"):
        predict_to_files(policy, parquet, batch=0)
    with pytest.raises(ConfigError, match="have the same name"):
        predict_to_files(policy, parquet, parquet)
    assert not parquet.parent.exists()
