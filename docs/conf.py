"""Sphinx's settings; `make docs` builds the site.

The source folder is the repository, so that a link between documents works both there and on the site.
"""

import shutil
from pathlib import Path
from typing import Any

project = "metaclip"
copyright = "the metaclip authors, Apache-2.0"
root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "curation/README.md",
    "curation/tour.ipynb",
    "data_cards/README.md",
    "data_cards/icons/README.md",
    "data_cards/worldwide/README.md",
    "data_cards/toy/README.md",
    "metadata/README.md",
    "training/README.md",
]
exclude_patterns = [".*", "build", "dist", "metaclip", "run*", "tests"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx_click", "sphinx_copybutton"]

# Markdown
myst_heading_anchors = 3
smartquotes = False  # options begin with two hyphens
highlight_language = "text"
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 300

# Python: docstrings are plain text with `code` in single backquotes.
default_role = "code"
autoclass_content = "both"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100

# The site
html_theme = "furo"
html_title = "metaclip"
html_copy_source = False
html_show_sphinx = False
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True


def literal_epilog(app: Any, context: Any, lines: list[str]) -> None:
    """Show the examples at the end of a command's help as they are."""
    text = [line.removeprefix("| ") for line in lines]
    if any(text):
        lines[:] = ["::", "", *(f"    {line}" for line in text), ""]


def finish(app: Any, error: Exception | None) -> None:
    """Let the site's address lead to its first page, and add the toy card's explorer, which a tutorial opens."""
    if error is None:
        site = Path(app.outdir)
        first = f'<!doctype html><meta http-equiv="refresh" content="0; url={root_doc}.html">\n'
        (site / "index.html").write_text(first, encoding="utf-8")
        shutil.copytree(
            Path(app.srcdir) / "data_cards" / "toy", site / "data_cards" / "toy", dirs_exist_ok=True
        )


def setup(app: Any) -> None:
    """Connect the functions above."""
    app.connect("sphinx-click-process-epilog", literal_epilog)
    app.connect("build-finished", finish)
