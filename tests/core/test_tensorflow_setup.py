"""The environment TensorFlow needs, and that nothing of its chatter reaches the user."""

import ctypes
import importlib.util
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from recpolicy.core import tensorflow_setup
from recpolicy.core.tensorflow_setup import prepare_environment

needs_tensorflow = pytest.mark.skipif(not importlib.util.find_spec("tensorflow"), reason="needs the extra train")
VARIABLES = ("TF_USE_LEGACY_KERAS", "TF_CPP_MIN_LOG_LEVEL", "PYGAME_HIDE_SUPPORT_PROMPT")


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch):
    """A process that has neither imported TensorFlow nor set anything; restored afterwards."""
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that monkeypatch restores what the code sets
        monkeypatch.delenv(name)


def import_tensorflow(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", types.ModuleType("tensorflow"))


def test_sets_what_is_not_set():
    prepare_environment()
    assert [os.environ[name] for name in VARIABLES] == ["1", "3", "1"]


def test_keeps_the_log_level_of_the_user(monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    prepare_environment()
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0"


def test_corrects_a_setting_that_would_break_tf_agents(monkeypatch):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "0")
    prepare_environment()
    assert os.environ["TF_USE_LEGACY_KERAS"] == "1"


@pytest.mark.parametrize("value", [None, "0"])
def test_tensorflow_imported_before_without_it_is_an_error_that_says_what_to_do(monkeypatch, value):
    import_tensorflow(monkeypatch)
    if value is not None:
        monkeypatch.setenv("TF_USE_LEGACY_KERAS", value)
    with pytest.raises(ImportError, match="Import recpolicy first, or set TF_USE_LEGACY_KERAS=1"):
        prepare_environment()


@pytest.mark.parametrize("value", ["1", "true", "True"])
def test_tensorflow_imported_before_with_it_is_fine(monkeypatch, value):
    import_tensorflow(monkeypatch)
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", value)
    prepare_environment()


@needs_tensorflow
def test_tensorflow_still_exports_the_function_that_sets_its_log_level():
    # Else silence_libraries gives up without a word: look up the name in the new release (nm -D --defined-only).
    folder = Path(importlib.util.find_spec("tensorflow").origin).parent
    library = ctypes.CDLL(str(folder / tensorflow_setup._NATIVE_LIBRARY))
    assert hasattr(library, tensorflow_setup._SET_MIN_LOG_LEVEL)


@needs_tensorflow
def test_first_compiled_function_prints_nothing():
    script = """
import recpolicy
from recpolicy.core.tensorflow_setup import silence_libraries
silence_libraries()
import tensorflow as tf
import tf_agents.bandits.environments.bandit_tf_environment
print(float(tf.function(lambda x: x + 1, jit_compile=True)(tf.constant(1.0))))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("2.0\n", "")
