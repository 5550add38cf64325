"""Volumes of a cluster in the steps of a pipeline: `CLAIM:/path` mounts an existing PersistentVolumeClaim.

Every step that runs a container gets every volume, those in loops and branches and the exit handler included, so that
no step can miss what another wrote. kfp-kubernetes notes them in a second YAML document, for Kubernetes alone.

Kubeflow (backend/src/v2/driver/k8s.go) names a pod's volume after its claim: a claim is mounted once in a pod, and its
name must be one that Kubernetes takes for a volume (RFC 1123 label), which is narrower than what it takes for a claim.
"""

import functools
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from recpolicy.core.errors import ConfigError, MissingExtraError

logger = logging.getLogger(__name__)

_CLAIM = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_PATH = re.compile(r"(/[A-Za-z0-9._@+-]+)+")
_TAKEN = (
    "/bin", "/dev", "/etc", "/lib", "/lib64", "/opt/venv", "/proc", "/sbin", "/sys", "/tmp", "/usr",
    "/gcs", "/kfp-launcher", "/minio", "/oci", "/s3",
)  # fmt: skip
"""What the image runs from, and where Kubeflow puts its launcher and the artifacts of a step."""


@dataclass(frozen=True)
class Volume:
    """An existing claim and the folder where the steps see it."""

    claim: str
    path: str


def read_volumes(words: Iterable[str]) -> tuple[Volume, ...]:
    """The volumes that `CLAIM:/path` words name; raises ConfigError for what cannot be mounted."""
    volumes = tuple(_read(word) for word in words)
    for number, one in enumerate(volumes):
        for other in volumes[:number]:
            if one.claim == other.claim:
                raise ConfigError(f"--volume: {one.claim} is named twice; a claim has one place in a step")
            if _overlap(one.path, other.path):
                raise ConfigError(f"--volume: {other.path} and {one.path} overlap; one would hide the other")
    return volumes


def mounting(function: Callable[..., Any], volumes: Sequence[Volume]) -> Callable[..., Any]:
    """The pipeline function, whose steps all mount the volumes; raises MissingExtraError without kfp-kubernetes."""
    try:
        from kfp import kubernetes
    except ImportError:
        raise MissingExtraError(
            "--volume needs kfp-kubernetes. Install it: pip install 'recpolicy[pipelines]'"
        ) from None
    from kfp.dsl.pipeline_context import Pipeline

    @functools.wraps(function)  # the compiler reads parameters and their descriptions from it
    def mounted(*args: Any, **kwargs: Any) -> Any:
        made = function(*args, **kwargs)
        for task in Pipeline.get_default_pipeline().tasks.values():  # of every group, and the exit handler
            if task.container_spec is not None:  # an importer runs nothing of ours
                for volume in volumes:
                    kubernetes.mount_pvc(task, pvc_name=volume.claim, mount_path=volume.path)
        return made

    return mounted


def warn_of_what_is_lost(registry: str, volumes: Iterable[Volume]) -> None:
    """Warn of a registry that lies in the pod of a step, and goes with it."""
    if registry and not any(_is_inside(registry, volume.path) for volume in volumes):
        logger.warning(
            "registry=%s lies on no volume of the steps: unless the cluster mounts one there, what is registered is"
            " lost with the step; name one with --volume CLAIM:/path",
            registry,
        )


def _read(word: str) -> Volume:
    claim, colon, path = word.partition(":")
    if not colon:
        raise ConfigError(f"--volume {word!r}: expected CLAIM:/path, such as recpolicy-registry:/mnt/registry")
    if not _CLAIM.fullmatch(claim):
        raise ConfigError(
            f"--volume {word!r}: {claim!r} is no name of a claim that Kubeflow can mount: at most 63 lower-case"
            " letters, digits and -, with a letter or digit at both ends"
        )
    path = path.rstrip("/")
    if not _PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise ConfigError(
            f"--volume {word!r}: after the colon comes an absolute path below /, of letters, digits and . _ - + @, such"
            " as /mnt/registry"
        )
    for taken in _TAKEN:
        if _overlap(path, taken):
            raise ConfigError(f"--volume {word!r}: {taken} is the image's or Kubeflow's own; mount it at /mnt/...")
    return Volume(claim, path)


def _overlap(one: str, other: str) -> bool:
    return _is_inside(one, other) or _is_inside(other, one)


def _is_inside(path: str, folder: str) -> bool:
    return ".." not in path.split("/") and PurePosixPath(path).is_relative_to(folder)
