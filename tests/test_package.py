"""The package as its users import it: what it exports, and what importing it does not cost."""

import json
import subprocess
import sys
import tomllib

import pytest
from conftest import ROOT

import recpolicy

PUBLIC = [
    "Policy",
    "RecpolicyError",
    "TrainConfig",
    "evaluate",
    "fit_rating_model",
    "load_policy",
    "load_ratings",
    "split",
    "train",
]


def test_public_names_are_these_and_no_others():
    assert sorted(recpolicy.__all__) == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_is_there_and_documented(name):
    assert getattr(recpolicy, name).__doc__


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'recpolicy' has no attribute 'fetch'"):
        recpolicy.fetch  # noqa: B018


def test_import_alone_loads_no_heavy_library():
    script = "import json, sys, recpolicy; print(json.dumps([name for name in sys.modules if '.' not in name]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert "recpolicy" in loaded
    assert not loaded & {"numpy", "pandas", "pyarrow", "pydantic", "typer", "rich", "tensorflow", "tf_agents"}


def test_every_extra_that_code_asks_for_is_one_that_can_be_installed():
    from recpolicy.core.extras import _WITNESS

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(_WITNESS) <= set(project["optional-dependencies"])


def test_changelog_has_the_version_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"## {project['version']} " in (ROOT / "CHANGELOG.md").read_text()
