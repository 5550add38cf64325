"""Vowpal Wabbit on a log: writes it as text, trains, says what it would show to every user.

    PYTHON peer.py ROUNDS.npz RESULT.json METHOD

PYTHON has the `vowpalwabbit` wheel and NumPy; recpolicy is not needed. U users, A actions, N rounds, D features. The
features are the context and, by -q ua, its product with the action: one linear model per action, as in LinUCB.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import vowpalwabbit

METHODS = {
    # name: (arguments, whether all actions stand in every example)
    "cb_adf": ("--cb_adf --cb_type mtr -q ua", True),
    "squarecb": ("--cb_explore_adf --squarecb -q ua", True),
    "cb": ("--cb {actions} --cb_type dm", False),
}


def shared_texts(context: np.ndarray) -> list[str]:
    """The features of each user."""
    return ["|u " + " ".join(f"{d}:{value:.6g}" for d, value in enumerate(row)) for row in context]


def adf_lines(log: dict[str, np.ndarray], users: list[str], actions: int) -> Iterator[str]:
    """An example a round: the user, then a line for every action, the one shown with its label."""
    plain = [f"|a {action}" for action in range(actions)]
    for user, arm, cost, chance in rows(log):
        lines = plain.copy()
        lines[arm] = f"0:{cost:.4g}:{chance:.8g} {plain[arm]}"
        yield f"shared {users[user]}\n" + "\n".join(lines) + "\n\n"


def cb_lines(log: dict[str, np.ndarray], users: list[str]) -> Iterator[str]:
    """An example a round, in one line: only the action shown is named, from 1."""
    for user, arm, cost, chance in rows(log):
        yield f"{arm + 1}:{cost:.4g}:{chance:.8g} {users[user]}\n"


def rows(log: dict[str, np.ndarray]) -> Iterator[tuple[int, int, float, float]]:
    """(user, arm, cost, probability) of each round; costs in -1..0."""
    cost = -(log["reward"] - 1) / 4
    return zip(log["user"].tolist(), log["arm"].tolist(), cost.tolist(), log["propensity"].tolist(), strict=True)


def timed(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def choices(model: Path, users: list[str], actions: int, adf: bool) -> list[int]:
    """The action with the least predicted cost for every user."""
    learner = vowpalwabbit.Workspace(f"-i {model} -t --quiet")
    found = []
    for user in users:
        if adf:
            scores = learner.predict([f"shared {user}", *(f"|a {action}" for action in range(actions))])
            found.append(int(np.argmin(scores) if min(scores) < 0 else np.argmax(scores)))  # costs, or probabilities
        else:
            found.append(int(learner.predict(user)) - 1)
    learner.finish()
    return found


def main(source: str, out: str, method: str) -> None:
    """Write, train, ask."""
    with np.load(source) as arrays:
        log = {name: arrays[name] for name in arrays.files}
    context, actions = log.pop("context"), int(log.pop("actions"))
    arguments, adf = METHODS[method]
    users = shared_texts(context)
    with tempfile.TemporaryDirectory() as folder:
        text, model = Path(folder, "log.txt"), Path(folder, "model")
        lines = adf_lines(log, users, actions) if adf else cb_lines(log, users)

        def write() -> None:
            with text.open("w", encoding="ascii", buffering=1 << 20) as stream:
                stream.writelines(lines)

        def learn() -> None:
            vowpalwabbit.Workspace(f"{arguments.format(actions=actions)} -d {text} -f {model} --quiet").finish()

        writing, processor = timed(write), time.process_time()
        training, processor = timed(learn), time.process_time() - processor
        told = {
            "rounds": len(log["arm"]), "write_s": writing, "train_s": training, "cpu_s": processor,
            "text_mb": text.stat().st_size / 1e6, "choice": choices(model, users, actions, adf),
            "version": vowpalwabbit.__version__,
        }  # fmt: skip
    Path(out).write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
