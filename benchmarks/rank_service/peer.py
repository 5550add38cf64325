"""A server of ranks over Vowpal Wabbit: FastAPI and uvicorn, one process, SquareCB, context times action.

    PYTHON peer.py [--body vw | own | none] [--log FILE] [--learns] [--arguments "-l 1 ..."]

It prints its URL. PYTHON has `vowpalwabbit`, `fastapi` and `uvicorn[standard]`; recpolicy is not needed.

`--body vw`: a request is VW's own JSON, which VW's parser in C++ reads; Python does not look into it. This is the
fastest server that we found. `--body own`: a request is that of recpolicy, checked by a pydantic model, and written as
VW's text, as an application server would do it. `--body none`: the body is read and nothing else. With `--log`, the
answer follows a write to this file that reaches the disk; requests that arrive meanwhile share the next write. POST
/reward learns at once, POST /rank never learns.
"""

import argparse
import asyncio
import os
import queue
import secrets
import socket
import threading
from typing import Annotated, Any

import uvicorn
import vowpalwabbit
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, Field
from pydantic_core import to_json

Number = Annotated[float, Field(allow_inf_nan=False)]
BASE = "--cb_explore_adf --squarecb -q ca -b 18 --quiet"


class Action(BaseModel):
    """An action with its features."""

    id: str
    features: dict[str, Number]


class Rank(BaseModel):
    """A request to rank."""

    context: dict[str, Number]
    actions: list[Action]


class Reward(BaseModel):
    """The reward of an event."""

    event_id: str
    value: Number


class Log:
    """A file to which a thread appends; a record counts once it is on disk."""

    def __init__(self, path: str):
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._queue: queue.SimpleQueue[tuple[bytes, asyncio.Future[None]]] = queue.SimpleQueue()
        threading.Thread(target=self._work, daemon=True).start()

    async def append(self, record: bytes) -> None:
        """Append a record; return once it is on disk."""
        done = asyncio.get_running_loop().create_future()
        self._queue.put((record, done))
        await done

    def _work(self) -> None:
        while True:
            group = [self._queue.get()]
            while not self._queue.empty():
                group.append(self._queue.get())
            os.writev(self._file, [record for record, _ in group])
            os.fdatasync(self._file)
            futures = [done for _, done in group]
            futures[0].get_loop().call_soon_threadsafe(
                lambda futures=futures: [done.set_result(None) for done in futures]
            )


def _finish(futures: list[asyncio.Future[None]]) -> None:
    for done in futures:
        done.set_result(None)


def text_of(request: Rank) -> list[str]:
    """Return the example in VW's text format: a line for the context and one for each action."""

    def features(values: dict[str, float]) -> str:
        return " ".join(f"{name}:{value}" for name, value in values.items())

    return [
        f"shared |c {features(request.context)}",
        *(f"|a {features(action.features)}" for action in request.actions),
    ]


def make_app(body: str, arguments: str, log: Log | None) -> FastAPI:
    """Return the server."""
    app = FastAPI()
    model = vowpalwabbit.Workspace(f"{BASE} {arguments} {'--json' if body == 'vw' else ''}")
    events: dict[str, tuple[Any, int, float]] = {}

    async def answer(example: Any, raw: str, ids: list[Any] | None) -> Response:
        parsed = model.parse(raw)
        probabilities = model.predict(parsed)
        model.finish_example(parsed)
        chosen, rest = 0, secrets.randbelow(1 << 53) / (1 << 53) * sum(probabilities)
        while chosen < len(probabilities) - 1 and rest >= probabilities[chosen]:
            rest -= probabilities[chosen]
            chosen += 1
        order = sorted(range(len(probabilities)), key=lambda at: (at != chosen, -probabilities[at]))
        names = ids or range(len(probabilities))
        event_id = secrets.token_hex(12)
        result = to_json({
            "event_id": event_id, "action": names[chosen],
            "ranking": [{"id": names[at], "probability": probabilities[at]} for at in order],
        })  # fmt: skip
        if log is not None:
            await log.append(b"".join([event_id.encode(), raw.encode(), result, b"\n"]))
        if app.state.learns:
            events[event_id] = example, chosen, probabilities[chosen]
        return Response(result, media_type="application/json")

    if body == "none":

        @app.post("/rank")
        async def read_only(request: Request) -> Response:
            await request.body()
            return Response(b'{"status": "read"}', media_type="application/json")

    elif body == "vw":

        @app.post("/rank")
        async def rank(request: Request) -> Response:
            raw = (await request.body()).decode()
            return await answer(raw, raw, None)

    else:

        @app.post("/rank")
        async def rank_own(request: Rank) -> Response:
            lines = text_of(request)
            return await answer(lines, "\n".join(lines), [action.id for action in request.actions])

    @app.post("/reward")
    async def reward(request: Reward) -> dict[str, str]:
        example, chosen, probability = events.pop(request.event_id)
        if body == "vw":
            label = f'{{"_label_cost":{-request.value},"_label_probability":{probability},"_labelIndex":{chosen},'
            raw = label + example[1:]
        else:
            lines = [*example]
            lines[1 + chosen] = f"0:{-request.value}:{probability} {lines[1 + chosen]}"
            raw = "\n".join(lines)
        if log is not None:
            await log.append(f"{request.event_id} {request.value}\n".encode())
        parsed = model.parse(raw)
        model.learn(parsed)
        model.finish_example(parsed)
        return {"status": "accepted"}

    return app


def main() -> None:
    """Serve on a free port."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--body", choices=("vw", "own", "none"), default="vw", help="form of the requests")
    parser.add_argument("--log", help="file of events; without it nothing is stored")
    parser.add_argument("--arguments", default="", help="further arguments of VW")
    parser.add_argument("--learns", action="store_true", help="keep events in memory until their reward")
    options = parser.parse_args()
    app = make_app(options.body, options.arguments, Log(options.log) if options.log else None)
    app.state.learns = options.learns
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
    listening = socket.create_server(("127.0.0.1", 0), backlog=128)
    print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    server.run(sockets=[listening])


if __name__ == "__main__":
    main()
