"""Proposals of schemas: the type of each kind of column, and each reason to leave one out."""

import gzip
import json

import numpy as np
import pandas as pd
import pytest
from feature_world import planted_log
from typer.testing import CliRunner

from recpolicy.cli.main import app
from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.feature_columns import columns_from_records
from recpolicy.data.feature_log_files import write_feature_log
from recpolicy.data.features import read_schema
from recpolicy.data.features.infer import infer_schema
from recpolicy.data.features.rounds_table import read_rounds_table
from recpolicy.data.features.schema import (
    BooleanFeature,
    CategoryFeature,
    JsonFeature,
    NumberFeature,
    TagsFeature,
    TimestampFeature,
)

N = 400
RNG = np.random.default_rng(0)
REWARD = (RNG.random(N) < 0.3).astype(float)
KEPT = {
    "income": (RNG.normal(size=N), NumberFeature()),
    "spent": (np.exp(2.5 * RNG.normal(size=N)), NumberFeature(scale="bins")),
    "visits": ([int(n) for n in RNG.integers(0, 300, N)], NumberFeature()),
    "weekday": ([int(n) for n in RNG.integers(0, 7, N)], CategoryFeature()),
    "device": (RNG.choice(["phone", "desktop"], N).tolist(), CategoryFeature()),
    "city": ([f"city {n}" for n in RNG.integers(0, 150, N)], CategoryFeature(encoding="hashed", size=256)),
    "last_item_id": ([int(n) for n in RNG.integers(1, 190, N)], CategoryFeature(encoding="hashed", size=256)),
    "shopId": ([int(n) for n in RNG.integers(1, 50, N)], CategoryFeature()),
    "zip": ([10_000 + 7 * int(n) for n in RNG.integers(0, 300, N)], CategoryFeature(encoding="hashed", size=256)),
    "paid_before": ([int(n) for n in RNG.integers(0, 300, N)], NumberFeature()),
    "member": ([bool(n) for n in RNG.integers(0, 2, N)], BooleanFeature()),
    "clicked before": ([[0, 1, None][n] for n in RNG.integers(0, 3, N)], BooleanFeature()),
    "seen_at": ([1_764_576_000_000 + 60_000 * n for n in range(N)], TimestampFeature()),
    "last_time": ([float(1_764_576_000 + 61 * n) for n in RNG.permutation(N)], TimestampFeature(unit="s")),
    "day": ([f"2026-11-{1 + n % 30:02d}T08:00:00" for n in range(N)], TimestampFeature()),
    "genres": ([["rock", "jazz"][: n % 3] for n in range(N)], TagsFeature()),
    "words": ([[f"w{n % 150}", "a"] for n in range(N)], TagsFeature(encoding="hashed", size=256)),
    "session": ([{"page": "home", "n": n % 9} for n in range(N)], JsonFeature()),
}
DROPPED = {
    "empty": ([None] * N, "constant: it has no values"),
    "country": (["de"] * N, "constant: all values are 'de'"),
    "zero": ([0] * N, "constant: all values are 0.0"),
    "cookie": ([f"c{n}" for n in range(N)], "identifier: 400 different values in 400 rows"),
    "user_id": ([f"u{n // 1.6:.0f}" for n in range(N)], "identifier: 250 different values in 400 rows"),
    "row": (list(range(7, 7 + N)), "identifier: 400 different whole numbers in 400 rows"),
    "account.id": ([int(n) for n in RNG.permutation(10**6)[:N]], "identifier: 400 different whole numbers"),
    "comment": ([f"this is the long text number {n}" for n in range(N)], "free text: 400 different texts of 7 words"),
    "gadget": (KEPT["device"][0], "a copy of device"),
    "paid": (REWARD, "leak: it equals the reward"),
    "loss": (1 - REWARD, "leak: its correlation with the reward is 1.000"),
    "watched": (np.exp(5 * REWARD + RNG.random(N)), "leak: its correlation with the reward is 1.000"),
    "outcome": (["won" if r else f"lost {n % 3}" for n, r in enumerate(REWARD)], "leak: it explains 100.0% of"),
}


def plain(values):
    return values.tolist() if isinstance(values, np.ndarray) else values


COLUMNS = {name: plain(values) for name, (values, _) in {**KEPT, **DROPPED}.items()}


def records():
    return [{name: values[row] for name, values in COLUMNS.items()} for row in range(N)]


def test_each_kind_of_column():
    schema, dropped = infer_schema(columns_from_records(records(), list(COLUMNS)), {}, reward=REWARD)
    assert dict(schema.context) == {name: feature for name, (_, feature) in KEPT.items()}
    reasons = {item.name: item.reason for item in dropped}
    assert set(reasons) == set(DROPPED)
    for name, (_, reason) in DROPPED.items():
        assert reasons[name].startswith(reason), name


def test_without_rewards_no_leak_is_found_and_few_rows_have_no_identifiers():
    columns = columns_from_records([{"a": f"x{n}", "paid": REWARD[n]} for n in range(10)], ["a", "paid"])
    schema, dropped = infer_schema(columns, {})
    assert set(schema.context) == {"a", "paid"}
    assert not dropped


