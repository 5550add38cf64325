"""An imported log is a log like any other."""

import json

import pytest
from hand_logs import assert_same_rounds, tables
from test_open_bandit import HEADER, LINES, write

from recpolicy.core.errors import ArtifactError, ConfigError, DataError
from recpolicy.data.open_bandit import read_open_bandit
from recpolicy.workflows.imported_logs import import_log, read_import_tables
from recpolicy.workflows.interaction_logs import ingest_log, read_rounds


def test_an_imported_log_can_be_read_and_ingested_with_the_tables_beside_it(tmp_path):
    report = import_log(write(tmp_path / "log.csv"), tmp_path / "log", "obd")
    assert report.as_dict() == {
        "rounds": 4, "users": 3, "items": 3, "skipped": 0, "dangling": 0, "damaged": 0, "slates": 0,
        "slots": 1, "derived": True, "unit": "round",
        "lost": ["position", "user-item_affinity_0"],
    }  # fmt: skip
    found, original = read_import_tables(tmp_path / "log"), read_open_bandit(tmp_path / "log.csv")
    assert_same_rounds(read_rounds(tmp_path / "log" / "events.parquet", found), original.rounds)
    ingested = ingest_log(tmp_path / "log", tmp_path / "rounds", found, {"evaluation_share": 0.5})
    assert (ingested.training, ingested.evaluation, ingested.waiting) == (2, 2, 0)
    assert json.loads((tmp_path / "log" / "import.json").read_text())["source"] == "obd"


def test_with_given_tables_none_are_written(tmp_path):
    header = "timestamp,item_id,click,propensity_score,user_id"
    import_log(write(tmp_path / "log.csv", ("2026-01-01,12,1,0.5,4",), header), tmp_path / "log", "obd", tables())
    assert read_rounds(tmp_path / "log" / "events.parquet", tables()).reward.tolist() == [5.0]
    with pytest.raises(
        DataError, match="imported with the users and items of a policy or ratings: use --policy or --data"
    ):
        read_import_tables(tmp_path / "log")


def test_what_is_wrong_is_refused_and_leaves_nothing(tmp_path):
    path = write(tmp_path / "log.csv", (LINES[0], LINES[1].replace("0.5", "7")), HEADER)
    with pytest.raises(DataError, match=r"log\.csv:3: propensity 7"):
        import_log(path, tmp_path / "log", "obd")
    with pytest.raises(ConfigError, match=r"no format of logs named 'odb'\. Did you mean 'obd'"):
        import_log(path, tmp_path / "log", "odb")
    with pytest.raises(ConfigError, match="--time, --separator: options of the format obd; vw has --user, --item"):
        import_log(path, tmp_path / "log", "vw", columns={"time": "t"}, separator=";")
    with pytest.raises(ConfigError, match="--skip-damaged: an option of the format vw"):
        import_log(path, tmp_path / "log", "obd", skip_damaged=True)
    with pytest.raises(ConfigError, match=r"no column of a log named 'tme'\. Did you mean 'time'"):
        import_log(path, tmp_path / "log", "obd", columns={"tme": "t"})
    with pytest.raises(ConfigError, match="no unit of a log named 'person'"):
        import_log(path, tmp_path / "log", "obd", unit="person")
    assert [one.name for one in tmp_path.iterdir()] == ["log.csv"]
    (tmp_path / "log").mkdir()
    with pytest.raises(ArtifactError, match="log"):
        import_log(path, tmp_path / "log", "obd")
