"""The command line of scripts/attack, whose header explains the table and the options."""

import argparse
import contextlib
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from attack.parts import PARTS, Part
from attack.report import PartResult, table_lines, write_report
from attack.session import Session, write_policy

SEED = 2026


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="scripts/attack", description="Attack a server on loopback.")
    parser.add_argument("--quick", action="store_true", help="the parts and sizes of CI")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), metavar="PART", help="only these parts")
    parser.add_argument("--list", action="store_true", help="list the parts and exit")
    parser.add_argument("--out", type=Path, help="also write the results as JSON")
    parser.add_argument("--seed", type=int, default=SEED, help="seed of all random choices (default: %(default)s)")
    parser.add_argument(
        "--policy", type=Path, help="trained policy to serve (default: a random one of the demo's size)"
    )
    return parser.parse_args(words)


def run_part(part: Part, folder: Path, policy: Path, seed: int, quick: bool) -> PartResult:
    """Run a part in a new folder; its failure to run at all is a broken promise, too."""
    result = PartResult(part.name)
    reason = part.lacks()
    if reason is not None:
        result.not_run.append(reason)
        return result
    start = time.monotonic()
    place = folder / part.name
    place.mkdir()
    try:
        with Session(result, place, policy, seed, quick) as session:
            part.run(session)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        result.count("other", f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})")
    result.seconds = time.monotonic() - start
    return result


def main(words: Sequence[str] | None = None) -> int:
    """Run the parts, print the table, return the exit code."""
    options = parse(words)
    if options.list:
        for part in PARTS.values():
            print(f"{part.name:17} {'*' if part.quick else ' '} {part.summary}")
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    chosen = options.only or [part.name for part in PARTS.values() if part.quick or not options.quick]
    print(f"seed {options.seed}", flush=True)
    results = []
    try:
        with tempfile.TemporaryDirectory(prefix="recpolicy-attack-") as temporary:
            folder = Path(temporary)
            policy = options.policy or write_policy(folder / "policy")
            for name in chosen:
                print(f"{name}: {PARTS[name].summary}", file=sys.stderr, flush=True)
                results.append(run_part(PARTS[name], folder, policy, options.seed, options.quick))
                for line in results[-1].details:
                    print(f"  {line}", file=sys.stderr, flush=True)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print("\n".join(table_lines(results)))
    for result in results:
        for figure, value in result.figures.items():
            print(f"{result.part}: {figure} {value}")
        for reason in result.not_run:
            print(f"{result.part}: not run: {reason}")
    if options.out is not None:
        write_report(options.out, results, seed=options.seed, quick=options.quick, commit=_commit())
    return int(any(result.failed for result in results))


def _commit() -> str:
    """Return the commit of the working tree, or `unknown`."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        words = ["git", "rev-parse", "HEAD"]
        return subprocess.run(
            words, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()
    return "unknown"
