"""`recpolicy serve`: wrong settings end it before it says that it serves; its files are its own; it ends gracefully."""

import os
import signal
import stat
import urllib.error
import urllib.request

import pytest
from processes import ServerProcess
from trained_policies import trained

from recpolicy.core.errors import ConfigError
from recpolicy.registry.model_registry import Registry
from recpolicy.server.asgi import ServeOptions, open_app
from recpolicy.server.state_files import make_private


def modes(folder):
    """Modes of everything in a folder, by path."""
    return {str(path.relative_to(folder)): stat.S_IMODE(path.lstat().st_mode) for path in folder.rglob("*")}


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize("cron", ['drift = "99 * * * *"', 'drift = "0 0 30 2 *"', 'drift = ""', 'no_job = "0 1 * * *"'])
def test_a_wrong_schedule_is_one_line_before_the_server_starts(tmp_path, cron, store):
    settings = tmp_path / "settings.toml"
    settings.write_text(f"[jobs]\ncron = {{{cron}}}\n")
    options = ServeOptions(source=trained("linucb"), state=str(tmp_path / "state"), config=str(settings), store=store)
    with pytest.raises(ConfigError) as caught:
        open_app(options)
    assert "\n" not in str(caught.value)


def test_the_files_of_a_server_are_its_own_whatever_the_umask_and_were_before(tmp_path):
    state = tmp_path / "state"
    before = os.umask(0)
    try:
        server = ServerProcess(trained("linucb"), state)
        try:
            event = server.post("/v1/recommend", {"user": 1})[1]["event_id"]
            assert server.post("/v1/feedback", {"event_id": event, "type": "like"})[0] == 200
            open_files = {path: mode for path, mode in modes(state).items() if mode & 0o077}
            assert {path for path in open_files if not path.startswith("registry/")} == set()
            assert stat.S_IMODE(state.stat().st_mode) == 0o700
            assert {"server.db", "server.db-wal", "spool"} <= set(modes(state))
            request = urllib.request.Request(server.url + "/readyz", headers={"host": "evil.example"})
            assert urllib.request.urlopen(request).status == 200  # probes are answered
            with pytest.raises(urllib.error.HTTPError, match="400"):
                urllib.request.urlopen(urllib.request.Request(server.url + "/", headers={"host": "evil.example"}))
        finally:
            assert server.stop(signal.SIGHUP) == 0  # as SIGTERM
        for path in [state, *state.rglob("*")]:
            path.chmod(path.stat().st_mode | 0o055)
        assert make_private(state, tmp_path / "run") > 3
        assert {path for path, mode in modes(state).items() if mode & 0o077} == set()
        assert make_private(state, tmp_path / "run") == 0
    finally:
        os.umask(before)


def test_several_workers_end_at_a_hang_up_too(tmp_path):
    server = ServerProcess(trained("linucb"), tmp_path / "state", "--workers", 2)
    assert server.stop(signal.SIGHUP) == 0


@pytest.mark.parametrize("foreign", [True, False])
def test_a_registry_or_a_folder_of_others_keeps_its_modes(tmp_path, foreign):
    folder = tmp_path / "folder"
    if foreign:
        (folder / "project").mkdir(parents=True)
        (folder / "project" / "notes.txt").write_text("of somebody")
    else:
        Registry(folder).register(trained("linucb"))
    (folder / "spool").mkdir()
    (folder / "server.db").write_text("")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_text("")
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    make_private(folder, tmp_path / "run" if foreign else folder)
    after = modes(folder)
    assert (after["spool"], after["server.db"]) == (0o700, 0o600)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    others = {path: mode for path, mode in after.items() if path not in ("spool", "server.db", "link")}
    assert others
    assert set(others.values()) == {0o755, 0o644}
    assert stat.S_IMODE((tmp_path / "elsewhere").stat().st_mode) == 0o644


def test_a_registry_is_as_readable_as_its_folder_whatever_the_umask(tmp_path):
    """A server with a private umask adds versions to a registry that others read."""
    before = os.umask(0o022)
    try:
        registry = Registry(tmp_path / "shared")
        registry.register(trained("linucb"))
        os.umask(0o077)
        registry.register(trained("ucb1"))
        Registry(tmp_path / "private").register(trained("ucb1"))
    finally:
        os.umask(before)
    assert modes(tmp_path)["private"] == 0o700
    added = modes(tmp_path / "shared" / "versions" / "2")
    assert len(added) > 4
    assert {path: mode for path, mode in added.items() if mode & 0o044 != 0o044} == {}
