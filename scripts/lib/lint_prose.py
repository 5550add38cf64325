"""Check the prose of the repository: docstrings start with a verb or noun; files, modules and links exist.

    python scripts/lib/lint_prose.py [--fix] [ROOT]

1. No docstring below src/ starts with What, Who, Whose, Whether, Which or How.
2. A relative link in Markdown leads to a file and to one of its headings. A link `path.py#L12` leads to a line that
   contains the text of the link.
3. Module paths (`recpolicy.x.y`) and file names in docstrings and Markdown exist.

CHANGELOG.md and docs/decisions keep the names of their time.
`--fix` first moves the lines of links to Python files to the definitions that the links name.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

EXEMPT = ("CHANGELOG.md", "docs/decisions/")
_QUESTION = re.compile(r"(What|Who|Whose|Whether|Which|How)\b")
_LINK = re.compile(r"\[(?P<text>[^\[\]]*)\]\((?P<path>[^)\s#:]*)(?:#(?P<anchor>[^)\s]+))?\)")
_MODULE = re.compile(r"(?<![\w./@-])recpolicy(?:\.\w+)+\b(?<!\.md)(?<!\.json)(?<!\.toml)")
_FILE = re.compile(r"(?<![\w./{*$<-])(?:[\w-]+/)*[\w-]+\.(?:py|md|ipynb)\b|(?<![\w./{*$<-])configs/\w+\.toml")
_FOLDER = re.compile(r"(?<![\w./:{-])(?:src|docs|tests|benchmarks|scripts|deploy|notebooks)/[\w./-]*\w")
# Parts of names that stand for a file of the reader.
_PLACEHOLDER = re.compile(r"NAME|\bmine\b|\bmy_|\byour_|_build|results\.json")


def main(arguments: list[str]) -> int:
    """Print the faults; return 1 if there is one."""
    root = Path(next((argument for argument in arguments if not argument.startswith("--")), ".")).resolve()
    if "--fix" in arguments:
        for page in root.glob("docs/*.md"):
            page.write_text(_LINK.sub(lambda link, page=page: moved(page, link), page.read_text(encoding="utf-8")))
    found = list(faults(root))
    print(*(f"{place}: {fault}\n" for place, fault in found), sep="", end="")
    print(f"prose: {len(found)} faults")
    return 1 if found else 0


def faults(root: Path) -> Iterator[tuple[str, str]]:
    """Yield place and fault, over all files below root that git tracks."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.splitlines()
    listed = [name for name in listed if (root / name).is_file()]
    names = Names(root, listed)
    for name in listed:
        if name.startswith("src/") and name.endswith(".py"):
            for line, text in docstrings(root / name):
                yield from ((f"{name}:{line}", fault) for fault in docstring_faults(text, names))
        elif name.endswith(".md") and not name.startswith(EXEMPT):
            for line, text in enumerate((root / name).read_text(encoding="utf-8").splitlines(), 1):
                for fault in (*link_faults(root / name, text), *name_faults(text, names)):
                    yield f"{name}:{line}", fault


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of the docstrings of the module, its classes, functions and attributes."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, node.value.value


def docstring_faults(text: str, names: "Names") -> Iterator[str]:
    """Yield the faults of one docstring."""
    if start := _QUESTION.match(text.strip()):
        yield f"docstring starts with {start[1]!r}; start with a verb (functions) or a noun (classes, attributes)"
    yield from name_faults(text, names)


def name_faults(text: str, names: "Names") -> Iterator[str]:
    """Yield the module paths and file names that do not exist."""
    text = re.sub(r"\w+://\S+|\]\([^)]*\)", "", text)  # targets of links are checked as links
    yield from (f"no module or name {name!r}" for name in _MODULE.findall(text) if not names.has_module(name))
    for name in sorted({*_FILE.findall(text), *_FOLDER.findall(text)}):
        if not names.has_file(name) and not _PLACEHOLDER.search(name):
            yield f"no file {name!r}"


def link_faults(page: Path, text: str) -> Iterator[str]:
    """Yield the relative links of one line that lead nowhere."""
    for link in _LINK.finditer(text):
        target = (page.parent / link["path"]).resolve() if link["path"] else page
        where = f"link to {link['path']}#{link['anchor']}" if link["anchor"] else f"link to {link['path']}"
        if not target.exists():
            yield f"{where}: no such file"
        elif link["anchor"] and target.suffix == ".md" and link["anchor"] not in anchors(target):
            yield f"{where}: no such heading"
        elif link["anchor"] and target.suffix == ".py" and not _is_on_line(target, link["anchor"], link["text"]):
            yield f"{where}: {link['text']} is not on that line"


def moved(page: Path, link: re.Match[str]) -> str:
    """Return a link `path.py#L12` with the line on which the name in its text is defined."""
    target = (page.parent / link["path"]).resolve()
    if not link["anchor"] or target.suffix != ".py" or not target.is_file():
        return link[0]
    name = link["text"].strip("`").removesuffix("()").split(".")[-1]
    for number, line in enumerate(target.read_text(encoding="utf-8").splitlines(), 1):
        if re.match(rf"\s*(async def|def|class) {re.escape(name)}\b|{re.escape(name)}\b.* = ", line):
            return f"[{link['text']}]({link['path']}#L{number})"
    return link[0]


@cache
def anchors(page: Path) -> frozenset[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings)


def _is_on_line(path: Path, anchor: str, text: str) -> bool:
    lines = path.read_text(encoding="utf-8").splitlines()
    number = int(anchor[1:]) if re.fullmatch(r"L\d+", anchor) else 0
    name = text.strip("`").removesuffix("()").split(".")[-1]
    return 0 < number <= len(lines) and re.search(rf"\b{re.escape(name)}\b", lines[number - 1]) is not None


class Names:
    """The files and modules of the repository."""

    def __init__(self, root: Path, files: list[str]) -> None:
        self._root = root
        parts = [name.split("/") for name in files]
        self._endings = {"/".join(name[start:]) for name in parts for start in range(len(name))}

    def has_file(self, name: str) -> bool:
        """Return whether the path exists or a file of the repository ends with it."""
        return name in self._endings or (self._root / name).exists()

    def has_module(self, module: str) -> bool:
        """Return whether the module exists; a name inside it must occur in its source."""
        path, parts = self._root / "src", module.split(".")
        while parts and ((path / parts[0]).is_dir() or (path / f"{parts[0]}.py").is_file()):
            path /= parts.pop(0)
        file = path.with_suffix(".py") if path.with_suffix(".py").is_file() else path / "__init__.py"
        return not parts or (file.is_file() and bool(re.search(rf"\b{parts[0]}\b", file.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
