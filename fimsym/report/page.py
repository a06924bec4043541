"""Self-contained HTML pages: one template, styles and figures inlined."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2


def render(template: str, context: Mapping[str, Any]) -> str:
    """Return a page as HTML text; every value is escaped unless marked safe."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = (Path(__file__).parent / "style.css").read_text()
    return environment.get_template(template).render(style=style, **context)
