"""A missing extra is named, and nothing is imported to find out."""

import importlib.util
import sys

import pytest

from recpolicy.core import optional_deps
from recpolicy.core.errors import MissingExtraError
from recpolicy.core.optional_deps import name_missing_extra, require_extra


def test_installed_extra_passes_without_being_imported(monkeypatch):
    monkeypatch.delitem(sys.modules, "kfp", raising=False)
    require_extra("pipelines", "recpolicy pipeline")
    assert "kfp" not in sys.modules


def test_missing_extra_says_what_needs_it_and_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "version_info", (3, 11, 9))
    with pytest.raises(MissingExtraError, match=r"^recpolicy train needs .* pip install 'recpolicy\[train\]'"):
        require_extra("train", "recpolicy train")


def test_a_newer_python_is_told_that_training_needs_another(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    with pytest.raises(MissingExtraError, match=r"Training needs Python 3\.11.*; this is 3\.13\.$"):
        require_extra("train", "recpolicy train")
    assert "pip install 'recpolicy[report]'" in str(name_missing_extra(ModuleNotFoundError(name="scipy")))


def test_a_module_within_a_package_that_is_missing_is_missing(monkeypatch):
    """find_spec raises for the inner module of a package that is not there, where it returns None for the package."""
    monkeypatch.setitem(optional_deps._WITNESS, "vertex", "no_such_package.aiplatform")
    with pytest.raises(MissingExtraError, match=r"submitting needs the extra 'vertex', which is not installed"):
        require_extra("vertex", "submitting")


def test_a_module_within_a_package_that_is_there_passes(monkeypatch):
    monkeypatch.setitem(optional_deps._WITNESS, "vertex", "importlib.util")
    require_extra("vertex", "submitting")
