"""Responses in JSON: non-finite numbers become null, and no model validates the rows again."""

import json
from typing import Any

from fastapi import Response

_ENCODE = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode
_ROWS_AT_ONCE = 1_000


def json_response(body: Any, status: int = 200) -> Response:
    """Return the body as JSON."""
    return Response(_ENCODE(body), status, media_type="application/json")


def rows_response(rows: list[dict[str, Any]]) -> Response:
    """Return {"rows": [...]}, encoded in pieces, because the encoder blocks all other threads while it works."""
    pieces = [_ENCODE(rows[start : start + _ROWS_AT_ONCE])[1:-1] for start in range(0, len(rows), _ROWS_AT_ONCE)]
    return Response('{"rows":[' + ",".join(pieces) + "]}", media_type="application/json")
