"""Write the files that a reader of the how-to guides brings along: ratings and logs of other systems.

A click of user u on item i has the probability sigmoid(a_i + t_u . n_i); the shop shows items by a softmax of a_i.
"""

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd

USERS, ITEMS, ROUNDS = 60, 20, 3000
START = 1_767_600_000
"""Second of the first round; one round a minute."""


def write_own_files(folder: Path) -> None:
    """Write ratings.csv, logs of clicks and decisions, and a table of items, unless they are there."""
    if (folder / "choices.json").exists():
        return
    rng = np.random.default_rng(7)
    taste, nature = rng.normal(size=(USERS, 3)), rng.normal(size=(ITEMS, 3))
    appeal = rng.normal(-1, 0.6, ITEMS)
    liking = appeal + taste @ nature.T  # [U, I]
    shown = 0.9 * np.exp(appeal) / np.exp(appeal).sum() + 0.1 / ITEMS  # [I]
    user, item = rng.integers(USERS, size=ROUNDS), rng.choice(ITEMS, ROUNDS, p=shown)
    click = rng.random(ROUNDS) < 1 / (1 + np.exp(-liking[user, item]))
    time = np.datetime64(START, "s") + 60 * np.arange(ROUNDS)
    rounds = list(zip(time.astype(str).tolist(), user.tolist(), item.tolist(), click.tolist(), strict=True))
    _write_csv(
        folder / "clicks.csv",
        ("timestamp", "item_id", "position", "click", "propensity_score", "user_id"),
        [(when, 1 + i, 1, int(c), shown[i], f"u{u}") for when, u, i, c in rounds],
    )
    _write_csv(
        folder / "decisions.csv",
        ("event_time", "visitor", "action", "reward", "probability"),
        [(when, f"v{u}", f"a{i}", c, shown[i]) for when, u, i, c in rounds],
    )
    _write_csv(
        folder / "item_context.csv", ("item_id", "price", "kind"), [(1 + i, 5.0 + i, "ab"[i % 2]) for i in range(ITEMS)]
    )
    decisions = pd.DataFrame(
        {
            "at": time, "shown": item, "gain": 2.0 * click - 1, "p": shown[item], "visitor": user,
            "hour": time.astype("datetime64[h]").astype(int) % 24, "device": np.where(user % 3, "phone", "desktop"),
            "offers": [list(range(ITEMS))] * ROUNDS,
        }
    )  # fmt: skip
    decisions.to_parquet(folder / "decisions.parquet")
    actions = [{"Item": {"id": f"i{number}"}} for number in range(ITEMS)]
    lines = [
        {
            "_label_cost": 1.0 - 2 * c, "_label_probability": shown[i], "_label_Action": i + 1, "Timestamp": f"{when}Z",
            "EventId": f"e{number}", "a": list(range(1, ITEMS + 1)), "p": shown.tolist(),
            "c": {"User": {"id": f"u{u}"}, "_multi": actions},
        }
        for number, (when, u, i, c) in enumerate(rounds)
    ]  # fmt: skip
    (folder / "choices.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    _write_pages(folder / "pages.json", liking)
    _write_ratings(folder / "ratings.csv", liking, rng)


def _write_pages(path: Path, liking: np.ndarray) -> None:
    """Write lines of two slots that are filled evenly, from some of the items."""
    rng = np.random.default_rng(8)
    lines = []
    for number in range(ROUNDS // 3):
        user, offered = int(rng.integers(USERS)), rng.permutation(ITEMS)[: rng.integers(4, 8)].tolist()
        order, outcomes = rng.permutation(len(offered)).tolist(), []
        for slot in range(2):
            click = rng.random() < 1 / (1 + np.exp(-liking[user, offered[order[slot]]]))
            chances = [1 / (len(order) - slot)] * (len(order) - slot)
            outcomes.append({"_label_cost": -float(click), "_a": order[slot:], "_p": chances})
        actions = [{"_tag": f"i{item}", "Item": {"id": f"i{item}"}} for item in offered]
        context = {"User": {"id": f"u{user}"}, "_multi": actions, "_slots": [{"size": "large"}, {"size": "small"}]}
        when = np.datetime64(START + 60 * number, "s")
        lines.append({"EventId": f"p{number}", "Timestamp": f"{when}Z", "c": context, "_outcomes": outcomes})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def _write_ratings(path: Path, liking: np.ndarray, rng: np.random.Generator) -> None:
    """Write a rating of 15 items by each user, on one to five stars."""
    rated = np.argsort(rng.random(liking.shape), axis=1)[:, :15]
    stars = np.clip(np.rint(3.5 + 0.8 * liking + rng.normal(0, 0.5, liking.shape)), 1, 5).astype(int)
    rows = [(f"u{u}", f"film/{i:03d}", stars[u, i]) for u in range(USERS) for i in rated[u].tolist()]
    _write_csv(path, ("uid", "product", "stars"), rows)


def _write_csv(path: Path, names: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows(rows)
