"""Every block of README, tutorials and how-to guides runs in order; every command on the other pages parses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from doc_blocks import check_command, commands, parse_block, read_blocks
from tiny_dataset import write_miniature

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if not {"_build", "decisions"} & {*page.parts}),
    *sorted(ROOT.glob("benchmarks/*/README.md")),
]
USERS, ITEMS = 200, 320
"""The pages name user 196 and item 313."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_on_the_page_parse(page):
    for words in commands(page.read_text(encoding="utf-8")):
        check_command(words)


def test_commands_are_found():
    assert ["train", "linucb", "--split", "u1", "--out", "runs/second"] in commands(
        PAGES[0].read_text(encoding="utf-8")
    )


def run_walk(folder, *pages, **variables):
    """Run the walk in a folder of its own; return the process."""
    command = [sys.executable, str(ROOT / "scripts" / "lib" / "walk.py"), "--folder", str(folder), *map(str, pages)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500)


@pytest.mark.timeout(1600)
def test_every_block_runs_in_order_on_one_registry(tmp_path):
    pytest.importorskip("tensorflow")
    data = write_miniature(tmp_path / "data", users=USERS, items=ITEMS)
    done = run_walk(tmp_path / "walk", RECPOLICY_WALK_DATA=str(data))
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-5_000:]
    gate = json.loads((tmp_path / "walk" / "gates" / "offers" / "gate.json").read_text())
    assert gate["verdict"] == "pass"  # as use_your_own_features.md promises


PAGE = """# A page

```bash
export NAME=four
```

```python
number = 4
```

```
output
```

<!-- needs: docker -->
```bash
docker run image
```

```python
assert number == 4 and not __import__("os").path.exists("five")
```

```bash
echo "$NAME"
false
echo five > five
```
"""


def test_first_failure_ends_the_walk_with_its_output(tmp_path):
    """Names of Python and exported variables hold to the end of the page; a marked block does not run."""
    (tmp_path / "page.md").write_text(PAGE)
    (tmp_path / "data").mkdir()
    done = run_walk(tmp_path / "walk", tmp_path / "page.md", RECPOLICY_WALK_DATA=str(tmp_path / "data"))
    assert done.returncode == 1, done.stderr
    lines = [line.split(" s  ")[1].split()[0] for line in done.stdout.splitlines() if " s  " in line]
    assert lines == ["ok", "ok", "ok", "ok", "FAILED"], done.stderr
    assert "\nfour\n" in done.stdout
    assert not (tmp_path / "walk" / "five").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# A\n\n<!-- needs: clusters -->\n", "needs 'clusters'; expected cluster, docker, server, traffic"),
        ("text\n\n<!-- needs: cluster -->\nmore\n", "expected a code block below the mark, found 'more'"),
        ("```\nrecpolicy data fetch\n```\n", "commands without a language; write ```bash"),
        ("```\n$ curl -s localhost\n```\n", "commands without a language; write ```bash"),
    ],
)
def test_faulty_page_is_named_with_its_line(tmp_path, text, message):
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ValueError, match=f"page.md:[134]: {message}"):
        read_blocks(page)


def test_mark_below_a_heading_is_of_the_whole_section(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A\n\n```bash\none\n```\n\n## B\n\n<!-- needs: cluster -->\n\ntext\n\n   ```bash\n   two\n   ```\n\n"
        "### C\n\n```bash\nthree\n```\n\n## D\n\n```bash\nfour\n```\n"
    )
    assert [(block.text, block.needs) for block in read_blocks(page)] == [
        ("one\n", None),
        ("two\n", "cluster"),
        ("three\n", "cluster"),
        ("four\n", None),
    ]


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("bash", "if true"),
        ("bash", "recpolicy train linucb --ouch"),
        ("bash", "kubectl get pods\npoetry run recpolicy tarin linucb"),
        ("python", "def f(:\n"),
        ("toml", "[jobs"),
    ],
)
def test_block_that_cannot_run_does_not_parse(tmp_path, language, text):
    page = tmp_path / "page.md"
    page.write_text(f"<!-- needs: cluster -->\n```{language}\n{text}\n```\n")
    (block,) = read_blocks(page)
    with pytest.raises(Exception, match=r"."):
        parse_block(block)
