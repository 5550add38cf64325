"""Register versions of a policy on a file system: numbered and immutable, one of them the champion.

    aliases.json       champion, its predecessor, challenger and traffic (aliases.py); its presence makes the folder
                       a registry
    versions/N/        one version: policy/ and version.json, read-only (version_files.py)
    audit.jsonl        one line a change, in order (audit_log.py)

A version appears complete or not at all, and one rename moves the aliases, so readers see the state before or after a
change. A lock serializes writers. A change may carry a note (author, reason), which its audit line contains. A version
gets a role only after it was loaded and has answered (inference/self_test.py).

Only a version whose gate record says pass may serve. Another one serves only if an operator says so (`ungated`).
"""

import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from recpolicy.core.errors import ArtifactError, ConfigError, unknown_name_error
from recpolicy.core.files import atomic_directory
from recpolicy.inference.artifact_files import MANIFEST
from recpolicy.inference.tuned_scorer import LAYER, layer_record, served_digest
from recpolicy.registry.aliases import (
    ALIASES,
    CHALLENGER,
    NUMBER,
    STATE,
    Routing,
    State,
    checked_fraction,
    read_state,
    write_state,
)
from recpolicy.registry.artifact_kinds import check_answers, manifest_digest
from recpolicy.registry.audit_log import AUDIT, due_lines, read_audit
from recpolicy.registry.version_files import (
    POLICY,
    Version,
    append_lines,
    copy_artifact,
    find_damage,
    find_fault,
    now,
    plain,
    read_record,
    records_in,
    sound_manifest,
    write_record,
)

logger = logging.getLogger(__name__)

Note = Mapping[str, Any] | None
_LOCK_SECONDS = 60


