"""Fixtures of the data tests: the miniature on disk, a fake GroupLens, a fake package index."""

import http.server
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_sources import FakeGroupLens, md5, serve, write_wheel, zip_of
from tiny_dataset import write_miniature

from recpolicy.data.datasets import Dataset


@pytest.fixture
def grouplens(miniature_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGroupLens]:
    """A web server with the zip of the miniature."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serve(zip_of(miniature_folder)) as fake:
        yield fake


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that pip takes for the package index; it has a recbole wheel with the miniature."""
    folder = tmp_path / "index"
    folder.mkdir()
    write_wheel(folder)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture(scope="session")
def miniature_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classic files of the miniature; read only."""
    return write_miniature(tmp_path_factory.mktemp("miniature") / "ml-100k")


@pytest.fixture
def dataset(miniature_folder: Path, grouplens: FakeGroupLens) -> Dataset:
    """The miniature as a data set that can be fetched: its official files are those of miniature_folder."""
    official = {name: md5((miniature_folder / name).read_bytes()) for name in ("u.data", "u.item", "u.user")}
    return Dataset("ml-100k", grouplens.url, "recbole==1.2.1", official, {})


@pytest.fixture
def nowhere() -> str:
    """An address on this machine where nothing listens."""
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        port = server.server_port
    return f"http://127.0.0.1:{port}/ml-100k.zip"
