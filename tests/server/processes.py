"""`recpolicy serve` as a process, and the standard library's HTTP to talk to it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

SERVE = [sys.executable, "-c", "from recpolicy.cli.main import main; main()", "serve"]


class ServerProcess:
    """A running server; `url` is where it answers."""

    def __init__(self, source, state, *words, before=(), **environment):
        command = [*before, *SERVE, str(source), "--state", str(state), "--port", "0", *map(str, words)]
        self.log = (state.parent / f"{state.name}.log").open("ab")
        env = os.environ | {"RECPOLICY_ADMIN_KEY": ADMIN_KEY} | environment
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True, env=env)
        said = self.process.stdout.readline()
        assert said.startswith("serving"), f"{said} {(state.parent / f'{state.name}.log').read_text()}"
        self.url = said.split()[-1]
        self.wait()

    def wait(self):
        """Until it is ready; with workers the parent speaks first."""
        for _ in range(200):
            with contextlib.suppress(OSError):
                return self.get("/readyz")
            time.sleep(0.05)
        raise AssertionError("it never became ready")

    def get(self, path):
        """The JSON at a path."""
        with urllib.request.urlopen(self.url + path, timeout=20) as answer:
            return json.load(answer)

    def post(self, path, body, **headers):
        """Status and JSON of an answer."""
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"content-type": "application/json", **headers}
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def stop(self, how=None):
        """Kill, or stop by a signal; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how or signal.SIGKILL)
        code = self.process.wait(30)
        self.process.stdout.close()
        self.log.close()
        return code


ADMIN_KEY = "a-key-of-the-tests-8fQ2zL7vX0pR4mW9"
