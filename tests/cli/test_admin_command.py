"""`recpolicy admin` against a server on a socket: tables for people, JSON for machines, one line for what fails."""

import http.server
import json
import re
import tarfile
import threading

import pytest
from api_keys import key_for, listening
from client_helpers import ask
from command_line import recpolicy, refused
from trained_policies import trained
from waiting import wait_until

from recpolicy.cli.admin_tables import say, say_checklist, say_drift, say_signals
from recpolicy.registry.model_registry import Registry
from recpolicy.server.app import make_app
from recpolicy.server.lifespan import open_state
from recpolicy.server.settings import Settings


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """(URL, app) of a server over two versions."""
    folder = tmp_path_factory.mktemp("served")
    registry = Registry(folder / "registry")
    registry.register(trained("linucb"), gate={"verdict": "pass"})
    registry.register(trained("random"), gate={"verdict": "pass"})
    registry.promote(1)
    with open_state(registry.folder, folder / "state", Settings()) as state:
        app = make_app(state)
        with listening(app) as (host, port):
            yield f"http://{host}:{port}", app


@pytest.fixture
def admin(server, capsys, monkeypatch):
    """Run an admin command with an operator's key."""
    url, app = server
    monkeypatch.setenv("RECPOLICY_URL", url)
    monkeypatch.setenv("RECPOLICY_KEY", key_for(app, "operator"))
    return lambda *words: recpolicy(capsys, "admin", *words)


def said(answer):
    assert (answer.code, answer.err) == (0, ""), answer
    return answer.out


def test_status_says_who_serves_whom(admin):
    assert said(admin("status")).splitlines() == [
        "champion: version 1", "challenger: none", "previous: none", "exploration: on",
        "serving: linucb, version 1; store: up",
    ]  # fmt: skip
    assert json.loads(said(admin("status", "--json")))["routing"]["champion"] == 1


def test_versions_are_a_table_or_json(admin):
    lines = said(admin("versions")).splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["version", "alias", "agent"], ["1", "champion", "linucb"], ["2", "random", "pass"],
    ]  # fmt: skip
    assert [one["number"] for one in json.loads(said(admin("versions", "--json")))["versions"]] == [1, 2]


def test_a_promotion_and_its_roll_back(admin, server):
    assert "champion: version 2\n" in said(admin("promote", 2))
    assert ask(server[1], "GET", "/readyz").json()["policy"]["version"] == 2
    out = said(admin("roll-back"))
    assert "champion: version 1\n" in out
    assert float(out.split("in effect after ")[1].split()[0]) < 1000
    assert ask(server[1], "GET", "/readyz").json()["policy"]["version"] == 1


def test_traffic_and_exploration(admin):
    assert "challenger: version 2, answers 10 % of the users\n" in said(admin("traffic", 2, "--traffic-fraction", 0.1))
    assert "challenger: version 2, shadows 10 % of the users\n" in said(admin("traffic", 2, "--shadow"))
    assert "challenger: none\n" in said(admin("clear-challenger"))
    assert "exploration: paused\n" in said(admin("exploration", "pause"))
    assert json.loads(said(admin("exploration", "resume", "--json")))["routing"]["exploration"] is True


def test_keys_are_made_listed_and_revoked(admin, server, monkeypatch):
    key = said(admin("keys", "create", "shop", "--role", "reader")).strip()
    assert "shop" in said(admin("keys", "list"))
    assert key not in said(admin("keys", "list", "--json"))
    operator_word = "create_key"
    assert operator_word in said(admin("audit", "--count", 5))
    assert said(admin("keys", "revoke", "shop")) == "revoked: shop (reader)\n"
    monkeypatch.setenv("RECPOLICY_KEY", key)
    assert "rejects the key" in refused(admin("status"))


