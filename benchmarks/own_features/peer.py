"""Vowpal Wabbit on a log: writes it as text, learns it in one pass, gives the probabilities of new contexts.

    PYTHON peer.py ROUNDS.npz RESULT.npz ARGUMENTS [ARGUMENTS ...]

PYTHON has the `vowpalwabbit` wheel and NumPy; recpolicy is not needed. All ARGUMENTS learn from the same cache. Seconds
of learning are those of the pass over the cache less those of reading the cache and doing nothing (`--noop`).
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import vowpalwabbit


def texts(data: dict, part: str) -> list[str]:
    """The features of each row, without their namespace."""
    numbers, codes = data[f"{part}_numbers"], data[f"{part}_codes"]
    prefix = "a" if part == "actions" else "c"
    names = [f"{prefix}{place}:" for place in range(numbers.shape[1])]
    columns = [[name + text for text in np.char.mod("%.4f", numbers[:, place])] for place, name in enumerate(names)]
    for place in range(codes.shape[1]):
        columns.append([f"{prefix}_kind{place}=v{code}" for code in codes[:, place].tolist()])
    return [" ".join(row) for row in zip(*columns, strict=True)]


def lines(context: list[str], actions: list[str], data: dict | None) -> Iterator[str]:
    """An example a round: the context, then a line for every action, the one shown with its label."""
    plain = [f"|a {text}" for text in actions]
    if data is None:
        tail = "\n".join(plain) + "\n\n"
        for text in context:
            yield f"shared |c {text}\n{tail}"
        return
    rows = zip(context, data["chosen"].tolist(), data["reward"].tolist(), data["propensity"].tolist(), strict=True)
    for text, arm, reward, chance in rows:
        shown = plain.copy()
        shown[arm] = f"0:{-reward:g}:{chance:.8g} {plain[arm]}"
        yield f"shared |c {text}\n" + "\n".join(shown) + "\n\n"


def timed(arguments: str) -> tuple[float, float]:
    """Seconds, and processor seconds of all threads, of a run over its data."""
    start, processor = time.perf_counter(), time.process_time()
    learner = vowpalwabbit.Workspace(f"--quiet {arguments}")
    learner.finish()
    return time.perf_counter() - start, time.process_time() - processor


def probabilities(path: Path, actions: int) -> np.ndarray:
    """The probabilities [n, A] that VW wrote, one line a round: action:probability, the most probable first."""
    rows = []
    for line in path.read_text().splitlines():
        if line.strip():
            row = np.zeros(actions)
            for pair in line.split()[0].split(","):
                action, probability = pair.split(":")
                row[int(action)] = float(probability)
            rows.append(row)
    return np.array(rows)


def main() -> None:
    """Write the text, build the cache, then learn and predict with each list of arguments."""
    data = dict(np.load(sys.argv[1]))
    context, actions, new = texts(data, "context"), texts(data, "actions"), texts(data, "new")
    result = {"version": vowpalwabbit.__version__, "runs": []}
    found = {}
    with tempfile.TemporaryDirectory(dir=Path(sys.argv[2]).parent) as folder:
        rounds, cache, ask = (Path(folder, name) for name in ("rounds.txt", "rounds.cache", "ask.txt"))
        with rounds.open("w") as file:
            file.writelines(lines(context, actions, data))
        with ask.open("w") as file:
            file.writelines(lines(new, actions, None))
        kind = "--cb_explore_adf -q ca -b 18"
        result["text_bytes"] = rounds.stat().st_size
        result["parse_s"], result["parse_cpu_s"] = timed(f"{kind} --noop -d {rounds} --cache_file {cache} -k")
        rounds.unlink()
        for arguments in sys.argv[3:]:
            # The head of the cache names the reductions, so that each kind of learner reads its own.
            nothing_s, nothing_cpu_s = timed(f"{kind} --noop -d {rounds} --cache_file {cache}")
            model, answer = Path(folder, "model"), Path(folder, "answer")
            wall, processor = timed(f"{arguments} -q ca -b 18 -d {rounds} --cache_file {cache} -f {model}")
            run = {
                "arguments": arguments, "learn_s": wall - nothing_s, "learn_cpu_s": processor - nothing_cpu_s,
                "pass_s": wall, "pass_cpu_s": processor, "cache_s": nothing_s, "cache_cpu_s": nothing_cpu_s,
            }  # fmt: skip
            if "explore" in arguments:  # --cb_adf has no probabilities
                timed(f"-i {model} -t -d {ask} -p {answer}")
                found[f"probabilities_{len(result['runs'])}"] = probabilities(answer, len(actions)).astype(np.float32)
            result["runs"].append(run)
            print(run, flush=True)
    np.savez(sys.argv[2], result=json.dumps(result), **found)


if __name__ == "__main__":
    main()
