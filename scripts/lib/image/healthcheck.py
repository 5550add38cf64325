"""Check the health of the image's container; exit with 0 if it is healthy, else with 1.

The command line of process 1 says what the container runs. For `recpolicy serve`, the check requests /healthz at its
port: the option --port, else AIP_HTTP_PORT, else 8080. Any other process (a demo, Jupyter, a pipeline step) is healthy
as long as it runs. Standard library only.
"""

import os
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path

_DEFAULT_PORT = "8080"
_TIMEOUT_SECONDS = 4.0


def service_port(arguments: Sequence[str]) -> str | None:
    """Return the port of the service that this command line starts, None for other commands."""
    programs = [Path(argument).name for argument in arguments]
    if "recpolicy" not in programs or "serve" not in arguments[programs.index("recpolicy") :]:
        return None
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if argument == "--port":
            return following
        if argument.startswith("--port="):
            return argument.removeprefix("--port=")
    return os.environ.get("AIP_HTTP_PORT") or _DEFAULT_PORT


def main(command_line: Path) -> int:
    """Check the container whose process 1 has this command line, with NUL between the arguments."""
    port = service_port(command_line.read_text().split("\0"))
    if port is None:
        return 0
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=_TIMEOUT_SECONDS) as response:
            return 0 if response.status == 200 else 1
    except OSError as error:
        print(f"/healthz at port {port}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "/proc/1/cmdline")))
