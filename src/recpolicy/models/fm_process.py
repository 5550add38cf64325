"""Fit the Gaussian factorization machine in a second process, while this one fits the ordered probit.

`myfm` holds Python's global lock while it sweeps, so threads would take turns. The child runs this module by
`python -m`; arrays travel as .npz files, without pickle. Small tables are fitted in this process: starting another one
takes longer. So they are if the child fails.
"""

import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from recpolicy.core.arrays import read_arrays
from recpolicy.models.fm_features import FeatureGroups
from recpolicy.models.fm_gibbs import Chain, Design, Posterior, fit_gaussian

logger = logging.getLogger(__name__)

_SMALL = 20_000 * 100
"""Ratings times sweeps below which one process fits both models."""
_SOURCES = Path(__file__).parents[2]
_INPUT, _SETTINGS, _OUTPUT = "input.npz", "settings.json", "output.npz"


@contextmanager
def gaussian_alongside(design: Design, chain: Chain, scale: tuple[float, float]) -> Iterator[Callable[[], Posterior]]:
    """Start fitting the Gaussian model; yield a function that waits for the result. It ends with the block."""

    def fit_here() -> Posterior:
        return fit_gaussian(design, chain, scale)

    if len(design.rating) * chain.sweeps < _SMALL or not sys.executable:
        yield fit_here
        return
    with tempfile.TemporaryDirectory(prefix="recpolicy-") as name:
        folder = Path(name)
        _write(design, chain, scale, folder)
        path = os.pathsep.join(part for part in (str(_SOURCES), os.environ.get("PYTHONPATH")) if part)
        child = subprocess.Popen(
            [sys.executable, "-m", __name__, str(folder)],
            env={**os.environ, "PYTHONPATH": path}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )  # fmt: skip

        def wait() -> Posterior:
            _, error = child.communicate()
            if child.returncode == 0:
                return _read_result(folder)
            lines = error.decode(errors="replace").strip().splitlines()[-1:]
            logger.warning("the second process of the rating model failed (%s): fitting here", "".join(lines))
            return fit_here()

        try:
            yield wait
        finally:
            if child.poll() is None:
                child.kill()
                child.communicate()


def _write(design: Design, chain: Chain, scale: tuple[float, float], folder: Path) -> None:
    arrays: dict[str, Any] = {"user": design.user, "item": design.item, "rating": design.rating}
    for side, groups in (("users", design.users), ("items", design.items)):
        matrix = groups.matrix
        parts = {"data": matrix.data, "indices": matrix.indices, "indptr": matrix.indptr, "shape": matrix.shape}
        arrays |= {f"{side}_{key}": np.asarray(value) for key, value in parts.items()}
        arrays[f"{side}_sizes"] = np.array(groups.sizes)
    np.savez(folder / _INPUT, **arrays)
    (folder / _SETTINGS).write_text(json.dumps({"chain": asdict(chain), "scale": scale}), encoding="utf-8")


def _read(folder: Path) -> tuple[Design, Chain, tuple[float, float]]:
    from scipy import sparse

    arrays = read_arrays(folder / _INPUT)

    def groups(side: str) -> FeatureGroups:
        csr = tuple(arrays[f"{side}_{key}"] for key in ("data", "indices", "indptr"))
        matrix = sparse.csr_matrix(csr, shape=tuple(arrays[f"{side}_shape"].tolist()))
        sizes = tuple(arrays[f"{side}_sizes"].tolist())
        return FeatureGroups(matrix, tuple(f"group {index}" for index in range(len(sizes))), sizes)

    settings = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
    design = Design(arrays["user"], arrays["item"], arrays["rating"], groups("users"), groups("items"))
    low, high = settings["scale"]
    return design, Chain(**settings["chain"]), (low, high)


def _read_result(folder: Path) -> Posterior:
    arrays = read_arrays(folder / _OUTPUT)
    return Posterior(arrays["mean"], arrays["std"], float(arrays["noise_std"]))


def main(folder: Path) -> None:
    """Fit the model whose input is in the folder, and write the result there."""
    fitted = fit_gaussian(*_read(folder))
    np.savez(folder / _OUTPUT, mean=fitted.mean, std=fitted.std, noise_std=np.array(fitted.noise_std))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
