"""What all tests share: the environment TensorFlow needs, a cache of their own, the real MovieLens 100K.

Data with a known truth is imported, not injected: `from tiny_dataset import miniature_ratings`.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("recpolicy.testing")

import recpolicy  # noqa: F401, E402  sets TF_USE_LEGACY_KERAS, which must happen before any test imports TensorFlow
from recpolicy.core import progress  # noqa: E402
from recpolicy.data.loaders import load_ratings  # noqa: E402
from recpolicy.data.ratings import Ratings  # noqa: E402
from recpolicy.data.splits import Split, split  # noqa: E402

ROOT = Path(__file__).parent.parent

# nohup and shells in the background start programs that ignore these signals; servers of the tests must not inherit it.
for _signal, _default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_signal) is signal.SIG_IGN:
        signal.signal(_signal, _default)

# A busy machine is no reason for a property to fail; under CI the examples are the same at every run.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("here"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Fitted models go to a folder of this session, which all its workers share; the user's cache is left alone."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "recpolicy-cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECPOLICY_CACHE", str(folder))
        patch.delenv("RECPOLICY_DATA", raising=False)
        yield folder


@pytest.fixture(scope="session", autouse=True)
def no_lines_of_progress() -> Iterator[None]:
    """A slow machine prints no lines of progress where a test expects an empty stderr."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "LINE_SECONDS", float("inf"))
        yield


@pytest.fixture(scope="session")
def ml100k() -> Ratings:
    """The real MovieLens 100K. It is never skipped: a suite that passes without it would prove nothing."""
    folder = ROOT / "ml-100k"
    if not (folder / "u.data").is_file():
        pytest.fail(f"{folder} is empty: run scripts/test, or recpolicy data fetch", pytrace=False)
    return load_ratings(folder)


@pytest.fixture(scope="session")
def u1(ml100k: Ratings) -> Split:
    """The first official fold of MovieLens 100K."""
    return split(ml100k, "u1")
