"""Settings without a limit of requests per second, which loads, or many tests of one app, would reach."""

from recpolicy.server.settings import LimitsConfig, Settings

UNLIMITED = Settings(limits=LimitsConfig(rate=0))
UNLIMITED_TOML = "[limits]\nrate = 0\n"
