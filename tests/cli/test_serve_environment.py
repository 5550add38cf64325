"""What `recpolicy serve` takes from the environment, as containers name it; what the command line says comes first."""

import pytest
from command_line import recpolicy, refused

from recpolicy.core.errors import ConfigError

NAMES = ("RECPOLICY_RUN", "RECPOLICY_STATE", "RECPOLICY_CONFIG", "RECPOLICY_STORE")


@pytest.fixture
def told(capsys, monkeypatch, tmp_path):
    """Give words and environment to the command; returns what it would have served."""
    open_state = []

    def open_app(what):
        open_state.append(what)
        raise ConfigError("far enough")

    def go(*words, **environment):
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert "far enough" in refused(recpolicy(capsys, "serve", "--port", 0, tmp_path, *words))
        return open_state[-1]

    monkeypatch.setattr("recpolicy.server.asgi.open_app", open_app)
    return go


def test_state_and_settings_may_come_from_the_environment(told):
    what = told(RECPOLICY_STATE="kept", RECPOLICY_CONFIG="server.toml")
    assert (what.state, what.config) == ("kept", "server.toml")


def test_the_command_line_comes_first(told):
    environment = {"RECPOLICY_STATE": "kept", "RECPOLICY_CONFIG": "server.toml", "RECPOLICY_STORE": "false"}
    what = told("--state", "here", "--config", "mine.toml", "--store", **environment)
    assert (what.state, what.config, what.store) == ("here", "mine.toml", True)


def test_what_is_empty_was_not_said(told):
    what = told(RECPOLICY_STATE="", RECPOLICY_CONFIG="", RECPOLICY_STORE="")
    assert (what.state, what.config, what.store) == (None, None, True)


@pytest.mark.parametrize(
    ("said", "kept"), [("true", True), ("1", True), ("on", True), ("false", False), ("0", False), ("no", False)]
)
def test_the_store_may_be_turned_off_by_the_environment(told, said, kept):
    assert told(RECPOLICY_STORE=said).store is kept
