"""A policy under a tuned layer, in one artifact: the policy's own files, the layer in a folder, and one manifest.

    recpolicy.json     the manifest of the policy, with the digests of all files and the key `layer`
    layer/             the tuned layer (tuned_layer.py)
    all other files    those of the policy

A reader that does not know the key reads the policy. n users, A arms.
"""

import json
import logging
import math
import shutil
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from recpolicy.core.errors import ArtifactError
from recpolicy.core.files import atomic_directory, content_digest, file_digest, write_json
from recpolicy.inference.action_distributions import greedy
from recpolicy.inference.artifact import read_manifest
from recpolicy.inference.artifact_files import MANIFEST, artifact_errors, check_digests
from recpolicy.inference.block_prediction import BatchPrediction, UserInput, WeightChoice
from recpolicy.inference.scorer import CACHE_BYTES, Array, Block, FoldIn, Learned, Scorer
from recpolicy.inference.tuned_layer import ARRAYS, TunedLayer, read_tuned_layer, write_tuned_layer
from recpolicy.inference.tuned_layer import LAYER as LAYER_FILE

logger = logging.getLogger(__name__)

LAYER = "layer"
"""Folder of the layer, and its key in the manifest."""
BASE = "base_policy"
"""Key of the digest of the policy below the layer."""
PAUSE_SECONDS = 30.0


