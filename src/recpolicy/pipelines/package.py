"""A compiled pipeline as a file: what its name is, and the same without caching."""

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
    """The documents of a compiled YAML: the pipeline, then perhaps what is meant for the platform."""

    path: Path
    documents: list[dict[str, Any]]

    @property
    def name(self) -> str:
        """The pipeline's own name."""
        return str(self.documents[0]["pipelineInfo"]["name"])

    @property
    def for_kubernetes(self) -> bool:
        """Whether it asks for what only Kubernetes has, such as volumes."""
        return len(self.documents) > 1


def read_package(path: Path) -> Package:
    """Read a compiled pipeline; raises DataError for any other file."""
    require_extra("pipelines", "reading a compiled pipeline")
    import yaml

    try:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
        whole = Package(path, documents)
        if not whole.name or "root" not in documents[0]:
            raise KeyError("root")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; write it with `recpolicy pipeline compile`") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    except (LookupError, TypeError):
        raise DataError(f"{path}: not a compiled pipeline; write it with `recpolicy pipeline compile`") from None
    return whole


@contextmanager
def ready_to_send(package: Package, caching: bool) -> Iterator[Path]:
    """Yield the file to send: the package itself, or a copy in which no step is cached, loops and branches included.

    KFP's client can do the second for runs without a version only, and reaches the outermost steps only.
    """
    if caching:
        yield package.path
        return
    import yaml

    first, *others = package.documents
    bodies = [first["root"], *first.get("components", {}).values()]
    for task in (task for body in bodies for task in body.get("dag", {}).get("tasks", {}).values()):
        task["cachingOptions"] = {}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        path.write_text(yaml.safe_dump_all([first, *others], sort_keys=True), encoding="utf-8")
        yield path