class Registry:
    """A folder of versions; the first `register` creates it."""

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)

    def register(
        self, artifact: Path | str, *, gate: Mapping[str, Any] | None = None,
        lineage: Mapping[str, Any] | None = None, note: Note = None,
    ) -> Version:  # fmt: skip
        """Copy an artifact in as the next version; the same artifact again is the version it has already.

        A new artifact is loaded and asked for answers first. Raises ArtifactError for a damaged or foreign artifact, or
        one that cannot answer, or where the folder is something else than a registry; DataError where gate, lineage or
        note is not JSON. Nothing is left behind then.
        """
        source = Path(artifact)
        manifest = sound_manifest(source)
        layer = layer_record(manifest)
        origin = {**(lineage or manifest["metadata"]), **({} if layer is None else {LAYER: layer})}
        notes = {"gate": gate, "lineage": origin, "note": note}
        described = {name: plain(record, name) for name, record in notes.items()}
        digest = manifest_digest(source)
        known = self._find(digest)
        if known is not None:
            return known
        check_answers(source)
        self._make()
        with self._writing():
            known = self._find(digest)  # another process may have registered it meanwhile
            if known is not None:
                return known
            number = max(self._numbers(), default=0) + 1
            version = Version(
                number=number,
                digest=digest,
                agent=manifest["agent"],
                policy_digest=served_digest(manifest),
                registered_at=now(),
                **described,
            )
            with atomic_directory(self._home(number)) as home:
                copy_artifact(source, home / POLICY, (MANIFEST, *manifest["files"]))
                sound_manifest(home / POLICY)
                if manifest_digest(home / POLICY) != digest:
                    raise ArtifactError(f"{source}: changed while it was copied; register it again")
                write_record(version, home)
        return version

    def promote(self, number: int | str, *, ungated: bool = False, note: Note = None) -> Version:
        """Make a version the champion; the one before it becomes `previous`. A challenger that is promoted is none.

        Args:
            number: Number or alias of the version.
            ungated: An operator lets it serve although its gate record does not say pass.
            note: Author and reason, for the audit.

        Raises:
            ConfigError: An unknown number, or a version that passed no gate: nothing moves then.
            ArtifactError: A damaged version, or one that cannot answer: nothing moves then.
        """
        with self._changing() as state:
            chosen = self._fit(number)
            if state.champion != chosen:
                detail = self._check_gate(chosen, ungated)
                self._move(state, chosen, "promote", state.champion, note, detail)
            return self.version(chosen)

    def promote_unattended(self, number: int, *, replace: bool = False, note: Note = None) -> str:
        """Promote a version without an operator, unless that would change who serves users today.

        Args:
            number: Number of the version.
            replace: Replace the champion, too. A challenger, as in a rollout, always prevents that.
            note: Author and reason, for the audit.

        Returns:
            The reason why the version is not the champion now; empty if it is.

        Raises:
            ConfigError: An unknown number.
            ArtifactError: A damaged version, or one that cannot answer.
        """
        with self._changing() as state:
            chosen = self._fit(number)
            if state.champion == chosen:
                return ""
            if state.challenger is not None:
                return f"version {state.challenger} is the challenger, as during a rollout"
            if state.champion is not None and not replace:
                return f"version {state.champion} is the champion"
            verdict = self.version(chosen).verdict
            if verdict != "pass":
                return f"its first gate record says {verdict or 'nothing'}"
            self._move(state, chosen, "promote", state.champion, note)
            return ""

    def roll_back(self, *, note: Note = None) -> Version:
        """Take back the last step: a challenger is withdrawn, else the previous champion is the champion again.

        There is no previous one after it. Raises ConfigError where there is nothing to go back to, ArtifactError where
        that is damaged: nothing moves then.
        """
        with self._changing() as state:
            champion = state.champion
            if state.challenger is not None and champion is not None:
                detail = {"number": champion, "from": champion, "challenger": state.challenger}
                self._write(_unchallenged(state), "roll_back", detail, note)
                return self.version(champion)
            if state.previous is None:
                raise ConfigError(f"{self.folder}: no previous champion to roll back to; promote a version by number")
            self._move(state, self._fit(state.previous), "roll_back", None, note)
            return self.version(state.previous)

    def set_challenger(
        self,
        number: int | str,
        traffic_fraction: float,
        *,
        shadow: bool = False,
        ungated: bool = False,
        note: Note = None,
    ) -> Version:
        """Serve a fraction of the users by a version, in place of any other challenger; the champion serves the rest.

        Args:
            number: Number or alias of the version.
            traffic_fraction: Fraction of the users, 0..1.
            shadow: Its lists are computed and compared, but the champion serves.
            ungated: An operator lets it serve although its gate record does not say pass. A shadow needs no gate.
            note: Author and reason, for the audit.

        Raises:
            ConfigError: A fraction outside 0..1, an unknown number, the champion, a version that passed no gate, or a
                registry without a champion.
            ArtifactError: A damaged version, or one that cannot answer.
        """
        fraction = checked_fraction(traffic_fraction)
        with self._changing() as state:
            chosen = self._fit(number)
            if state.champion in (None, chosen):
                why = "there is no champion to challenge" if state.champion is None else "it is the champion"
                raise ConfigError(f"{self.folder}: version {chosen} cannot challenge: {why}")
            new = replace(state, challenger=chosen, traffic_fraction=fraction, shadow=shadow)
            if new != state:
                detail = {"number": chosen, "from": state.challenger, "traffic_fraction": fraction, "shadow": shadow}
                serves_already = state.challenger == chosen and not state.shadow
                if not (shadow or serves_already):
                    detail |= self._check_gate(chosen, ungated)
                self._write(new, "set_challenger", detail, note)
            return self.version(chosen)

    def clear_challenger(self, *, note: Note = None) -> None:
        """Remove the challenger: the champion serves all users. Without a challenger, nothing changes."""
        with self._changing() as state:
            if state.challenger is not None:
                self._write(_unchallenged(state), "clear_challenger", {"number": state.challenger}, note)

    def set_traffic_fraction(self, traffic_fraction: float, *, note: Note = None) -> None:
        """Change the challenger's traffic fraction; raises ConfigError outside 0..1 or without a challenger."""
        fraction = checked_fraction(traffic_fraction)
        with self._changing() as state:
            if state.challenger is None:
                raise ConfigError(f"{self.folder}: there is no challenger whose traffic could change; name one first")
            if state.traffic_fraction != fraction:
                detail = {"number": state.challenger, "traffic_fraction": fraction, "from": state.traffic_fraction}
                self._write(replace(state, traffic_fraction=fraction), "set_traffic_fraction", detail, note)

    def pause_exploration(self, *, note: Note = None) -> None:
        """Stop exploration in every process that serves this registry."""
        self._explore(False, "pause_exploration", note)

    def resume_exploration(self, *, note: Note = None) -> None:
        """Let slates be drawn at random again."""
        self._explore(True, "resume_exploration", note)

    def routing(self) -> Routing:
        """Return the current routing; reads one small file."""
        return read_state(self.folder).routing()

    def resolve(self, name: int | str) -> Path:
        """Return the artifact folder of a number or alias; raises ConfigError for anything else."""
        return self._home(self._number(name)) / POLICY

    def version(self, name: int | str) -> Version:
        """Return the record of a number or alias; raises ArtifactError for a damaged record."""
        return read_record(self._home(self._number(name)))

    def versions(self) -> list[Version]:
        """Return all versions, oldest first; one with an unreadable record is skipped with a warning."""
        records = []
        for record in self._records():
            if isinstance(record, Version):
                records.append(record)
            else:
                logger.warning("the registry ignores a damaged version: %s", record)
        return records

    def aliases(self) -> dict[str, int | None]:
        """Return the version number of each alias, or None."""
        return read_state(self.folder).aliases()

    def audit(self) -> list[dict[str, Any]]:
        """Return all changes in order; an incomplete last line is ignored."""
        return read_audit(self.folder)

    def create(self) -> None:
        """Make an empty registry unless the folder is one; raises ArtifactError for a folder with other files."""
        self._make()

    def _make(self) -> None:
        """Make the registry unless it is there; a folder with anything else in it is not turned into one."""
        if (self.folder / STATE).exists():
            return
        filled = self.folder.is_file() or any(not path.name.startswith(".") for path in self.folder.glob("*"))
        if filled and not (self.folder / STATE).exists():  # looked at again: another process may be making it
            raise ArtifactError(f"{self.folder}: not a registry (no {STATE}) and not empty; choose another folder")
        with self._lock():
            if not (self.folder / STATE).exists():
                write_state(self.folder, State())

    def _check_gate(self, number: int, ungated: bool) -> dict[str, Any]:
        """Return the detail of the audit line; raise ConfigError for a version that may not serve."""
        verdict = self.version(number).verdict
        if verdict == "pass":
            return {}
        if not ungated:
            record = "has no gate record" if verdict is None else f"has a gate record that says {verdict}"
            raise ConfigError(
                f"{self.folder}: version {number} {record}; only a version that passed its gate serves. Gate it first,"
                " or let it serve all the same with ungated (--ungated)"
            )
        return {"ungated": True}

    def _move(
        self, state: State, champion: int, change: str, previous: int | None, note: Note,
        detail: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Make a verified version the champion."""
        if champion == state.challenger:
            state = _unchallenged(state)
        move = {"number": champion, "from": state.champion, **(detail or {})}
        self._write(replace(state, champion=champion, previous=previous), change, move, note)

    def _explore(self, exploration: bool, change: str, note: Note) -> None:
        with self._changing() as state:
            if state.exploration != exploration:
                self._write(replace(state, exploration=exploration), change, {}, note)

    def _write(self, state: State, change: str, detail: dict[str, Any], note: Note) -> None:
        """Write the state with the change that made it."""
        line = {"time": now(), "change": change, **detail, **({} if note is None else {"note": plain(note, "note")})}
        write_state(self.folder, replace(state, change=line))

    def _find(self, digest: str) -> Version | None:
        """Return the sound version with a digest; None without one, or before there is a registry."""
        records = self._records() if (self.folder / STATE).is_file() else []
        same = (record for record in records if isinstance(record, Version) and record.digest == digest)
        return next((version for version in same if find_damage(self._home(version.number)) is None), None)

    def _fit(self, name: int | str) -> int:
        """Return the number of a version after a check of all its files, and of its answers."""
        number = self._number(name)
        fault = find_fault(self._home(number))
        if fault is not None:
            raise ArtifactError(f"version {number} {fault}")
        return number

    def _number(self, name: int | str) -> int:
        """Return the version number of a name; only this number becomes part of a path."""
        text, numbers = str(name), self._numbers()
        if text in ALIASES:
            number = self.aliases()[text]
            if number is None:
                how = "promote" if text != CHALLENGER else "set"
                raise ConfigError(f"{self.folder}: no version has the alias {text}; {how} one by its number")
            text = str(number)
        if not NUMBER.fullmatch(text):
            raise unknown_name_error("version", text, [*map(str, numbers), *ALIASES])
        if int(text) not in numbers:
            listed = ", ".join(map(str, numbers)) or "none"
            raise ConfigError(f"{self.folder}: no version {text}; registered: {listed}")
        return int(text)

    def _numbers(self) -> list[int]:
        read_state(self.folder)
        root = self.folder / "versions"
        names = [path.name for path in root.iterdir()] if root.is_dir() else []
        return sorted(int(name) for name in names if NUMBER.fullmatch(name))

    def _records(self) -> list[Version | ArtifactError]:
        """Return the record of every version, or its fault."""
        return records_in(map(self._home, self._numbers()))

    def _home(self, number: int) -> Path:
        return self.folder / "versions" / str(number)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.folder / ".lock", timeout=_LOCK_SECONDS):
                yield
        except Timeout:
            raise ArtifactError(f"{self.folder}: another process is changing this registry; try again later") from None

    @contextmanager
    def _changing(self) -> Iterator[State]:
        """Hold the registry, which must be there, for a change of its state."""
        read_state(self.folder)
        with self._writing():
            yield read_state(self.folder)

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
        """Append the missing audit lines that versions and aliases imply."""
        versions = [record for record in self._records() if isinstance(record, Version)]
        lines = due_lines(self.folder, versions, read_state(self.folder).change)
        if lines:
            append_lines(self.folder / AUDIT, lines)


def _unchallenged(state: State) -> State:
    return replace(state, challenger=None, traffic_fraction=0.0, shadow=False)
