"""Run every block of README, tutorials and how-to guides as written, in order, in one folder with one registry.

    scripts/walk [--folder FOLDER] [PAGE] ...

The pages come in the order of docs/index.md. Rules:

bash    runs in bash; the first failing command fails the block. Exported variables hold to the end of the page.
        `gate` and `simulator validate` may say FAIL. `serve` runs in the background until the page ends.
python  runs in one session per page.
toml    is written to the file that its first line names (`# shop.toml`), if any.

Other blocks are output. Blocks marked `needs: cluster`, `docker` or `traffic` are parsed only; those marked
`needs: server` have a server of runs/registry, and its operator's key in KEY and RECPOLICY_KEY. Some things differ from
the page: ports 8080 and 8081 are free ones, `RECPOLICY_KEY=...` gets the key, curl fails for an error of the server,
and scripts/demo does not install again.

RECPOLICY_WALK_DATA names a folder of MovieLens files in place of ml-100k. Then `data fetch` takes them for the official
ones, pipelines run `--inline`, and commands start from a process that has imported TensorFlow already.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import os
import re
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from doc_blocks import PARSED_ONLY, Block, parse_block, read_blocks
from walk_files import write_own_files

ROOT = Path(__file__).resolve().parents[2]
DATA = "RECPOLICY_WALK_DATA"
_REGISTRY = "runs/registry"
PATIENCE = 120.0
"""Seconds until a server must answer."""
_KEY = re.compile(r"operator key, shown only now: (\S+)")
_STAND_IN = """#!{python} -IS
import array, json, os, socket, sys
door = socket.socket(socket.AF_UNIX)
door.connect({door!r})
sent = json.dumps({{"words": sys.argv[1:], "folder": os.getcwd(), "variables": dict(os.environ)}}).encode()
socket.send_fds(door, [len(sent).to_bytes(8, "big")], [0, 1, 2])
door.sendall(sent)
sys.exit(int(door.recv(16) or b"1"))
"""
"""The program `recpolicy` of the blocks: it asks the walk to fork, and waits."""
_BLOCK = """cd {folder}
[ ! -e {variables} ] || source {variables}
set -eo pipefail
{text}
export -p > {variables}
"""


def find_pages() -> list[Path]:
    """Return README, the tutorials and the how-to guides, in the order of docs/index.md."""
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    names = re.findall(r"\]\(((?:tutorials|how-to)/[\w-]+\.md)", index)
    return [ROOT / "README.md", *(ROOT / "docs" / name for name in names)]


class Walk:
    """The folder of a walk, its programs, and the servers that run."""

    def __init__(self, folder: Path, data: Path | None):
        self.folder, self.miniature = folder, data is not None
        self._hidden = Path(tempfile.mkdtemp(prefix="walk-"))  # short: the path of a socket has at most 108 bytes
        self._servers: list[int] = []  # processes
        self._source = _REGISTRY  # of the last server of the page
        self._commands: list[int] = []  # processes
        self._session: tuple[int, Any, Any] | None = None  # process, stream to it, stream from it
        self._ports = _free_ports("8080", "8081")
        self._door = socket.socket(socket.AF_UNIX)
        self._door.bind(str(self._hidden / "door"))
        self._door.listen()
        self._lay_out(data or ROOT / "ml-100k")
        if self.miniature:
            _import_everything()
            _declare_official(self.folder / "ml-100k")

    def _lay_out(self, data: Path) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, target in {"ml-100k": data, "configs": ROOT / "configs", "deploy": ROOT / "deploy"}.items():
            if not (self.folder / name).exists():
                (shutil.copytree if name == "ml-100k" else os.symlink)(target, self.folder / name)
        write_own_files(self.folder)
        door = str(self._hidden / "door")
        _write_program(self._hidden / "bin" / "recpolicy", _STAND_IN.format(python=sys.executable, door=door))
        _write_program(self.folder / "scripts" / "demo", '#!/bin/bash\nexec recpolicy demo "$@"\n')
        (self._hidden / ".curlrc").write_text("fail-with-body\n")

    def _key_file(self, source: str) -> Path:
        """Return the file with the operator's key of a server, which prints it once."""
        return self.folder / f".key-of-{source.replace('/', '-')}"

    def _with_ports(self, text: str) -> str:
        for port, free in self._ports.items():
            text = text.replace(port, free)
        return text

    def close(self) -> None:
        """Stop everything."""
        self.end_page()
        self._door.close()
        shutil.rmtree(self._hidden)

    def end_page(self) -> None:
        """Stop the servers and the Python session of a page, and forget its variables."""
        for process in self._servers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)
            os.waitpid(process, 0)
        self._servers, self._source = [], _REGISTRY
        if self._session is not None:
            self._session[1].close()
            os.waitpid(self._session[0], 0)
            self._session = None
        (self._hidden / "variables").unlink(missing_ok=True)

    def run(self, block: Block) -> str | None:
        """Run a block; return None, or the output of one that failed."""
        if block.needs in PARSED_ONLY:
            parse_block(block)
            return None
        if block.needs == "server" and not self._servers:
            failure = self._run_bash(f"recpolicy serve {_REGISTRY} --port 8080\n")
            if failure is not None:
                return failure
        if block.language == "bash":
            return self._run_bash(block.text)
        if block.language == "python":
            return self._run_python(block)
        parse_block(block)
        name = re.match(r"# (\S+\.toml)\n", block.text)
        if block.language == "toml" and name:
            (self.folder / name[1]).write_text(block.text)
        return None

    def _run_bash(self, text: str) -> str | None:
        file = self._key_file(self._source)
        key = file.read_text() if file.exists() else ""
        text = self._with_ports(text).replace("RECPOLICY_KEY=...", f"RECPOLICY_KEY={key}")
        script = _BLOCK.format(folder=self.folder, variables=self._hidden / "variables", text=text)
        variables = {
            **os.environ,
            "PATH": f"{self._hidden / 'bin'}:{os.environ['PATH']}", "RECPOLICY_URL": self._with_ports("http://127.0.0.1:8080"),
            "RECPOLICY_KEY": key, "KEY": key, "CURL_HOME": str(self._hidden),
        }  # fmt: skip
        log = self._hidden / "output"
        with log.open("wb") as output:
            shell = subprocess.Popen(
                ["bash", "-c", script], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=variables
            )
            while shell.poll() is None:
                if select.select([self._door], [], [], 0.02)[0]:
                    self._serve_command()
        for process in self._commands:
            os.waitpid(process, 0)
        self._commands = []
        return None if shell.returncode == 0 else log.read_text(errors="replace")

    def _serve_command(self) -> None:
        """Fork a process for a command of a block, which answers with its exit code."""
        door, _ = self._door.accept()
        header, files, _, _ = socket.recv_fds(door, 8, 3)
        with door.makefile("rb") as stream:
            asked = json.loads(stream.read(int.from_bytes(header, "big")))
        words = asked["words"]
        if words[0] == "serve" and not {"--help", "-h"} & {*words}:
            door.sendall(str(self._start_server(words, asked, files)).encode())
        else:
            self._commands.append(_fork(lambda: _answer(door, words, asked, files, self.miniature)))
        for number in files:
            os.close(number)
        door.close()

    def _start_server(self, words: list[str], asked: dict[str, Any], files: list[int]) -> int:
        """Start `recpolicy serve` and wait until it is ready; return 0, or the exit code of one that ended."""
        log = self._hidden / f"server-{time.monotonic_ns()}"
        log.touch()

        def serve() -> None:
            os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND), 1)
            os.dup2(1, 2)
            os.chdir(asked["folder"])
            code = "from recpolicy.cli.main import main; main()"
            os.execve(sys.executable, [sys.executable, "-c", code, *words], asked["variables"])

        process = _fork(serve)
        limit = time.monotonic() + PATIENCE
        while time.monotonic() < limit:
            text = log.read_text()
            address = re.search(r"^serving .*: (http://\S+)", text, re.MULTILINE)
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                os.write(files[1], text.encode())
                return os.waitstatus_to_exitcode(status)
            if address and _is_ready(address[1]):
                os.write(files[1], text.encode())
                self._servers.append(process)
                self._source = words[1]
                if key := _KEY.search(text):
                    self._key_file(words[1]).write_text(key[1])
                return 0
            time.sleep(0.05)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.write(files[1], log.read_bytes())
        return 1

    def _run_python(self, block: Block) -> str | None:
        if self._session is None:
            (ours, their_answers), (their_code, ours_out) = os.pipe(), os.pipe()
            process = _fork(lambda: _python_session(their_code, their_answers, self.folder, (ours, ours_out)))
            os.close(their_answers)
            os.close(their_code)
            self._session = process, os.fdopen(ours_out, "w"), os.fdopen(ours, "r")
        _, code, answers = self._session
        place = f"{os.path.relpath(block.page, ROOT)}:{block.line}"
        text = "\n" * block.line + self._with_ports(block.text)
        print(json.dumps([place, text]), file=code, flush=True)
        answer = answers.readline()
        failed, output = json.loads(answer) if answer else (True, "the Python session ended")
        return output if failed else None


