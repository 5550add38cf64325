"""The validation card of the session simulator in a state folder.

`recpolicy simulator validate --out STATE/simulator` writes it.
"""

import json
from pathlib import Path
from typing import Any

from recpolicy.core.files import rename_keys

CARD = Path("simulator", "card.json")
MAX_BYTES = 4 << 20
FIELDS = ("world", "split", "seed", "passed", "gates", "counts", "figures")
"""Fields that the console shows; curves and settings stay in the file."""


def read_card(folder: Path | None) -> dict[str, Any] | None:
    """Return the card in a state folder; None without a valid one."""
    if folder is None:
        return None
    path = folder / CARD
    try:
        if path.stat().st_size > MAX_BYTES:
            return None
        body = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except (OSError, ValueError):
        return None
    if not isinstance(body, dict) or not isinstance(body.get("gates"), dict):
        return None
    body["gates"] = {name: rename_keys(gate, {"figure": "value"}) for name, gate in body["gates"].items()}
    return {name: body[name] for name in FIELDS if name in body}
