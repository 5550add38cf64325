"""Damaged registries: the server goes on with the last good version, and follows the registry once it is repaired."""

import json
import shutil
import time
from pathlib import Path

from processes import ServerProcess

from attack.session import PATIENT, Session, operator, write_policy
from recpolicy.registry.model_registry import Registry

FOLLOW_SECONDS = 10.0


def attack_registry(session: Session) -> None:
    """Damage files of the registry while a server follows it."""
    registry = Registry(session.folder / "registry")
    sources = [write_policy(session.folder / f"policy-{seed}", seed, users=60, items=80) for seed in range(3)]
    numbers = [registry.register(source, gate={"verdict": "pass"}).number for source in sources]
    registry.promote(numbers[0])
    server = session.start(source=registry.folder, settings=PATIENT)
    aliases = registry.folder / "aliases.json"
    good = aliases.read_text()
    for name, damage in _damages(registry, numbers[1], good).items():
        session.result.tries += 1
        damage()
        time.sleep(1.2)  # the server looks twice a second
        _serves(session, server, numbers[0], name)
    _restore(registry, numbers[1], sources[1], aliases, good)
    registry.promote(numbers[2])
    _follows(session, server, numbers[2])
    session.check_alive(server)


def _damages(registry: Registry, number: int, good: str) -> dict:
    """Return damages by name; each leaves the files of the served version alone."""
    aliases, folder = registry.folder / "aliases.json", registry.resolve(number)
    page = json.loads(good)
    arrays, manifest = folder / "arrays.npz", folder / "recpolicy.json"

    def write(path: Path, data: bytes) -> None:
        path.parent.chmod(0o755)
        if path.exists():
            path.chmod(0o644)
        path.write_bytes(data)

    def promote_past_checks() -> None:
        write(aliases, json.dumps(page | {"champion": number}).encode())

    whole = arrays.read_bytes()
    return {
        "aliases cut": lambda: write(aliases, good.encode()[: len(good) // 2]),
        "aliases empty": lambda: write(aliases, b""),
        "aliases no UTF-8": lambda: write(aliases, b"\xff\xfe\x00"),
        "aliases a list": lambda: write(aliases, b"[]"),
        "champion a text": lambda: write(aliases, json.dumps(page | {"champion": "x"}).encode()),
        "champion unknown": lambda: write(aliases, json.dumps(page | {"champion": 99}).encode()),
        "arrays cut": lambda: (write(arrays, whole[:-100]), promote_past_checks()),
        "arrays zeros": lambda: (write(arrays, bytes(len(whole))), promote_past_checks()),
        "manifest a list": lambda: (write(manifest, b"[]"), promote_past_checks()),
        "manifest deep": lambda: (write(manifest, b"[" * 100_000), promote_past_checks()),
        "manifest zeros": lambda: (write(manifest, bytes(1_000)), promote_past_checks()),
        "aliases removed": aliases.unlink,
    }


def _serves(session: Session, server: ServerProcess, number: int, what: str) -> None:
    status, answer = server.post("/v1/recommend", {"user": 1})
    session.result.require(status < 500, f"{what}: recommend answers {status} {answer}", "wrong_5xx")
    if status == 200:
        version = answer["policy"]["version"]
        session.result.require(version == number, f"{what}: version {version} answers, not {number}")
    for path in ("/v1/admin/versions", "/readyz", "/v1/admin/rollouts/current"):
        status, answer = server.ask("GET", path, **operator())
        is_reason = status == 503 and answer["error"]["code"] == "registry_damaged"
        right = status < 500 or (is_reason and path != "/readyz")
        session.result.require(right, f"{what}: {path} answers {status} {str(answer)[:200]}", "wrong_5xx")


def _restore(registry: Registry, number: int, source: Path, aliases: Path, good: str) -> None:
    """Repair the registry, as an operator does."""
    folder = registry.folder / "versions" / str(number) / "policy"
    for name in ("arrays.npz", "recpolicy.json"):
        shutil.copyfile(source / name, folder / name)
    aliases.write_text(good)


def _follows(session: Session, server: ServerProcess, number: int) -> None:
    """The server must follow a promotion by another process, whatever it has seen before."""
    limit = time.monotonic() + FOLLOW_SECONDS
    version = None
    while time.monotonic() < limit:
        version = server.post("/v1/recommend", {"user": 1})[1].get("policy", {}).get("version")
        if version == number:
            return
        time.sleep(0.1)
    session.result.count(
        "dead_tasks", f"{FOLLOW_SECONDS:g} s after a promotion, version {version} answers, not {number}"
    )
