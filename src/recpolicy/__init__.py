"""From a table of ratings to a recommendation policy that can be trusted."""

from recpolicy.core.tensorflow_setup import prepare_environment

prepare_environment()