def test_leaks_and_ids_of_actions():
    chosen = RNG.integers(0, 30, N)
    value = RNG.random(30)
    action = {"price": RNG.random(30), "value": value}
    ids = np.array([f"a{n}" for n in range(30)], object)
    schema, dropped = infer_schema({}, action, action_id=ids, reward=3 * value[chosen], chosen_action=chosen)
    assert dict(schema.action) == {"id": CategoryFeature(), "price": NumberFeature()}
    assert [(item.part, item.name) for item in dropped] == [("action", "value")]


def test_many_actions_are_known_by_their_features_or_else_by_a_hash():
    ids = np.array([f"a{n}" for n in range(200)], object)
    assert set(infer_schema({}, {"price": RNG.random(200)}, action_id=ids)[0].action) == {"price"}
    schema, _ = infer_schema({}, {}, action_id=ids)
    assert schema.action == {"id": CategoryFeature(encoding="hashed", size=1024)}


def test_the_id_of_many_actions_with_features_is_left_out_with_its_reason():
    ids = np.array([f"a{n}" for n in range(200)], object)
    _, dropped = infer_schema({}, {"price": RNG.random(200)}, action_id=ids)
    assert [(item.part, item.name) for item in dropped] == [("action", "id")]
    assert dropped[0].reason.startswith("200 different actions, which their features describe")


def test_nothing_left_is_one_line():
    with pytest.raises(ConfigError, match="the schema has no features"):
        infer_schema({"a": np.zeros(N)}, {})


def write_table(folder, kind):
    """Write the rows with the action's features in columns of their own, as JSON lines or Parquet."""
    rows = [
        {**{name: row[name] for name in ("device", "income", "paid")}, "action": f"a{n % 3}", "action.price": n % 5 / 2,
         "reward": REWARD[n], "event_id": str(n), "propensity": 0.5}
        for n, row in enumerate(records())
    ]  # fmt: skip
    path = folder / f"rounds.{kind}"
    if kind == "parquet":
        pd.DataFrame(rows).to_parquet(path)
    else:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        path.write_bytes(gzip.compress(text.encode()) if kind.endswith("gz") else text.encode())
    return path


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "jsonl.gz"])
def test_the_command_writes_a_schema_with_the_reasons(tmp_path, kind):
    out = tmp_path / "schema.toml"
    result = CliRunner().invoke(app, ["features", "infer", str(write_table(tmp_path, kind)), "--out", str(out)])
    assert result.exit_code == 0, result.output
    schema = read_schema(out)
    assert set(schema.context) == {"device", "income"}
    assert dict(schema.action) == {"id": CategoryFeature(), "price": NumberFeature()}
    assert "2 context and 2 action features from 400 rounds" in result.output
    assert "dropped context.paid: leak: it equals the reward" in result.output
    assert "dropped context.propensity: it says how the round was logged" in result.output
    assert "# dropped [context.paid]: leak: it equals the reward" in out.read_text()


def test_the_command_prints_toml_or_json(tmp_path):
    path = write_table(tmp_path, "jsonl")
    printed = CliRunner().invoke(app, ["features", "infer", str(path)])
    assert "[context.income]" in printed.output
    result = json.loads(CliRunner().invoke(app, ["features", "infer", str(path), "--json"]).output)
    assert result["rounds"] == N
    assert {"part": "context", "name": "paid", "reason": "leak: it equals the reward"} in result["dropped"]


def test_a_feature_log_and_nested_columns(tmp_path):
    write_feature_log(planted_log(300), tmp_path / "log")
    table = read_rounds_table(tmp_path / "log")
    schema, dropped = table.infer()
    assert len(table) == 300
    assert len(schema.context) == 20
    assert list(schema.action) == ["id", *(f"a{n}" for n in range(10))]
    assert not dropped
    write_feature_log(planted_log(200), tmp_path / "ingested" / "training")
    write_feature_log(planted_log(100), tmp_path / "ingested" / "evaluation")
    assert len(read_rounds_table(tmp_path / "ingested")) == 200  # nothing of the evaluation part
    path = tmp_path / "nested.jsonl"
    lines = [{"context": {"x": n % 7}, "action": {"id": n % 2, "y": n % 3}, "reward": n % 5} for n in range(30)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    schema, _ = read_rounds_table(path).infer()
    assert (set(schema.context), set(schema.action)) == ({"x"}, {"id", "y"})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.parquet", None, "no such file; expected a Parquet file"),
        ("a.parquet", "x", "not a Parquet file; expected Parquet, or JSON lines"),
        ("ratings.csv", "user,item,rating\n", "not a Parquet file; expected Parquet, or JSON lines"),
        ("a.jsonl", "", "no rounds"),
        ("a.jsonl", "{}\n[1]\n", "line 2: expected an object"),
        ("a.jsonl", "{\n", "line 1: not JSON"),
        ("a.jsonl.gz", "x", "cannot be read"),
        ("a.jsonl", '{"reward": "good", "x": 1}\n', "column 'reward': row 0 is 'good'; expected a number"),
    ],
)
def test_a_file_that_is_no_table_is_one_line(tmp_path, name, text, message):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_rounds_table(path).infer()


def test_the_command_does_not_overwrite(tmp_path):
    out = tmp_path / "schema.toml"
    out.write_text("x")
    result = CliRunner().invoke(app, ["features", "infer", str(write_table(tmp_path, "jsonl")), "--out", str(out)])
    assert isinstance(result.exception, ConfigError)
    assert out.read_text() == "x"
