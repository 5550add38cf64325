"""Settings without a limit of requests per second, which loads, or many tests of one app, would reach.

An app in the process of the tests has a long time limit, too: a busy machine is no reason for 503.
"""

from waiting import PATIENCE

from recpolicy.server.settings import LimitsConfig, Settings

UNLIMITED = Settings(limits=LimitsConfig(rate=0, seconds=PATIENCE))
UNLIMITED_TOML = "[limits]\nrate = 0\n"