def _free_ports(*ports: str) -> dict[str, str]:
    """Return a free port in place of each."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in ports]
        return {port: str(free.getsockname()[1]) for port, free in zip(ports, sockets, strict=True)}


def _import_everything() -> None:
    """Import what commands import later, so that their processes share it."""
    from recpolicy.core.tensorflow_setup import silence_libraries

    silence_libraries()
    import recpolicy.agents
    import recpolicy.cli.main
    import recpolicy.pipelines.inline
    import recpolicy.training.session_trainer
    import recpolicy.training.tensorflow_export
    import recpolicy.training.trainer
    import recpolicy.workflows  # noqa: F401


def _declare_official(folder: Path) -> None:
    """Let `recpolicy data fetch` take the files of the folder for the official ones."""
    from recpolicy.core.files import file_digest
    from recpolicy.data.datasets import DATASETS

    official = {path.name: file_digest(path, "md5") for path in folder.iterdir()}
    datasets: Any = DATASETS
    datasets["ml-100k"] = dataclasses.replace(DATASETS["ml-100k"], official=official)


def _write_program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def _fork(child: Callable[[], None]) -> int:
    """Run `child` in a process of its own, which then ends; return its number."""
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        return process
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        child()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _answer(door: socket.socket, words: list[str], asked: dict[str, Any], files: list[int], inline: bool) -> None:
    """Run a command with the files, folder and variables of the block, and send its exit code."""
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["variables"])
    sys.argv = ["recpolicy", *words, *(["--inline"] if inline and words[:2] == ["pipeline", "run"] else [])]
    code = 1
    try:
        from recpolicy.cli.main import main

        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    verdict = words[:1] == ["gate"] or words[:2] == ["simulator", "validate"]
    door.sendall(b"0" if verdict and code == 1 else str(code).encode())


def _python_session(code: int, answers: int, folder: Path, others: tuple[int, int]) -> None:
    """Run blocks of Python as they come, until their stream ends; answer each with [failed, output]."""
    for number in others:
        os.close(number)
    os.chdir(folder)
    names: dict[str, Any] = {"__name__": "__main__"}
    with os.fdopen(code) as blocks, os.fdopen(answers, "w") as reply:
        for line in blocks:
            place, text = json.loads(line)
            output, failed = io.StringIO(), False
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                try:
                    exec(compile(text, place, "exec"), names)
                except BaseException:
                    traceback.print_exc()
                    failed = True
            print(json.dumps([failed, output.getvalue()]), file=reply, flush=True)
    os._exit(0)


def _is_ready(address: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/readyz", timeout=5) as response:
        return bool(response.status == 200)
    return False


def walk(pages: list[Path], folder: Path, data: Path | None) -> int:
    """Run the pages and print a line for each block; return 0, or 1 after the first failure and its output."""
    began, count = time.monotonic(), 0
    course = Walk(folder, data)
    try:
        for page in pages:
            for block in read_blocks(page):
                if block.language not in ("bash", "python", "toml"):
                    continue
                started = time.monotonic()
                failure = course.run(block)
                parsed = " (parsed)" if block.needs in PARSED_ONLY else ""
                state = "ok" if failure is None else "FAILED"
                first = next(line for line in block.text.splitlines() if line.strip())
                place = f"{os.path.relpath(page, ROOT)}:{block.line}"
                print(f"{place:<44} {time.monotonic() - started:6.1f} s  {state}{parsed}  {first[:70]}", flush=True)
                count += 1
                if failure is not None:
                    print(f"{block.text}\n{failure}\nfolder: {folder}", flush=True)
                    return 1
            course.end_page()
    finally:
        course.close()
    used = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(f"{count} blocks ran in {time.monotonic() - began:.0f} s ({used:.0f} s of CPU)")
    return 0


def main() -> int:
    """Walk the pages of the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="folder to walk in, kept afterwards; default: a temporary one")
    parser.add_argument("pages", metavar="PAGE", nargs="*", type=Path, help="run these pages only")
    options = parser.parse_args()
    data = os.environ.get(DATA)
    pages = [page.resolve() for page in options.pages] or find_pages()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no server outlives the walk
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="walk-")))
        os.environ.setdefault("RECPOLICY_CACHE", str(folder.resolve() / ".cache"))
        os.environ.pop("RECPOLICY_DATA", None)
        return walk(pages, folder.resolve(), None if data is None else Path(data).resolve())


if __name__ == "__main__":
    sys.exit(main())
