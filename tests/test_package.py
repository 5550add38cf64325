"""The package as its users import it: what it exports, and what importing it does not cost."""

import json
import re
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


def test_plain_poetry_install_brings_the_packages_of_every_extra():
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = pyproject["project"]["optional-dependencies"].values()
    in_extras = {without_bounds(requirement) for extra in extras for requirement in extra}
    group = pyproject["dependency-groups"]["extras"]
    assert {without_bounds(name) for name in group} == in_extras, (
        "the group `extras` must name the packages of all extras: change it in pyproject.toml, then run scripts/lock"
    )
    assert not [name for name in group if re.search("[<>=~!]", name.split(";")[0])], "only the extras hold bounds"


def without_bounds(requirement):
    """Return the requirement without its version bounds: `kfp[kubernetes]==2.17.0` gives `kfp[kubernetes]`."""
    requirement, *marker = requirement.split(";")
    return ";".join([re.split("[<>=~!]", requirement)[0].strip(), *(part.strip() for part in marker)])


def test_light_core_asks_for_no_package_of_an_extra():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    core = {without_bounds(requirement) for requirement in project["dependencies"]}
    assert core.isdisjoint(
        without_bounds(name) for extra in project["optional-dependencies"].values() for name in extra
    )
