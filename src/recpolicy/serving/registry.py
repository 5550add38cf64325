"""Versions of a policy on a file system: numbered, never changed again, one of them the champion.

    aliases.json                  which number is champion, which was before it; makes the folder a registry
    versions/N/                   one version: policy/ and version.json, read-only (registry_files.py)
    audit.jsonl                   one line a change, in order

A version appears whole or not at all and an alias moves by one rename, so whoever reads sees the state before or after
a change. Writers take turns by a lock. Audit lines are derived from that state: what a killed writer could not note is
noted by the next one.
"""

import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from recpolicy.core.errors import ArtifactError, ConfigError, unknown_name
from recpolicy.core.files import atomic_directory, content_digest, read_json_of, write_json
from recpolicy.serving.artifact import MANIFEST
from recpolicy.serving.registry_files import (
    POLICY,
    RECORD,
    Version,
    append_lines,
    copy_artifact,
    now,
    plain,
    read_record,
    sound_manifest,
    write_record,
)

logger = logging.getLogger(__name__)

CHAMPION, PREVIOUS = "champion", "previous"
ALIASES = (CHAMPION, PREVIOUS)
_STATE, _AUDIT = "aliases.json", "audit.jsonl"
_FORMAT, _FORMAT_VERSION = "recpolicy registry", 1
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_LOCK_SECONDS = 60


