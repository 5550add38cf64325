"""Mount volumes of a cluster in the steps of a pipeline: `CLAIM:/path` for an existing PersistentVolumeClaim.

Every step with a container mounts every volume, including steps in loops and branches and the exit handler, so each
step sees the files of the others. kfp-kubernetes writes the volumes into a second YAML document, for Kubernetes only.

Kubeflow (backend/src/v2/driver/k8s.go) names a pod's volume after its claim. So a claim is mounted once in a pod, and
its name must be a valid volume name (RFC 1123 label), which is stricter than a claim's name.
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
"""Folders of the image, and of Kubeflow's launcher and artifacts."""


@dataclass(frozen=True)
class Volume:
    """An existing claim and its mount path in the steps."""

    claim: str
    path: str


def read_volumes(words: Iterable[str]) -> tuple[Volume, ...]:
    """Return the volumes of `CLAIM:/path` words; raise ConfigError for one that cannot be mounted."""
    volumes = tuple(_read(word) for word in words)
    for number, volume in enumerate(volumes):
        for other in volumes[:number]:
            if volume.claim == other.claim:
                raise ConfigError(f"--volume: {volume.claim} is given twice; a claim has one path in a step")
            if _overlap(volume.path, other.path):
                raise ConfigError(f"--volume: {other.path} and {volume.path} overlap; one would hide the other")
    return volumes


def with_volumes(function: Callable[..., Any], volumes: Sequence[Volume]) -> Callable[..., Any]:
    """Return the pipeline function with the volumes in all steps; raise MissingExtraError without kfp-kubernetes."""
    try:
        from kfp import kubernetes
    except ImportError:
        raise MissingExtraError(
            "--volume needs kfp-kubernetes. Install it: pip install 'recpolicy[pipelines]'"
        ) from None
    from kfp.dsl.pipeline_context import Pipeline

    @functools.wraps(function)  # the compiler reads the parameters and their descriptions
    def mount_in_all_steps(*args: Any, **kwargs: Any) -> Any:
        outputs = function(*args, **kwargs)
        for task in Pipeline.get_default_pipeline().tasks.values():  # of every group, and the exit handler
            if task.container_spec is not None:  # an importer has no container
                for volume in volumes:
                    kubernetes.mount_pvc(task, pvc_name=volume.claim, mount_path=volume.path)
        return outputs

    return mount_in_all_steps


def warn_of_lost_registry(registry: str, volumes: Iterable[Volume]) -> None:
    """Warn about a registry in the pod of a step, which is deleted with the pod."""
    if registry and not any(_is_inside(registry, volume.path) for volume in volumes):
        logger.warning(
            "registry=%s is on no volume of the steps: unless the cluster mounts one there, the registered policy is"
            " lost with the step; give a volume with --volume CLAIM:/path",
            registry,
        )


def _read(word: str) -> Volume:
    claim, colon, path = word.partition(":")
    if not colon:
        raise ConfigError(f"--volume {word!r}: expected CLAIM:/path, such as recpolicy-registry:/mnt/registry")
    if not _CLAIM.fullmatch(claim):
        raise ConfigError(
            f"--volume {word!r}: Kubeflow cannot mount the claim {claim!r}: expected at most 63 lower-case letters,"
            " digits and -, with a letter or digit at both ends"
        )
    path = path.rstrip("/")
    if not _PATH.fullmatch(path) or {".", ".."} & set(path.split("/")):
        raise ConfigError(
            f"--volume {word!r}: expected an absolute path below / after the colon, with letters, digits and"
            " . _ - + @, such as /mnt/registry"
        )
    for taken in _TAKEN:
        if _overlap(path, taken):
            raise ConfigError(
                f"--volume {word!r}: {taken} belongs to the image or to Kubeflow; mount the claim at /mnt/..."
            )
    return Volume(claim, path)


def _overlap(first: str, second: str) -> bool:
    return _is_inside(first, second) or _is_inside(second, first)


def _is_inside(path: str, folder: str) -> bool:
    return ".." not in path.split("/") and PurePosixPath(path).is_relative_to(folder)
