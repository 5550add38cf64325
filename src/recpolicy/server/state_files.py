"""Modes of the files of a server: they contain user ids and histories, so only their owner may read them.

New files are private because `recpolicy serve` sets the umask and the state folder is private. This module also closes
the files of earlier starts. A registry that the operator names keeps its modes: other programs may read it.
"""

import logging
import stat
from collections.abc import Iterator
from pathlib import Path

from recpolicy.server.state_lock import LOCK, MARKER

logger = logging.getLogger(__name__)

DATABASE = "server.db"
_PARTS = (LOCK, MARKER, "jobs", "spool", "online", "online_ranks", "simulator", "registry", "exports", "lost+found")
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def make_private(folder: Path, registry: Path) -> int:
    """Close a state folder and the server's files in it to other users; return how many were open, versions aside.

    A folder with other files than the server's keeps its mode, and so do these files.

    Args:
        folder: The state folder.
        registry: The registry that the server serves; closed only if it is a part of the state folder.
    """
    everything = list(folder.iterdir())
    own = [path for path in everything if path.name.startswith(DATABASE) or path.name in _PARTS]
    alone = len(own) == len(everything) and folder.resolve() != registry.resolve()
    opened = 0
    try:
        for path in ([folder] if alone else []) + [each for part in own for each in _walk(part)]:
            mode = path.lstat().st_mode
            if not stat.S_ISLNK(mode) and mode & _OTHERS:
                path.chmod(stat.S_IMODE(mode) & ~_OTHERS)
                opened += "registry" not in path.relative_to(folder).parts
    except OSError as error:
        logger.warning("%s: other users may read files of this server: %s", folder, error.strerror)
    if opened:
        logger.warning("%s: other users could open %d files or folders of this server; now they cannot", folder, opened)
    return opened


def _walk(path: Path) -> Iterator[Path]:
    """Yield a file, or a folder and everything in it, without following links."""
    yield path
    if path.is_dir() and not path.is_symlink():
        for child in path.iterdir():
            yield from _walk(child)