class Registry:
    """A folder of versions; it is made by the first `register`."""

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)

    def register(
        self, artifact: Path | str, *, gate: Mapping[str, Any] | None = None, lineage: Mapping[str, Any] | None = None
    ) -> Version:
        """Copy an artifact in as the next version; the same artifact again is the version it has already.

        Raises ArtifactError for a damaged or foreign artifact, or where the folder is something else than a registry,
        DataError where gate or lineage is not JSON.
        """
        source = Path(artifact)
        manifest = sound_manifest(source)
        described = {"gate": plain(gate, "gate"), "lineage": plain(lineage or manifest["about"], "lineage")}
        digest = content_digest(manifest)
        self._make()
        with self._writing():
            for known in self._records():
                if isinstance(known, Version) and known.digest == digest and self._damage(known.number) is None:
                    return known
            number = max(self._numbers(), default=0) + 1
            version = Version(
                number=number, digest=digest, agent=manifest["agent"], content=manifest["about"].get("content", ""),
                registered_at=now(), **described,
            )  # fmt: skip
            with atomic_directory(self._home(number)) as home:
                copy_artifact(source, home / POLICY, (MANIFEST, *manifest["files"]))
                if content_digest(sound_manifest(home / POLICY)) != digest:
                    raise ArtifactError(f"{source}: changed while it was copied; register it again")
                write_record(version, home)
        return version

    def promote(self, number: int | str) -> Version:
        """Make a version the champion; the one before it becomes `previous`.

        Raises ConfigError for a number that is not there, ArtifactError for a damaged version: nothing moves then.
        """
        self._aliases()
        with self._writing():
            return self._move(self._number(number), "promote")

    def roll_back(self) -> Version:
        """Make the previous champion the champion again; there is no previous one after it.

        Raises ConfigError where there is none, ArtifactError where it is damaged: nothing moves then.
        """
        self._aliases()
        with self._writing():
            previous = self._aliases()[PREVIOUS]
            if previous is None:
                raise ConfigError(f"{self.folder}: no previous champion to roll back to; promote a version by number")
            return self._move(previous, "roll_back")

    def resolve(self, name: int | str) -> Path:
        """Return the artifact folder of a number, "champion" or "previous"; raises ConfigError for anything else."""
        return self._home(self._number(name)) / POLICY

    def version(self, name: int | str) -> Version:
        """Return what is known of a number or alias; raises ArtifactError where its record is damaged."""
        return read_record(self._home(self._number(name)))

    def versions(self) -> list[Version]:
        """All versions, oldest first; one whose record cannot be read is left out with a warning."""
        found = []
        for record in self._records():
            if isinstance(record, Version):
                found.append(record)
            else:
                logger.warning("a version is left out: %s", record)
        return found

    def aliases(self) -> dict[str, int | None]:
        """Which number each alias stands for, None for none."""
        state = self._aliases()
        return {name: state[name] for name in ALIASES}

    def audit(self) -> list[dict[str, Any]]:
        """All changes in order; a last line that was cut short does not count."""
        path = self.folder / _AUDIT
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        try:
            return [json.loads(line) for line in lines]
        except ValueError as error:
            raise ArtifactError(f"{path}: a line is not JSON ({error}); mend it or move the file away") from None

    def _make(self) -> None:
        """Make the registry unless it is there; a folder with anything else in it is not turned into one."""
        if (self.folder / _STATE).exists():
            return
        filled = self.folder.is_file() or any(not path.name.startswith(".") for path in self.folder.glob("*"))
        if filled and not (self.folder / _STATE).exists():  # looked at again: another process may be making it
            raise ArtifactError(f"{self.folder}: not a registry (no {_STATE}) and not empty; choose another folder")
        with self._lock():
            if not (self.folder / _STATE).exists():
                self._write_aliases(None, None, None)

    def _move(self, number: int, change: str) -> Version:
        """Point champion at a version that was checked whole."""
        damage = self._damage(number)
        if damage is not None:
            raise ArtifactError(f"version {number} is damaged and stays what it is: {damage}")
        champion = self._aliases()[CHAMPION]
        if champion != number:
            note = {"time": now(), "change": change, "number": number, "from": champion}
            self._write_aliases(number, champion if change == "promote" else None, note)
        return self.version(number)

    def _damage(self, number: int) -> str | None:
        """What is wrong with a version; None where it is whole."""
        home = self._home(number)
        try:
            if content_digest(sound_manifest(home / POLICY)) != read_record(home).digest:
                return f"{home}: its policy is another one than {RECORD} says"
        except ArtifactError as error:
            return str(error)
        return None

    def _number(self, name: int | str) -> int:
        """The number that a name stands for. Nothing else ever becomes part of a path."""
        text, numbers = str(name), self._numbers()
        if text in ALIASES:
            number = self._aliases()[text]
            if number is None:
                raise ConfigError(f"{self.folder}: no version is {text} yet; promote one by its number")
            text = str(number)
        if not _NUMBER.fullmatch(text):
            raise unknown_name("version", text, [*map(str, numbers), *ALIASES])
        if int(text) not in numbers:
            listed = ", ".join(map(str, numbers)) or "none"
            raise ConfigError(f"{self.folder}: no version {text}; registered: {listed}")
        return int(text)

    def _numbers(self) -> list[int]:
        self._aliases()
        root = self.folder / "versions"
        names = [path.name for path in root.iterdir()] if root.is_dir() else []
        return sorted(int(name) for name in names if _NUMBER.fullmatch(name))

    def _records(self) -> "list[Version | ArtifactError]":
        """The record of every version, or what is wrong with it."""
        records: list[Version | ArtifactError] = []
        for number in self._numbers():
            try:
                records.append(read_record(self._home(number)))
            except ArtifactError as error:
                records.append(error)
        return records

    def _home(self, number: int) -> Path:
        return self.folder / "versions" / str(number)

    def _aliases(self) -> dict[str, Any]:
        """The checked content of aliases.json: the numbers, and the change that made them what they are."""
        path = self.folder / _STATE
        if not path.is_file():
            raise ArtifactError(f"{self.folder}: not a registry: it has no {_STATE}")
        state = read_json_of(path, _FORMAT, _FORMAT_VERSION)
        for name in ALIASES:
            number = state.get(name)
            if number is not None and (type(number) is not int or not _NUMBER.fullmatch(str(number))):
                raise ArtifactError(f"{path}: {name} is {number!r}; expected the number of a version or null")
        return {**state, **{name: state.get(name) for name in ALIASES}}

    def _write_aliases(self, champion: int | None, previous: int | None, change: dict[str, Any] | None) -> None:
        body = {"format": _FORMAT, "version": _FORMAT_VERSION, CHAMPION: champion, PREVIOUS: previous}
        write_json(self.folder / _STATE, {**body, "change": change})

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.folder / ".lock", timeout=_LOCK_SECONDS):
                yield
        except Timeout:
            raise ArtifactError(f"{self.folder}: another process is changing this registry; try again later") from None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the lock, clear what a killed writer left, and note every change in the audit."""
        with self._lock():
            for scrap in (*self.folder.glob(".*.part"), *self.folder.glob("versions/.*.part")):
                shutil.rmtree(scrap) if scrap.is_dir() else scrap.unlink()
            self._note_changes()
            yield
            self._note_changes()

    def _note_changes(self) -> None:
        """Append the audit lines that versions and aliases call for and that are not there."""
        noted = self.audit()
        registered = {line.get("number") for line in noted if line.get("change") == "register"}
        due: list[dict[str, Any]] = [
            {"time": record.registered_at, "change": "register", "number": record.number, "digest": record.digest}
            for record in self._records()
            if isinstance(record, Version) and record.number not in registered
        ]
        moved = self._aliases().get("change")
        due += [moved] if moved is not None and moved not in noted else []
        if due:
            append_lines(self.folder / _AUDIT, "".join(json.dumps(line, sort_keys=True) + "\n" for line in due))
