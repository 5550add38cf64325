"""The study `recomind`: reinforcement learning that starts from the production ranker, after Ben Ayed et al. 2025.

The policies of ROWS learn, if they learn, in the training world. All are evaluated in the evaluation world, where they
meet the same users and random numbers. A cell is one policy in one setting of the simulator with one seed. Each cell is
a file that appears complete, so a study that was killed continues where it stopped.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from recpolicy.core.config import as_dict
from recpolicy.core.errors import ArtifactError, ConfigError, DataError, unknown_name_error
from recpolicy.core.files import read_versioned_json, write_json
from recpolicy.core.optional_deps import require_extra
from recpolicy.core.progress import progress
from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.data.splits import Split
from recpolicy.workflows.recomind_cells import (
    CONTROL_ROWS,
    MAIN,
    ROWS,
    WORLDS,
    Cell,
    Key,
    Played,
    RecoMindConfig,
    RecoMindStudy,
    Trained,
)
from recpolicy.workflows.study_folder import open_study

STUDY_FORMAT, CELL_FORMAT, VERSION = "recpolicy study recomind", "recpolicy study recomind cell", 1
CELLS = "cells"


def run_recomind(
    split: Split,
    out: Path,
    config: RecoMindConfig | None = None,
    *,
    rows: Sequence[str] | None = None,
    controls: bool = True,
    ranker: Path | None = None,
    show_progress: bool | None = None,
) -> RecoMindStudy:
    """Run the study, or what an earlier run in the same folder has left of it.

    Args:
        split: The ratings, with timestamps; policies see the train part only.
        out: The folder of the study.
        config: The settings.
        rows: Names in ROWS; None takes all.
        controls: Run the control worlds, too.
        ranker: Folder of the production policy, or of a registry: then its champion. None is the rating model.
        show_progress: Show a progress bar; None shows it on a terminal, and lines elsewhere.

    Returns:
        The settings and all cells.

    Raises:
        ConfigError: A row is unknown, K is larger than the catalog, or the ranker does not fit.
        ArtifactError: The ranker is missing or damaged, or the folder holds another study, or a damaged cell.
        DataError: The ratings have no timestamps, or the ranker was trained on other ratings.
    """
    config = config or RecoMindConfig()
    wanted = check_rows(rows)
    require_extra("train", "the study")
    silence_libraries()
    from recpolicy.workflows.recomind_ranker import read_ranker
    from recpolicy.workflows.recomind_rows import Setting, make_cells, study_features

    features = study_features(split, config)
    start = read_ranker(ranker, split, features)
    if config.exploration_top_k > len(features.action_items):
        raise ConfigError(
            f"exploration_top_k is {config.exploration_top_k}; the catalog has {len(features.action_items)} items:"
            " choose fewer"
        )
    facts = {"data": split.train.name, "split": split.name, "train": split.train.digest, "ranker": start.name}
    settings = {name: value for name, value in as_dict(config).items() if name != "seeds"} | facts
    open_study(out, STUDY_FORMAT, VERSION, settings)
    (out / CELLS).mkdir(exist_ok=True)
    keys = list(_keys(wanted, config.seeds, controls))
    cells = {key: cell for key in keys if (cell := _read(out, key)) is not None}
    cost = {key: 2 * config.episodes + (config.total_timesteps if ROWS[key[1]].start else 0) for key in keys}
    with progress(
        "study recomind", sum(cost.values()), unit="sessions and steps", done=sum(cost[key] for key in cells),
        show=show_progress,
    ) as shown:  # fmt: skip
        for world in WORLDS:
            missing = [key for key in keys if key[0] == world and key not in cells]
            if not missing:
                continue
            setting = Setting(split, features, start, config, WORLDS[world])
            for key, cell in make_cells(setting, missing):
                write_json(_path(out, key), {"format": CELL_FORMAT, "version": VERSION, **asdict(cell)})
                cells[key] = cell
                shown.advance(cost[key], f"{key[0]} {key[1]} seed {key[2]}")
    return RecoMindStudy(config, facts, cells)


def check_rows(rows: Sequence[str] | None) -> list[str]:
    """Return the rows to run, in the order of ROWS; None is all. Raise ConfigError for an unknown one."""
    for name in rows or ():
        if name not in ROWS:
            raise unknown_name_error("row", name, ROWS)
    return [name for name in ROWS if rows is None or name in rows]


def _keys(rows: Sequence[str], seeds: int, controls: bool) -> Iterator[Key]:
    """Yield the cells of a study; seeds of a row follow each other, because they share a compiled program."""
    for world in WORLDS:
        if world != MAIN and not controls:
            continue
        for row in rows:
            if world == MAIN or row in CONTROL_ROWS:
                yield from ((world, row, seed) for seed in range(seeds))


def _path(out: Path, key: Key) -> Path:
    return out / CELLS / f"{key[0]}.{key[1]}.{key[2]}.json"


def _read(out: Path, key: Key) -> Cell | None:
    """Return a cell that an earlier run has written, or None."""
    path = _path(out, key)
    if not path.exists():
        return None
    try:
        body = read_versioned_json(path, CELL_FORMAT, VERSION)
        training = body["training"]
        cell = Cell(
            Played(**body["evaluation"]),
            Played(**body["training_world"]),
            None if training is None else Trained(**training),
        )
    except (ArtifactError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: not a complete cell ({error}); delete it and run the study again") from None
    if not math.isfinite(cell.evaluation.likes):
        raise DataError(f"{path}: its likes are not finite; delete it and run the study again")
    return cell
