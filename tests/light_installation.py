"""A pytest plugin for an installation without the extra `train`: tests that need it are skipped (scripts/test-light).

A test or a file is skipped only if it fails for the lack of a package of an extra. Every other failure counts.
"""

import re
from collections.abc import Iterator

import pytest

from recpolicy.cli import main
from recpolicy.core.errors import MissingExtraError

_OF_EXTRAS = {
    "absl", "google", "gymnasium", "kfp", "myfm", "numba", "sklearn", "surprise", "tensorflow",
    "tf_agents", "tf_keras", "yaml",
}  # fmt: skip
"""Modules of the extras that a light installation lacks."""

_OF_DEVELOPMENT = {"azure", "grimp", "kubernetes_validate", "msrest", "nbclient", "nbformat", "playwright"}
"""Modules of the group `dev` and of the notebooks that a light installation lacks."""

_LACKING = _OF_EXTRAS | _OF_DEVELOPMENT
_MESSAGE = re.compile(
    r"needs the extra '[a-z]+', which is not installed|No module named '(" + "|".join(sorted(_LACKING)) + r")\b|"
    r"hadolint is not installed"
)
"""Words of a command or of another process that lacks a package."""


def find_missing(error: BaseException | None) -> str | None:
    """Return what the installation lacks, if that is the cause of an error; None for any other error."""
    while error is not None:
        lacks = isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in _LACKING
        if lacks or isinstance(error, MissingExtraError):
            return str(error)
        error = error.__cause__ or error.__context__
    return None


def pytest_configure() -> None:
    """Let a command in the process of the tests raise for a missing module; its one line is easily lost in a test."""
    main.name_missing_extra = lambda _: None


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """Skip files that import a missing package."""
    report = (yield).get_result()
    _skip(report, report.call, str(collector.path))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: "pytest.CallInfo[object]") -> Iterator[None]:
    """Skip tests that need a missing package."""
    _skip((yield).get_result(), call, str(item.path))


def _skip(report: "pytest.CollectReport | pytest.TestReport", call: "pytest.CallInfo[object]", path: str) -> None:
    missing = find_missing(call.excinfo.value) if report.failed and call.excinfo else None
    words = _MESSAGE.search(report.longreprtext) if report.failed and not missing else None
    missing = words[0] if words else missing
    if missing:
        report.outcome, report.longrepr = "skipped", (path, 0, f"Skipped: {missing}")
