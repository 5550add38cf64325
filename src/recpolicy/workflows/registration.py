"""A policy that passed its gate is kept, and goes into a registry where there is one; the next one begins with it."""

import shutil
from pathlib import Path
from typing import Any

from recpolicy.core.errors import ArtifactError, ConfigError
from recpolicy.core.files import atomic_directory
from recpolicy.inference.artifact import read_manifest, verify
from recpolicy.registry.aliases import CHAMPION
from recpolicy.registry.model_registry import Registry
from recpolicy.workflows.gate_record import read_gate

NO_INCUMBENT = "incumbent and registry are both empty: name the policy in service, or the registry whose champion it is"


def incumbent_of(incumbent: str, registry: str) -> Path:
    """The artifact of the policy in service: `incumbent`, a path, or where that is empty the champion of `registry`.

    Raises ConfigError where both are empty or the registry has no champion, ArtifactError for a folder that is no
    registry, and for a policy that is not there or damaged.
    """
    if incumbent.strip():
        policy = Path(incumbent)
    elif registry.strip():
        try:
            policy = Registry(registry).resolve(CHAMPION)
        except (ArtifactError, ConfigError) as error:
            raise type(error)(f"no incumbent in the registry: {error}") from None
    else:
        raise ConfigError(NO_INCUMBENT)
    verify(policy)
    return policy


def register(policy: Path, record: Path, registered: Path, registry: str = "") -> dict[str, Any]:
    """Copy the policy to `registered` and, where a registry folder is named, make it the champion there.

    Raises ArtifactError for a damaged policy, and for a gate record that is of another policy or does not say pass.
    """
    verify(policy)
    metadata = read_manifest(policy)["metadata"]
    gate = read_gate(record)
    if gate["verdict"] != "pass":
        raise ArtifactError(f"{record}: the gate says {gate['verdict']}; only a policy that passed is registered")
    if gate["policy"]["content"] != metadata["content"]:
        raise ArtifactError(f"{record}: of another policy ({gate['policy']['content'][:12]}); gate this one first")
    with atomic_directory(registered) as folder:
        shutil.copytree(policy, folder, dirs_exist_ok=True)
    figures = {"verdict": gate["verdict"], "content": metadata["content"], "version": 0}
    if registry:
        store = Registry(Path(registry))
        lineage = {"data": metadata["data"], "split": metadata["split"], "parents": metadata.get("parents", [])}
        version = store.register(policy, gate=gate, lineage=lineage)
        store.promote(version.number)
        figures["version"] = version.number
    return figures
