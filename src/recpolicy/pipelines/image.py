"""The image that components run in on a cluster."""

from importlib.metadata import version

IMAGE = f"recpolicy:{version('recpolicy')}"
"""Written into compiled pipelines unless another is given (`recpolicy pipeline compile --image`)."""