def test_a_version_is_sent(admin, tmp_path):
    archive = tmp_path / "policy.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(trained("random"), arcname="policy")
    assert said(admin("import", archive)).startswith("version 2: random, ")
    archive.write_bytes(b"nothing of ours")
    assert "rejects the request: the archive" in refused(admin("import", archive))
    assert "cannot be read" in refused(admin("import", tmp_path / "none"))
    assert "cannot be read" in refused(admin("import", tmp_path))


@pytest.mark.parametrize(
    "words",
    [["jobs"], ["runs"], ["rewards"], ["signals"], ["drift"], ["rollout", "status"], ["audit"], ["keys", "list"]],
)
def test_every_list_is_for_people_and_for_machines(admin, words):
    assert said(admin(*words)).strip()
    json.loads(said(admin(*words, "--json")))


def test_what_the_server_refuses_is_one_line(admin):
    assert "version 9 does not exist" in refused(admin("promote", 9))
    assert "no job" in refused(admin("run", "nothing", "--param", "days=7"))
    assert "Not Found" in refused(admin("run", "nothing/../../keys"))
    assert "no rollout" in refused(admin("rollout", "stop"))
    assert "version 9 does not exist" in refused(admin("rollout", "start", 9, "--set", "stages=[0.1,1]"))
    assert "NAME=VALUE" in refused(admin("run", "train", "--param", "days"))


def test_a_role_that_is_too_low_is_one_line(admin, server, monkeypatch):
    monkeypatch.setenv("RECPOLICY_KEY", key_for(server[1], "reader"))
    assert "champion" in said(admin("status"))
    assert "needs the role operator" in refused(admin("promote", 2))


def test_the_key_comes_from_the_environment_or_a_file_and_never_from_an_option(admin, server, tmp_path, monkeypatch):
    file = tmp_path / "key"
    file.write_text(key_for(server[1], "reader") + "\n")
    monkeypatch.delenv("RECPOLICY_KEY")
    assert "RECPOLICY_KEY" in refused(admin("status"))
    assert "champion" in said(admin("status", "--key-file", file))
    assert "none: no key can be read" in refused(admin("status", "--key-file", tmp_path / "none"))
    file.write_text("two words")
    assert "not an API key" in refused(admin("status", "--key-file", file))
    assert "two words" not in refused(admin("status", "--key-file", file))
    assert admin("status", "--key", "x").code == 2


@pytest.mark.parametrize("url", ["ftp://here", "here:8080", "http://", "", "file:///etc/passwd"])
def test_a_url_that_is_none_is_one_line(admin, url):
    assert "URL" in refused(admin("status", "--url", url))


def test_a_server_that_is_not_there_is_one_line(admin):
    assert "no server answers at http://127.0.0.1:9" in refused(admin("status", "--url", "http://127.0.0.1:9"))


class Odd(http.server.BaseHTTPRequestHandler):
    """A server of another kind."""

    seen: list[str] = []  # noqa: RUF012

    def do_GET(self):
        self.seen.append(self.path)
        if self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", "/elsewhere")
            self.end_headers()
            return
        self.send_response(500 if self.path.startswith("/broken") else 200)
        self.end_headers()
        self.wfile.write(b"<html>")

    def log_message(self, *_):
        pass


def test_a_server_of_another_kind_is_one_line_and_gets_the_key_nowhere_else(admin):
    with http.server.HTTPServer(("127.0.0.1", 0), Odd) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{other.server_port}"
        for place in ("", "/broken", "/moved"):
            assert "recpolicy server" in refused(admin("status", "--url", base + place))
        other.shutdown()
    assert "/elsewhere" not in Odd.seen


