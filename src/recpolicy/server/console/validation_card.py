"""The validation card of the session simulator, where one lies beside the server's files.

`recpolicy simulator validate --out STATE/simulator` writes it there.
"""

import json
from pathlib import Path
from typing import Any

from recpolicy.core.files import rename_keys

CARD = Path("simulator", "card.json")
MOST_BYTES = 4 << 20
SHOWN = ("world", "split", "seed", "passed", "gates", "counts", "figures")
"""What is shown of a card: curves and settings stay in the file."""


def read_card(folder: Path | None) -> dict[str, Any] | None:
    """The card in a state folder; None where there is none, or it cannot be read as one."""
    if folder is None:
        return None
    path = folder / CARD
    try:
        if path.stat().st_size > MOST_BYTES:
            return None
        body = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except (OSError, ValueError):
        return None
    if not isinstance(body, dict) or not isinstance(body.get("gates"), dict):
        return None
    body["gates"] = {name: rename_keys(gate, {"figure": "value"}) for name, gate in body["gates"].items()}
    return {name: body[name] for name in SHOWN if name in body}
