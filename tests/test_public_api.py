"""What `recpolicy` exports, and that importing it costs nothing."""

import inspect
import subprocess
import sys
from importlib import import_module

import pytest

import recpolicy

NAMES = [
    "Policy", "RecpolicyError", "SessionTrainConfig", "TrainConfig", "evaluate", "evaluate_sessions",
    "fit_rating_model", "load_policy", "load_ratings", "split", "train", "validate_simulator",
]  # fmt: skip


def test_the_names_are_these():
    assert recpolicy.__all__ == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_there_and_documented(name):
    thing = getattr(recpolicy, name)
    assert thing.__name__ == name
    assert thing.__module__.startswith("recpolicy.")
    assert thing.__doc__


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="has no attribute 'predict'"):
        _ = recpolicy.predict


QUIET = """
import sys
{statement}
heavy = {{"numpy", "pandas", "pydantic", "tensorflow", "tf_agents", "matplotlib", "sklearn"}} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.parametrize("statement", ["import recpolicy", "import recpolicy.cli.main"])
def test_importing_it_imports_nothing_heavy(statement):
    code = QUIET.format(statement=statement)
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_star_import_takes_the_names_and_no_tensorflow():
    code = "from recpolicy import *\nimport sys\nprint(callable(train), 'tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False"], done.stderr


def test_tensorflow_imported_too_early_is_an_error_that_says_what_to_do():
    code = (
        "import os, sys, types\nos.environ.pop('TF_USE_LEGACY_KERAS', None)\n"
        "sys.modules['tensorflow'] = types.ModuleType('tensorflow')\nimport recpolicy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ImportError: tensorflow was imported before recpolicy" in done.stderr


def undocumented(function) -> list[str]:
    """The sections that a function's docstring lacks."""
    text, signature = inspect.getdoc(function) or "", inspect.signature(function)
    wanted = {
        "Args": bool(set(signature.parameters) - {"self"}),
        "Returns": signature.return_annotation not in (None, "None", signature.empty),
        "Raises": "raise " in inspect.getsource(function),
    }
    has = {name: f"\n{name}:\n" in text for name in wanted} | {"Returns": "\nReturns:" in text or "\nYields:" in text}
    return [name for name, needed in wanted.items() if needed and not has[name]]


@pytest.mark.parametrize("package", ["recpolicy", "recpolicy.ope", "recpolicy.testing", "recpolicy.workflows"])
def test_public_functions_document_arguments_result_and_errors(package):
    module = import_module(package)
    functions = {name: getattr(module, name) for name in module.__all__ if inspect.isfunction(getattr(module, name))}
    if package == "recpolicy":
        functions |= {name: getattr(recpolicy.Policy, name) for name in ("predict", "recommend", "scores", "tables")}
    lacking = {name: undocumented(function) for name, function in functions.items()}
    assert {name: sections for name, sections in lacking.items() if sections} == {}
