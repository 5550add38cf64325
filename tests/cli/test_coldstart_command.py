"""`recpolicy coldstart`: the whole way of a user, and one line for every wrong input."""

import json

import pandas as pd
import pytest
from command_line import recpolicy, refused


def printed(capsys, *words):
    """Return the output of a command that succeeded."""
    answer = recpolicy(capsys, *words)
    assert answer.code == 0, answer
    return answer.out


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from recpolicy.workflows.cold_start import fit_item_prior, simulate_items

    out = tmp_path_factory.mktemp("cold") / "start"
    simulate_items(out, past_items=40, new_items=6, traces=30, horizon=8, seed=0)
    fit_item_prior(out / "past_traces.parquet", out / "prior.json", horizon=8)
    return out


def test_the_way_of_a_user(capsys, tmp_path):
    out = tmp_path / "start"
    text = printed(
        capsys, "coldstart", "simulate", "--out", out, "--past-items", "40", "--new-items", "5", "--traces", "30",
        "--horizon", "8",
    )  # fmt: skip
    assert f"next: recpolicy coldstart fit {out}/past_traces.parquet --horizon 8" in text
    prior, new = out / "prior.json", out / "new_traces.csv"
    text = printed(capsys, "coldstart", "fit", out / "past_traces.parquet", "--horizon", "8", "--out", prior)
    assert "40 items" in text
    assert "passes of EM" in text
    text = printed(capsys, "coldstart", "allocate", prior, new, "--users", "20", "--out", out / "shares.csv")
    assert "probability" in text
    assert pd.read_csv(out / "shares.csv")["users"].sum() == 20
    assert "Active days within 8 days, known until 2024-10-04" in printed(capsys, "coldstart", "forecast", prior, new)
    page = out / "page.html"
    assert str(page) in printed(capsys, "coldstart", "report", prior, new, "--out", page)
    assert page.is_file()


DAY = 86_400_000


@pytest.fixture
def state(tmp_path):
    """A state folder: item 7 was shown to user 1 nine days ago, who came back a day later and rated it after two."""
    from sqlalchemy import insert

    from recpolicy.server.db.engine import open_store, sqlite_url
    from recpolicy.server.db.events import Event, now_ms
    from recpolicy.server.db.schema import events, feedback

    folder, first = tmp_path / "state", (now_ms() // DAY - 9) * DAY + 5
    folder.mkdir()
    store = open_store(sqlite_url(folder / "server.db"))
    with store.begin() as connection:
        for number in (0, 1):
            time = first + number * DAY
            names = ("1", 1, "digest", "linucb", "champion", None, False)  # user, version ... explored
            values = Event(f"e{number}", time, *names, "[7]", "[1.0]", "[4.0]")
            connection.execute(insert(events).values(**values._asdict()))
        connection.execute(insert(feedback).values(
            event_id="e0", position=0, type="rating", value=4.0, time=first + 2 * DAY, late=False,
        ))  # fmt: skip
    store.dispose()
    return folder


def test_a_servers_traces_are_exported_and_fitted(capsys, state, tmp_path):
    out, of_item = tmp_path / "traces.csv", tmp_path / "of_item.csv"
    text = printed(capsys, "coldstart", "export", state, "--horizon", "5", "--out", out)
    assert f"{out}: 1 traces of 1 items until " in text
    assert "1 items are finished" in text
    assert f"next: recpolicy coldstart fit {out} --horizon 5 --finished-only --out PRIOR" in text
    assert pd.read_csv(out, dtype=str)["active_days"].tolist() == ["1 2"]
    printed(capsys, "coldstart", "export", state, "--horizon", "5", "--activity", "item", "--out", of_item)
    assert pd.read_csv(of_item, dtype=str)["active_days"].tolist() == ["2"]


def test_an_export_that_cannot_be_made_is_one_line(capsys, state, tmp_path):
    out = tmp_path / "traces.csv"
    export = ("coldstart", "export", state, "--out", out)
    assert "activity" in refused(recpolicy(capsys, *export, "--activity", "clicks"))
    assert "is not over" in refused(recpolicy(capsys, *export, "--until", "2999-01-01"))
    assert "no list was shown until 2001-01-01" in refused(recpolicy(capsys, *export, "--until", "2001-01-01"))
    assert "horizon of 0 days; expected 1 to" in refused(recpolicy(capsys, *export, "--horizon", "0"))
    assert not out.exists()
    assert "no such" in refused(recpolicy(capsys, "coldstart", "export", tmp_path / "nothing", "--out", out))
    out.write_text("mine", encoding="utf-8")
    assert "already exists" in refused(recpolicy(capsys, *export))
    assert out.read_text(encoding="utf-8") == "mine"


def test_users_of_a_file_get_items(capsys, folder, tmp_path):
    users = tmp_path / "users.csv"
    users.write_text("user,name\n7,x\n9,y\n11,z\n", encoding="utf-8")
    chosen = tmp_path / "chosen.csv"
    command = ("coldstart", "allocate", folder / "prior.json", folder / "new_traces.csv", "--user-file", users)
    printed(capsys, *command, "--out", chosen)
    rows = pd.read_csv(chosen)
    assert rows["user"].tolist() == [7, 9, 11]
    assert rows["propensity"].between(0, 1, inclusive="right").all()
    body = json.loads(printed(capsys, *command, "--json"))
    assert sum(item["users"] for item in body["items"]) == 3
    body = json.loads(
        printed(capsys, "coldstart", "forecast", folder / "prior.json", folder / "new_traces.csv", "--json")
    )
    assert {"item", "stickiness", "lo", "hi", "explained"} <= set(body["items"][0])


def test_wrong_input_is_one_line(capsys, folder, tmp_path):
    prior, new = folder / "prior.json", folder / "new_traces.csv"
    cases = {
        "give --users NUMBER or --user-file FILE": ("allocate", prior, new),
        "is not finished": ("fit", new, "--horizon", "8", "--out", tmp_path / "p.json"),
        "is not a recpolicy item prior": ("forecast", new, new),
        "no such file": ("forecast", tmp_path / "none.json", new),
        "'soon' is not a day": ("forecast", prior, new, "--until", "soon"),
        "already exists": ("fit", folder / "past_traces.parquet", "--horizon", "8", "--out", prior),
        "uniform_mix is 2; expected 0 to 1": ("allocate", prior, new, "--users", "3", "--uniform-mix", "2"),
    }
    for message, words in cases.items():
        answer = refused(recpolicy(capsys, "coldstart", *words))
        if message != "is not a recpolicy item prior":
            assert message in answer, answer
    assert not (tmp_path / "p.json").exists()
