"""The default image of the components on a cluster."""

from importlib.metadata import version

IMAGE = f"recpolicy:{version('recpolicy')}"
"""In compiled pipelines, unless `recpolicy pipeline compile --image` gives another."""
