"""Sources that are not there: GroupLens as a web server on loopback, the recbole package with the miniature in it."""

import hashlib
import http.server
import io
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tiny_dataset import OCCUPATIONS, USERS, miniature

from recpolicy.data.datasets import ITEM_GENRES


@dataclass
class FakeGroupLens:
    """What the server sends, how it misbehaves, and how many requests it got."""

    content: bytes = b""
    status: int = 200
    break_after: list[int] = field(default_factory=list)
    """Bytes after which successive answers break off; an answer beyond the list is whole."""
    slow: float = 0.0
    requests: int = 0
    url: str = ""


@contextmanager
def serve(content: bytes) -> Iterator[FakeGroupLens]:
    """Serve `content` from a web server on loopback."""
    fake = FakeGroupLens(content)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            fake.requests += 1
            threading.Event().wait(fake.slow)
            self.send_response(fake.status)
            self.send_header("Content-Length", str(len(fake.content)))
            self.end_headers()
            end = fake.break_after.pop(0) if fake.break_after else len(fake.content)
            self.wfile.write(fake.content[:end])

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_port}/ml-100k.zip"
    try:
        yield fake
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def zip_of(folder: Path, prefix: str = "ml-100k/") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, prefix + path.name)
    return buffer.getvalue()


def wheel_files() -> dict[str, bytes]:
    """The miniature in the form in which the recbole wheel carries MovieLens 100K."""
    world = miniature()
    inter = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    inter += ["\t".join(map(str, row)) for row in world.observed.tolist()]
    item = ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq", "1\tunkonwn\tunkonwn\tunknown"]
    for row, year in enumerate(world.year.tolist()[1:], start=1):
        genres = " ".join(name for name, flag in zip(ITEM_GENRES, world.genres[row], strict=True) if flag)
        item.append(f"{row + 1}\t{'Café' if row % 7 == 3 else 'Picture'} No. {row + 1:02d}, The\t{year}\t{genres}")
    user = ["user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token"]
    for row in range(USERS):
        gender, occupation = "F" if world.female[row] else "M", OCCUPATIONS[world.occupation[row]]
        code = "T8H1N" if row % 20 == 7 else f"{row * 613:05d}"
        user.append(f"{row + 1}\t{world.age[row]}\t{gender}\t{occupation}\t{code}")
    lines = {"ml-100k.inter": inter, "ml-100k.item": item, "ml-100k.user": user}
    return {name: ("\n".join(rows) + "\n").encode() for name, rows in lines.items()}


def write_wheel(folder: Path, changes: Mapping[str, tuple[bytes, bytes]] | None = None) -> Path:
    """Write a recbole 1.2.1 wheel into `folder`; in the files of `changes` the first bytes become the second."""
    files = wheel_files()
    for name, (old, new) in (changes or {}).items():
        files[name] = files[name].replace(old, new)
    path = folder / "recbole-1.2.1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(f"recbole/dataset_example/ml-100k/{name}", content)
        metadata = "recbole-1.2.1.dist-info"
        archive.writestr(f"{metadata}/METADATA", "Metadata-Version: 2.1\nName: recbole\nVersion: 1.2.1\n")
        archive.writestr(
            f"{metadata}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{metadata}/RECORD", "")
    return path
