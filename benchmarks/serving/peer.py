"""The peers: prediction servers around a TensorFlow SavedModel.

    python peer.py {sample,policy,topk} ARTIFACT PORT

`sample` has the form of the sample containers for Vertex AI: FastAPI, and TF-Agents' policy (PolicySaver) called
eagerly, once per instance; it answers one item id. The other two are what a competent engineer writes: a plain ASGI app
on uvicorn with uvloop and httptools, one call of a graph for all instances of a request, the ten best unrated items by
`tf.math.top_k`, and a first call before the server listens. `policy` puts TF-Agents' policy into that graph; `topk`
exports a SavedModel of its own that only has the scores of LinUCB. Instances are {"user": id}, answers are item ids:
no ratings, no reasons, no propensities, nothing is stored.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
import numpy as np
import uvicorn

from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.inference.artifact import read_artifact

silence_libraries()
import tensorflow as tf  # noqa: E402
from tf_agents.trajectories import time_step as ts  # noqa: E402

K = 10
CONTENT = [(b"content-type", b"application/json")]


class Policy:
    """The users, items and SavedModel of an artifact."""

    def __init__(self, folder: Path):
        self.folder, self.artifact = folder, read_artifact(folder)
        self.row = {user: row for row, user in enumerate(self.artifact.users["user_id"].tolist())}
        self.item_ids = self.artifact.items["item_id"].to_numpy()[self.artifact.action_items]
        rated = np.zeros((len(self.row), len(self.artifact.items)), np.float32)
        rated[self.artifact.rated_user, self.artifact.rated_item] = -np.inf
        self.penalty = tf.constant(rated[:, self.artifact.action_items])  # [U, A] -inf for rated items
        self.context = tf.constant(self.artifact.context, tf.float32)  # [U, C]

    def saved(self) -> Any:
        return tf.saved_model.load(str(self.folder / "policy"))


def policy_graph(policy: Policy) -> Callable[[list[int]], Any]:
    """TF-Agents' policy and the choice of the ten best in one graph."""
    saved = policy.saved()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)])
    def best(rows: Any) -> Any:
        ones = tf.ones_like(rows)
        first, reward, discount = (
            ts.StepType.FIRST * ones,
            tf.zeros_like(rows, tf.float32),
            tf.ones_like(rows, tf.float32),
        )
        step = ts.TimeStep(first, reward, discount, tf.gather(policy.context, rows))
        mean = saved.action(step).info.predicted_rewards_mean
        return tf.math.top_k(mean + tf.gather(policy.penalty, rows), K).indices

    return lambda rows: best(tf.constant(rows, tf.int32)).numpy()


def topk_graph(policy: Policy) -> Callable[[list[int]], Any]:
    """A SavedModel of the scores and the choice of the ten best, exported and loaded."""
    arrays = policy.artifact.policy
    x = np.concatenate([policy.artifact.context, np.ones((len(policy.row), 1))], 1)[:, : arrays["theta"].shape[1]]

    class Scores(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.x, self.theta = tf.constant(x, tf.float32), tf.constant(arrays["theta"].T.copy(), tf.float32)
            self.penalty = policy.penalty

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int32)])
        def best(self, rows: Any) -> Any:
            score = tf.linalg.matmul(tf.gather(self.x, rows), self.theta) + tf.gather(self.penalty, rows)
            return {"best": tf.math.top_k(score, K).indices}

    with tempfile.TemporaryDirectory() as folder:
        module = Scores()
        tf.saved_model.save(module, folder, signatures={"serving_default": module.best})
        loaded = tf.saved_model.load(folder)
    best = loaded.signatures["serving_default"]
    return lambda rows: best(rows=tf.constant(rows, tf.int32))["best"].numpy()


def batched_app(policy: Policy, best: Callable[[list[int]], Any]) -> Any:
    """One call of the graph for each request, without a framework."""
    for size in (1, 20, 1, 20):
        best(list(range(size)))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await _lifespan(receive, send)
            return
        pieces, more = [], True
        while more:
            message = await receive()
            pieces.append(message["body"])
            more = message.get("more_body", False)
        if scope["path"] == "/predict":
            rows = [policy.row[instance["user"]] for instance in json.loads(b"".join(pieces))["instances"]]
            answer = {"predictions": policy.item_ids[best(rows)].tolist()}
        else:
            answer = {"status": ["alive"]}
        body = json.dumps(answer).encode()
        length = (b"content-length", str(len(body)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [*CONTENT, length]})
        await send({"type": "http.response.body", "body": body})

    return app


async def _lifespan(receive: Any, send: Any) -> None:
    while True:
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return


def sample_app(policy: Policy) -> Any:
    """The policy's action, eagerly, once per instance."""
    from fastapi import FastAPI, Request

    app, saved = FastAPI(), policy.saved()

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, list[int]]:
        predictions = []
        for instance in (await request.json())["instances"]:
            context = tf.constant(policy.artifact.context[policy.row[instance["user"]]][None], tf.float32)
            action = saved.action(ts.restart(context, batch_size=1)).action.numpy()[0]
            predictions.append(int(policy.item_ids[action]))
        return {"predictions": predictions}

    return app


def make_app(mode: str, folder: Path) -> Any:
    policy = Policy(folder)
    if mode == "sample":
        return sample_app(policy)
    return batched_app(policy, {"policy": policy_graph, "topk": topk_graph}[mode](policy))


if __name__ == "__main__":
    mode, folder, port = sys.argv[1:]
    app = make_app(mode, Path(folder))
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_config=None, access_log=False)
