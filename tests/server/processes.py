"""`recpolicy serve` as a process, and the standard library's HTTP to talk to it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request

from unlimited import UNLIMITED_TOML
from waiting import PATIENCE, wait_until

SERVE = [sys.executable, "-c", "from recpolicy.cli.main import main; main()", "serve"]


class ServerProcess:
    """A running server; `url` is its address, `log` the file of its standard error."""

    def __init__(self, source, state, *words, settings=UNLIMITED_TOML, prefix=(), stderr=None, **environment):
        """Start `recpolicy serve` with these words behind a command such as prlimit.

        Its standard error goes to the file descriptor `stderr`, by default to the file `log`.
        """
        self.log = state.parent / f"{state.name}.log"
        config = state.parent / f"{state.name}.toml"
        config.write_text(settings)
        words = [source, "--state", state, "--port", 0, "--config", config, *words]
        command = [*prefix, *SERVE, *map(str, words)]
        env = os.environ | {"RECPOLICY_ADMIN_KEY": ADMIN_KEY} | environment
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr or log, text=True, env=env)
        try:
            said = self.process.stdout.readline()
            assert said.startswith("serving"), f"{said} {self.log.read_text()}"
            self.url = said.split()[-1]
            wait_until(self.is_ready, "the start of the server")
        except BaseException:
            self.stop()
            raise

    def is_ready(self):
        """Return whether the server answers; with workers, the parent process prints before they are ready."""
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(OSError):
            return self.get("/readyz")
        return None

    def get(self, path):
        """Return the JSON at a path."""
        with urllib.request.urlopen(self.url + path, timeout=PATIENCE) as answer:
            return json.load(answer)

    def post(self, path, body, **headers):
        """Return status and JSON of an answer."""
        return self.ask("POST", path, body, **headers)

    def ask(self, method, path, body=None, **headers):
        """Return status and JSON of an answer."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"content-type": "application/json", **headers}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def stop(self, how=signal.SIGKILL):
        """Stop the server by a signal and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        code = self.process.wait(PATIENCE)
        self.process.stdout.close()
        return code


ADMIN_KEY = "8fQ2zL7vX0pR4mW9-cT5yH1nB6sK3dJu"
