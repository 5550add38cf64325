"""The linter of prose: planted faults are found, and the repository has none."""

import importlib.util
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_SPEC = importlib.util.spec_from_file_location("lint_prose", ROOT / "scripts" / "lib" / "lint_prose.py")
assert _SPEC
assert _SPEC.loader
lint_prose = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(lint_prose)

CODE = '''"""A module; see docs/page.md and recpolicy.ope.estimate."""

def estimate():
    """Return one."""
'''


@pytest.fixture
def repository(tmp_path):
    """A repository without faults."""
    write(tmp_path, "src/recpolicy/__init__.py", "")
    write(tmp_path, "src/recpolicy/ope/__init__.py", CODE)
    write(tmp_path, "docs/page.md", "# A page\n\n## Two words, `code`\n\n[a](#two-words-code), `ope/__init__.py`\n")
    write(tmp_path, "CHANGELOG.md", "docs/gone.md and [gone](gone.md)\n")
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    return tmp_path


def write(root, name, text):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def found(root):
    return [fault for _, fault in lint_prose.faults(root)]


def test_a_repository_without_faults_passes(repository, capsys):
    assert found(repository) == []
    assert lint_prose.main([str(repository)]) == 0
    assert "prose: 0 faults" in capsys.readouterr().out


@pytest.mark.parametrize("start", ["What", "Who", "Whether", "Which", "How"])
@pytest.mark.parametrize(
    "code",
    [
        '"""{} a module."""',
        'class A:\n    """{} a class."""',
        'def f():\n    """{} it does."""',
        'a: int = 1\n"""{} a is."""',
    ],
)
def test_a_docstring_that_starts_like_a_question_is_a_fault(repository, start, code):
    write(repository, "src/recpolicy/ope/asked.py", code.format(start))
    assert [start in fault for fault in found(repository)] == [True]


@pytest.mark.parametrize("text", ["However it goes.", "Whatever.", "Return what was asked."])
def test_other_starts_are_none(repository, text):
    write(repository, "src/recpolicy/ope/fine.py", f'"""{text}"""')
    assert found(repository) == []


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("[a](gone.md)", "link to gone.md: no such file"),
        ("[a](page.md#three-words)", "link to page.md#three-words: no such heading"),
        ("[`estimate`](../src/recpolicy/ope/__init__.py#L4)", "`estimate` is not on that line"),
        ("[`estimate`](../src/recpolicy/ope/__init__.py#L9)", "`estimate` is not on that line"),
        ("`recpolicy.ope.gone`", "no module or name 'recpolicy.ope.gone'"),
        ("`recpolicy.gone.estimate`", "no module or name 'recpolicy.gone.estimate'"),
        ("src/recpolicy/gone.py", "no file 'src/recpolicy/gone.py'"),
        ("see `ope/gone.py`", "no file 'ope/gone.py'"),
        ("docs/gone", "no file 'docs/gone'"),
    ],
)
def test_names_and_links_that_lead_nowhere_are_faults(repository, line, fault):
    write(repository, "docs/other.md", f"A line: {line}.\n")
    assert len(found(repository)) == 1
    assert fault in found(repository)[0]


@pytest.mark.parametrize(
    "line",
    [
        "[`estimate`](../src/recpolicy/ope/__init__.py#L3)", "[a](page.md)", "[a](https://example.org/gone.md)",
        "`recpolicy.ope.estimate`", "recpolicy.ope", "`src/recpolicy/agents/NAME.py`", "docs/page.md",
    ],
)  # fmt: skip
def test_names_and_links_that_exist_are_none(repository, line):
    write(repository, "docs/other.md", f"A line: {line}.\n")
    assert found(repository) == []


def test_a_fault_fails_the_check(repository, capsys):
    assert lint_prose.main([str(repository)]) == 0
    write(repository, "src/recpolicy/ope/asked.py", '"""What it does."""')
    assert lint_prose.main([str(repository)]) == 1
    assert "asked.py:1: docstring starts with 'What'" in capsys.readouterr().out


def test_fix_moves_links_to_the_definitions_that_they_name(repository):
    write(
        repository,
        "docs/walk.md",
        "[`estimate`](../src/recpolicy/ope/__init__.py#L1) [`gone`](page.md#two-words-code)\n",
    )
    assert lint_prose.main(["--fix", str(repository)]) == 0
    assert "__init__.py#L3)" in (repository / "docs" / "walk.md").read_text()