def write_tuned_policy(
    base: Path, layer: TunedLayer, out: Path, texts: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Write a policy and its layer as one artifact, whole or not at all.

    Args:
        base: The artifact of the policy. A layer that it has is replaced.
        layer: The layer.
        out: The folder to write.
        texts: Further files of text in the folder of the layer, by name.

    Raises:
        ArtifactError: `base` is damaged, or the layer was tuned for another policy.
    """
    manifest = read_manifest(base)
    files = {name: digest for name, digest in manifest["files"].items() if not name.startswith(f"{LAYER}/")}
    digest = manifest["metadata"]["policy_digest"]
    if layer.base_policy != digest:
        raise ArtifactError(f"{base}: policy {digest[:12]}; the layer was tuned for {layer.base_policy[:12]}")
    check_digests(base, manifest, files)
    body = json.loads((base / MANIFEST).read_text(encoding="utf-8"))
    with atomic_directory(out) as folder:
        for name in files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(base / name, folder / name)
        write_tuned_layer(layer, folder / LAYER, texts)
        added = {f"{LAYER}/{path.name}": file_digest(path) for path in sorted((folder / LAYER).iterdir())}
        gates = layer.metadata.get("gates")
        described = {BASE: digest, "digest": layer.digest, **({} if gates is None else {"gates": gates})}
        write_json(folder / MANIFEST, {**body, "files": {**files, **added}, LAYER: described})


def layer_record(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what a manifest says of its tuned layer; None without one. Raise ArtifactError for another content."""
    described = manifest.get(LAYER)
    if described is None:
        return None
    if not isinstance(described, dict) or not all(isinstance(described.get(key), str) for key in (BASE, "digest")):
        raise ArtifactError(f"{MANIFEST}: {LAYER} does not name a policy and a digest: copy or tune it again")
    if described[BASE] != manifest["metadata"].get("policy_digest"):
        raise ArtifactError(f"{MANIFEST}: the layer was tuned for policy {described[BASE][:12]}, not this one")
    return described


def served_digest(manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 of everything that determines the actions: the policy, and its layer if it has one."""
    described, digest = layer_record(manifest), str(manifest["metadata"]["policy_digest"])
    return digest if described is None else content_digest(digest, described["digest"])


def with_layer(base: Scorer, folder: Path) -> Scorer:
    """Return the policy under the layer of its artifact; the policy itself if there is none.

    Raises:
        ArtifactError: The layer is damaged, or belongs to another policy.
    """
    with artifact_errors(folder):
        manifest = read_manifest(folder)
        described = layer_record(manifest)
        if described is None:
            return base
        check_digests(folder, manifest, (f"{LAYER}/{LAYER_FILE}", f"{LAYER}/{ARRAYS}"))
        if base.sequential:
            raise ArtifactError("a session policy has no tuned layer: copy or tune it again")
        layer = read_tuned_layer(folder / LAYER, base)
        if layer.digest != described["digest"]:
            raise ArtifactError(f"{LAYER}: another layer than the manifest names: copy or tune it again")
        return TunedScorer(base, layer, served_digest(manifest))


class TunedScorer(Scorer):
    """A policy whose items a tuned layer ranks; ratings and values are those of the policy.

    The static weights rank where the layer fails, or was too slow a moment ago. The policy's own score ranks where
    heads are missing. All of these are marked as fallbacks.
    """

    def __init__(self, base: Scorer, layer: TunedLayer, digest: str, cache_bytes: int = CACHE_BYTES):
        super().__init__(base.artifact, cache_bytes)
        self._base, self.layer = base, layer
        self.metadata = {**base.metadata, "policy_digest": digest, BASE: base.metadata["policy_digest"]}
        self.max_seconds = math.inf
        """Time for the weights of one block of users, after which the static weights serve for a while; a server sets
        it."""
        self._paused_until = 0.0
        self._slow = False

    @property
    def tuned(self) -> bool:
        """True if a tuned layer ranks the items."""
        return True

    @property
    def base(self) -> Scorer:
        """The policy without its layer."""
        return self._base

    def weights(self, choice: WeightChoice) -> dict[str, float]:
        """Return the weights of one user by head; the policy's own score has weight 1."""
        grid = self.layer.policy.grid
        return dict(zip(grid.names, grid.weights(int(choice.action[0])).tolist(), strict=True))

    def prepare(self) -> None:
        """Compute now what the first requests would wait for."""
        super().prepare()
        self._base.prepare()
        next(self.score_batches(self.user_ids[:1]))
        self._paused_until, self._slow = 0.0, False  # the first look-up takes longer than all others

    def with_policy(self, policy: Mapping[str, Array], metadata: Mapping[str, Any]) -> "Scorer":
        """Return a scorer with other arrays of the policy below the layer."""
        other = super().with_policy(policy, metadata)
        assert isinstance(other, TunedScorer)
        other._base = self._base.with_policy(policy, metadata)
        other.metadata = {**other.metadata, BASE: self.metadata[BASE]}
        return other

    def rank(
        self, block: Block, users: Sequence[Hashable], inputs: UserInput, fold_in: FoldIn | None = None,
        learned: Learned | None = None, allowed: Array | None = None,
    ) -> Block:  # fmt: skip
        """Return a block whose scores are the utility under the weights of each user, with the probabilities of it."""
        rated = [self.rated(user, fold_in, learned) for user in users]
        score, choice = self.layer.rank(block, users, inputs.context, rated, self._weights)
        if isinstance(block, BatchPrediction):
            probability = np.zeros(block.probability.shape)
            probability[:, self.action_items] = greedy(score, allowed)
            block = replace(block, probability=probability)  # type: ignore[call-arg]
        return replace(block, score=score, choice=choice)

    def _weights(self, context: Array, count: Array) -> Array | None:
        """Return the grid points [n] of the layer; None if it fails or is paused."""
        start = time.monotonic()
        if start < self._paused_until:
            return None
        try:
            action = self.layer.actions(context, count)
        except Exception:  # a layer that fails must not take the recommendations with it
            logger.exception("the tuned layer failed; the static weights serve")
            return None
        taken = time.monotonic() - start
        if taken <= self.max_seconds:
            self._slow = False
            return action
        if self._slow:  # twice in a row: no accident of the machine
            self._paused_until = start + taken + PAUSE_SECONDS
            logger.error(
                "the tuned layer took %.0f ms, more than %.0f ms; the static weights serve for %.0f s", 1e3 * taken,
                1e3 * self.max_seconds, PAUSE_SECONDS,
            )  # fmt: skip
        self._slow = not self._slow
        return None
