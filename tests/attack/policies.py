"""Hostile policies on their way through the server: import, promotion, answers, roll-back, restart."""

import asyncio
import io
import shutil
import signal
import zipfile
from pathlib import Path
from typing import Any

from hostile_policies import Mutation, hostile_policies
from processes import ServerProcess

from attack.client import Answer, Client, address_of
from attack.fuzzing import NOT_JSON
from attack.session import PATIENT, Session, operator, write_policy

USERS, ITEMS = 60, 80
QUESTIONS: tuple[tuple[str, Any], ...] = (
    ("/v1/recommend", {"user": 1, "k": 5}), ("/v1/recommend", {"user": "new", "ratings": [{"item": 101, "rating": 5}]}),
    ("/v1/recommend", {"user": "new", "context": [1.0, 0.5, 0.1]}),
    ("/v1/recommend", {"user": 2, "genres": ["Comedy"]}),
    ("/v1/predict", {"users": [1, 2]}), ("/v1/predict", {"users": [3], "items": [101, 102]}),
    ("/v1/models/recpolicy:predict", {"instances": [{"user": 1}, {"user": 2, "items": [101]}]}),
    ("/v1/console/users", {}), ("/v1/console/estimates", {"user": 1}),
)  # fmt: skip
"""Asked of each version that the server accepts; known users, new ones and filters take different ways."""
RESTART_EVERY = 100


def attack_by_policies(session: Session) -> None:
    """Import each hostile policy; promote and ask what is accepted; the good version must serve after each."""
    good = write_policy(session.folder / "good", users=USERS, items=ITEMS)
    table = list(hostile_policies())
    if session.quick:
        table = table[::20]
    server = session.start(source=good, settings=PATIENT)
    for begin in range(0, len(table), RESTART_EVERY):
        asyncio.run(_import_all(session, server, good, table[begin : begin + RESTART_EVERY]))
        session.check_alive(server)
        server = _restarted(session, server, good)
    session.check_alive(server)
    outside = [
        path.name for path in session.folder.iterdir() if path.name.split(".")[0] not in ("good", "hostile", "state")
    ]
    session.result.require(not outside, f"files appeared outside the state folder: {outside}")


async def _import_all(session: Session, server: ServerProcess, good: Path, table: list[tuple[str, Mutation]]) -> None:
    result = session.result
    async with Client(address_of(server.url), operator(), timeout=60) as client:
        first = (await _ask(client, "GET", "/v1/admin/versions")).json()["routing"]["champion"]
        for name, mutate in table:
            result.tries += 1
            folder = session.folder / "hostile"
            shutil.copytree(good, folder)
            mutate(folder)
            archive = _zipped(folder)
            shutil.rmtree(folder)
            answer = await _ask(client, "POST", "/v1/admin/versions/import", archive)
            if _failed(session, answer, f"{name}: import") or answer.status != 201:
                await _good_version_serves(session, client, first, name)
                continue
            number = answer.json()["number"]
            answer = await _ask(client, "POST", f"/v1/admin/versions/{number}/promote?ungated=true")
            if not _failed(session, answer, f"{name}: promote") and answer.status == 200:
                for path, body in QUESTIONS:
                    _failed(session, await _ask(client, "POST", path, body), f"{name}: {path}, promoted")
            answer = await _ask(client, "GET", "/v1/admin/versions")
            _failed(session, answer, f"{name}: list of versions")
            if first != number:
                answer = await _ask(client, "POST", f"/v1/admin/versions/{first}/promote?ungated=true")
                result.require(answer.status in (200, 409), f"{name}: no way back: {answer.line}")
            await _good_version_serves(session, client, first, name)


async def _ask(client: Client, method: str, path: str, body: Any = None) -> Answer:
    try:
        answer = await client.ask(method, path, body)
    except (OSError, TimeoutError) as error:
        return Answer(599, {}, f"no answer: {type(error).__name__}".encode())
    return answer or Answer(599, {}, b"closed without an answer")


def _failed(session: Session, answer: Answer, what: str) -> bool:
    """Count a failure and an answer with numbers that are not finite; return whether it is a failure."""
    session.result.require(answer.status < 500, f"{what}: {answer.line}", "wrong_5xx")
    if answer.status < 400:
        session.result.require(not NOT_JSON.search(answer.body), f"{what}: NaN in the answer")
    return answer.status >= 500


async def _good_version_serves(session: Session, client: Client, first: int, name: str) -> None:
    answer = await _ask(client, "POST", "/v1/recommend", {"user": 1})
    if not _failed(session, answer, f"{name}: recommend afterwards"):
        version = answer.json()["policy"]["version"]
        session.result.require(version == first, f"{name}: version {version} answers afterwards, not {first}")


def _zipped(folder: Path) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder))
    return content.getvalue()


def _restarted(session: Session, server: ServerProcess, source: Path) -> ServerProcess:
    """Stop the server and start it with the registry that the imports left."""
    code = server.stop(signal.SIGTERM)
    session.result.require(code == 0, f"exit code {code} after SIGTERM")
    return session.start(source=source, settings=PATIENT)
