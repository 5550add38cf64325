"""The peer: a plain prediction server of the usual kind, FastAPI around an eager SavedModel.

It loads the artifact's `policy/` (TF-Agents' PolicySaver) and calls `action()` once an instance, as sample containers
for Vertex AI do. Instances are {"user": id}, answers are item ids: no ratings, no reasons, nothing kept.

    python peer.py ARTIFACT PORT
"""

import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request

from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.inference.artifact import read_artifact


def make_app(folder: Path) -> FastAPI:
    silence_libraries()
    import tensorflow as tf
    from tf_agents.trajectories import time_step as ts

    artifact = read_artifact(folder)
    row_of = {user: row for row, user in enumerate(artifact.users["user_id"].tolist())}
    item_ids = artifact.items["item_id"].tolist()
    policy = tf.saved_model.load(str(folder / "policy"))
    app = FastAPI()

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, list[int]]:
        body = await request.json()
        predictions = []
        for instance in body["instances"]:
            context = tf.constant(artifact.context[row_of[instance["user"]]][None], tf.float32)
            step = ts.restart(context, batch_size=1)
            action = policy.action(step).action.numpy()[0]
            predictions.append(item_ids[artifact.action_items[int(action)]])
        return {"predictions": predictions}

    return app


if __name__ == "__main__":
    uvicorn.run(make_app(Path(sys.argv[1])), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
