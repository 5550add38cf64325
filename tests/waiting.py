"""Waiting for events, never for seconds: a test passes as soon as the machine is ready, however slow or fast it is."""

import time

PATIENCE = 120.0
"""Seconds after which a wait has failed; only a fault takes as long."""


def wait_until(condition, what="the condition", seconds=PATIENCE):
    """Return the first true value of `condition()`; raises AssertionError after `seconds`."""
    limit = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < limit, f"{what} did not happen within {seconds:g} s"
        time.sleep(0.01)
    return value
