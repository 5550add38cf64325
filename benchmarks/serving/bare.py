"""The least that a server in Python does: an ASGI app that reads a body, parses its JSON and answers fixed bytes.

It runs on the same uvicorn, with uvloop and httptools, as `recpolicy serve`. It neither recommends nor stores anything.

    python bare.py BYTES PORT
"""

import json
import sys
from typing import Any

import uvicorn


def make_app(length: int) -> Any:
    body = b"[" + b"0" * (length - 2) + b"]"
    start = {
        "type": "http.response.start",
        "status": 200,
        "headers": [(b"content-length", str(length).encode()), (b"content-type", b"application/json")],
    }
    end = {"type": "http.response.body", "body": body}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (event := (await receive())["type"]) != "lifespan.shutdown":
                await send({"type": f"{event}.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        pieces, more = [], True
        while more:
            message = await receive()
            pieces.append(message["body"])
            more = message.get("more_body", False)
        if scope["method"] == "POST":
            json.loads(b"".join(pieces))
        await send(start)
        await send(end)

    return app


if __name__ == "__main__":
    length, port = map(int, sys.argv[1:])
    uvicorn.run(make_app(length), host="127.0.0.1", port=port, log_config=None, access_log=False, server_header=False)
