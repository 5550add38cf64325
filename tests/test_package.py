"""The package as its users import it: what it exports, and what importing it does not cost."""

import json
import subprocess
import sys
import tomllib

from conftest import ROOT


def test_import_alone_loads_no_heavy_library():
    script = "import json, sys, recpolicy; print(json.dumps([name for name in sys.modules if '.' not in name]))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert "recpolicy" in loaded
    assert not loaded & {"numpy", "pandas", "pyarrow", "pydantic", "typer", "rich", "tensorflow", "tf_agents"}


def test_every_extra_that_code_asks_for_is_one_that_can_be_installed():
    from recpolicy.core.optional_deps import _WITNESS

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(_WITNESS) <= set(project["optional-dependencies"])


def test_changelog_has_the_version_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"## {project['version']} " in (ROOT / "CHANGELOG.md").read_text()
