"""Loading without looking for garbage."""

import gc

import pytest

from recpolicy.server import freeze_startup_objects


@pytest.fixture(autouse=True)
def thawed():
    yield
    gc.unfreeze()


def test_what_was_loaded_is_looked_at_no_more_and_garbage_is_looked_for_again():
    with freeze_startup_objects():
        assert not gc.isenabled()
        kept = [[] for _ in range(1_000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() > 1_000
    assert not any(one is kept for one in gc.get_objects())


def test_a_failure_leaves_the_collector_on():
    with pytest.raises(ValueError, match="broken"), freeze_startup_objects():
        raise ValueError("broken")
    assert gc.isenabled()
