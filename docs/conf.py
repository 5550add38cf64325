"""Settings of the documentation site; `scripts/docs` builds it.

The source folder is the repository, so that a link works on the site as it does in a checkout.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "docs" / "sphinx"), str(ROOT / "tests")]

project = "recpolicy"
author = "The recpolicy authors"
copyright = author
root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "benchmarks/**/README.md",
    "benchmarks/README.md",
    "notebooks/*",
    "pipelines/README.md",
]
# Folders listed here are not searched for pages at all.
exclude_patterns = [
    ".*", "configs", "deploy", "docs/_build", "docs/images", "docs/sphinx", "ml-100k", "runs", "scripts",
    "src", "tests", "**/__pycache__",
]  # fmt: skip
extensions = [
    "myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton",
    "command_pages", "docstrings", "leaderboard_table", "repository_links", "sample_notebooks", "toctrees",
]  # fmt: skip

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
nb_execution_mode = "cache"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # these scripts would come from the network

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
default_role = "code"

html_theme = "furo"
html_title = "recpolicy"
html_static_path = ["sphinx/static"]
html_css_files = ["site.css"]
toc_object_entries_show_parents = "hide"
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
copybutton_prompt_text = "$ "
