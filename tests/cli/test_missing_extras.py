"""Every command of an installation without extras says which extra it needs, in one line; none ends in a traceback."""

import json
import subprocess
import sys

from tiny_dataset import write_miniature
from tiny_policies import write_tiny

from recpolicy.core.errors import MissingExtraError
from recpolicy.core.optional_deps import _MODULES, name_missing_extra

COMMANDS = {
    "pipeline list": "pipelines", "pipeline list train": "pipelines", "pipeline run train": "pipelines",
    "pipeline run train --inline": None, "pipeline compile train -o train.yaml": "pipelines",
    "pipeline submit train --host http://127.0.0.1:1": "pipelines", "demo": "train",
    "train linucb --data data --split random --out out": "train",
    "train squarecb --log rounds --features schema.toml --out out": None, "log simulate --data data --out log": "train",
    "compare run run --data data": None, "report run --data data": None, "evaluate run --data data": None,
    "gate run --log rounds": None, "ope estimate run --log rounds": None, "ope benchmark --data data": "train",
    "simulator validate --data data": "train", "serve run": "serve", "admin status": "serve",
    "admin backup state --out out": "serve", "log export state --out out": "serve", "log ingest log --out rounds": None,
    "strategy dqn --log log --out out": None, "coldstart export state --out traces.csv": "serve",
    "coldstart report prior.json traces.csv --out page.html": None,
}  # fmt: skip
"""Commands, and the extra that they need; None: the command may miss its files first."""
SCRIPT = """
import contextlib, io, json, sys
from recpolicy.cli.main import main
for name in json.loads(sys.argv[1]):
    sys.modules[name] = None
for words in json.loads(sys.argv[2]):
    sys.argv = ["recpolicy", *words.split()]
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        except Exception as error:
            code = repr(error)
    print(json.dumps([words, code, err.getvalue()]))
"""


def test_every_command_names_the_extra_that_it_needs(tmp_path):
    write_tiny(tmp_path / "run")
    write_miniature(tmp_path / "data")
    modules = [module for extra, names in _MODULES.items() for module in names if extra != "notebook"]
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, json.dumps(modules), json.dumps(list(COMMANDS))]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [words for words, _, _ in results] == list(COMMANDS)
    for words, code, message in results:
        assert (code, message.count("\n")) == (2, 1), (words, code, message)
        if COMMANDS[words] is not None:
            assert f"needs the extra '{COMMANDS[words]}', which is not installed" in message, (words, message)


def test_a_module_of_no_extra_is_no_missing_extra():
    assert isinstance(name_missing_extra(ModuleNotFoundError("no", name="yaml.reader")), MissingExtraError)
    assert name_missing_extra(ModuleNotFoundError("no", name="recpolicy.nonsense")) is None
