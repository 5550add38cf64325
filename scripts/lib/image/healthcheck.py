"""The image's health check: ends with 0 when healthy, 1 when not.

Process 1 tells what the container does. If it is `recpolicy serve`, its /healthz is asked at the port named there;
anything else (a demo, Jupyter, a pipeline step) is healthy for as long as it runs. Without a port there, AIP_HTTP_PORT
names it, as it does for the command. Standard library only.
"""

import os
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path

_DEFAULT_PORT = "8080"
_TIMEOUT_SECONDS = 4.0


def port_of_service(words: Sequence[str]) -> str | None:
    """Return the port at which these words of a command line serve, None if they do not."""
    programs = [Path(word).name for word in words]
    if "recpolicy" not in programs or "serve" not in words[programs.index("recpolicy") :]:
        return None
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == "--port":
            return following
        if word.startswith("--port="):
            return word.removeprefix("--port=")
    return os.environ.get("AIP_HTTP_PORT") or _DEFAULT_PORT


def main(command_line: Path) -> int:
    """Check the container whose process 1 has this command line, NUL between the words."""
    port = port_of_service(command_line.read_text().split("\0"))
    if port is None:
        return 0
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=_TIMEOUT_SECONDS) as answer:
            return 0 if answer.status == 200 else 1
    except OSError as error:
        print(f"/healthz at port {port}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "/proc/1/cmdline")))