def test_times_numbers_and_what_is_missing_are_shown_plainly(capsys):
    rows = [{"started_at": 1_700_000_000_000, "traffic_fraction": 0.1, "plan": {"a": 1}, "reason": None}]
    say({"rows": rows}, False, "rows")
    assert capsys.readouterr().out.splitlines()[1].split() == ["2023-11-14T22:13:20Z", "0.100", '{"a":', "1}"]
    say({"rows": []}, False, "rows", none="nothing")
    assert capsys.readouterr().out == "nothing\n"
    say({"run": 3, "next_at": None, "plan": {"stages": [0.1, 1.0], "part": {"k": 2}}, "table": [{"x": 1}]}, False)
    assert capsys.readouterr().out.splitlines() == [
        "run: 3", "next_at:", "plan:", "  stages: [0.1, 1.0]", "  part:", "    k: 2", "table:", "x", "1",
    ]  # fmt: skip
    say({"rows": [{"day": 20786, "version": 1}]}, False, "rows")
    assert capsys.readouterr().out.splitlines()[1].split() == ["2026-11-29", "1"]


def test_a_job_that_did_nothing_says_why(admin):
    begun = said(admin("run", "retrain"))
    number = begun.split()[1]
    assert begun == f"run {number} of retrain has begun; see how it goes: recpolicy admin runs {number}\n"
    wait_until(lambda: "running" not in said(admin("runs", number)))
    whole = said(admin("runs", number))
    reason = next(line for line in whole.splitlines() if line.startswith("  reason: ")).removeprefix("  reason: ")
    assert "status: skipped" in whole.splitlines()
    assert not re.search(r"\d{13}", whole), "times are dates"
    assert reason in said(admin("runs"))
    assert json.loads(said(admin("runs", number, "--json")))["metadata"]["reason"] == reason
    assert "no run has this number" in refused(admin("runs", 99_999))


def test_drift_is_told_in_rows(capsys):
    say_drift(None)
    assert "not checked yet" in capsys.readouterr().out
    run = {"id": 9, "status": "done", "executed_at": 1_700_000_000_000}
    metrics = {"users": {"psi": 0.25, "groups": 4}, "reward": None}
    say_drift({**run, "metadata": {"version": 2, "metrics": metrics, "alarms": {"users": "shifted"}}})
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "drift: run 9, 2023-11-14T22:13:20Z, version 2"
    assert [line.split(maxsplit=1) for line in out[2:4]] == [
        ["users", "psi 0.250, groups 4"], ["reward", "too few events"],
    ]  # fmt: skip
    assert out[4] == "ALARM (users): shifted"
    say_drift({**run, "status": "failed", "metadata": {"error": "no registry"}})
    assert capsys.readouterr().out == "drift: run 9, 2023-11-14T22:13:20Z: failed; no registry\n"


def test_the_checklist_says_what_is_not_kept_and_exits_with_1(admin):
    answer = admin("checklist")
    assert answer.code == 1
    lines = answer.out.splitlines()
    assert any(line.split()[:4] == ["alerts", "NOT", "KEPT", "alerts"] for line in lines)
    plain = admin("checklist", "--json")
    assert plain.code == 1
    kept = [item["kept"] for item in json.loads(plain.out)["items"]].count(True)
    assert 0 < kept < 10
    assert lines[-1] == f"{kept} of 10 are kept"


def test_a_checklist_that_is_kept_exits_with_0(capsys):
    item = {"name": "alerts", "kept": True, "figure": "a webhook is set", "expected": "one", "command": "[alerts] url"}
    say_checklist({"kept": True, "items": [item]})
    assert capsys.readouterr().out.splitlines()[-1] == "1 of 1 are kept"


def test_rates_of_signals_are_rows_with_their_intervals(capsys):
    row = {"day": 20_000, "version": 1, "task": "list", "type": "like", "events": 40, "users": 40, "with_signal": 10}
    known, unknown = {"value": 0.25, "lo": 0.125, "hi": 0.375}, {"value": 0.25, "lo": None, "hi": None}
    say_signals({"rows": [{**row, "rate": known, "mean": unknown}]})
    assert "0.250 [0.125, 0.375]  0.250" in capsys.readouterr().out
    say_signals({"rows": []})
    assert capsys.readouterr().out == "no signals yet\n"
