"""A compiled pipeline as a file: its documents, its name, and a copy without caching."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from recpolicy.core.errors import DataError
from recpolicy.core.optional_deps import require_extra


@dataclass(frozen=True)
class Package:
    """The documents of a compiled YAML: the pipeline, then settings for Kubernetes if there are any."""

    path: Path
    documents: list[dict[str, Any]]

    @property
    def name(self) -> str:
        """The name of the pipeline."""
        return str(self.documents[0]["pipelineInfo"]["name"])

    @property
    def for_kubernetes(self) -> bool:
        """True if there are settings for Kubernetes, such as volumes."""
        return len(self.documents) > 1


def read_package(path: Path) -> Package:
    """Read a compiled pipeline; raise DataError for any other file."""
    require_extra("pipelines", "reading a compiled pipeline")
    import yaml

    try:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
        package = Package(path, documents)
        if not package.name or "root" not in documents[0]:
            raise KeyError("root")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; write it with `recpolicy pipeline compile`") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    except (LookupError, TypeError):
        raise DataError(f"{path}: not a compiled pipeline; write it with `recpolicy pipeline compile`") from None
    return package


@contextmanager
def package_to_upload(package: Package, caching: bool) -> Iterator[Path]:
    """Yield the file to upload: the package itself, or a copy with caching off in every step.

    KFP's client turns caching off only for runs without a version, and only in the outermost steps.
    """
    if caching:
        yield package.path
        return
    import yaml

    pipeline, *others = package.documents
    bodies = [pipeline["root"], *pipeline.get("components", {}).values()]
    for task in (task for body in bodies for task in body.get("dag", {}).get("tasks", {}).values()):
        task["cachingOptions"] = {}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        path.write_text(yaml.safe_dump_all([pipeline, *others], sort_keys=True), encoding="utf-8")
        yield path
