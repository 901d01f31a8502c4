"""The page of a report: parts into the template, data into one block, scripts by their hash."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from nuclr_cli.errors import MissingPackageError
from nuclr_cli.workflows.report_html import Html, join, tag

_SCRIPTS = ("core.js", "charts.js", "map.js", "units.js", "start.js")
_PLACE = re.compile(r"\{\{(\w+)\}\}")


@dataclass(frozen=True)
class Section:
    """A part with a heading, listed in the contents."""

    id: str
    title: str
    body: Html


def plotly_script() -> str:
    """The plotting library that the page carries.

    Raises:
        MissingPackageError: plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ModuleNotFoundError:
        raise MissingPackageError("plotly", "nuclr report") from None
    return str(get_plotlyjs())


def map_part() -> Html:
    """Controls and place of the map; the script fills them."""
    return Html(_file("map.html"))


def page(
    name: str,
    meta: Html,
    sections: Sequence[Section],
    data: Mapping[str, Any],
    *,
    plotly: str,
    generator: str,
    footer: Html,
    before: Html,
) -> str:
    """The whole page.

    Args:
        name: Of the run.
        meta: Line below it.
        sections: Parts, in order.
        data: What the scripts read.
        plotly: From `plotly_script`.
        generator: Program and version.
        footer: Last line.
        before: What stands above the sections.
    """
    script = "(() => {\n'use strict';\n" + "\n".join(_file(one) for one in _SCRIPTS) + "\n})();"
    scripts = [_unix(one) for one in (plotly, script)]
    links = [tag("li", tag("a", one.title, href=f"#{one.id}")) for one in sections]
    parts = [
        tag(
            "section",
            tag("h2", one.title, id=f"{one.id}-title"),
            one.body,
            id=one.id,
            aria_labelledby=f"{one.id}-title",
        )
        for one in sections
    ]
    # Only these two scripts run, whatever else a browser might take for one; nothing is loaded or sent.
    # Plotly compiles its WebGL calls, which needs 'unsafe-eval'.
    hashes = " ".join(f"'sha256-{_digest(one)}'" for one in scripts)
    policy = (
        f"default-src 'none'; script-src {hashes} 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: "
        "blob:; base-uri 'none'; form-action 'none'"
    )
    values = {
        "policy": html.escape(policy),
        "generator": html.escape(generator),
        "title": html.escape(f"{name}: nuclr report"),
        "style": _file("style.css"),
        "name": html.escape(name),
        "meta": meta,
        "contents": tag("ul", *links),
        "sections": join(before, *parts),
        "footer": footer,
        "data": embedded_json(data),
        "plotly": scripts[0],
        "script": scripts[1],
    }
    # One pass: what a value holds is never taken for a place.
    return _PLACE.sub(lambda match: values[match[1]], _file("page.html"))


def embedded_json(data: Mapping[str, Any]) -> str:
    """JSON that cannot end its script element, open another one, or be taken for a comment."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _unix(script: str) -> str:
    """A script as a browser hashes it: it turns other line ends into newlines."""
    script = script.replace("\r\n", "\n").replace("\r", "\n")
    assert "</script" not in script.lower(), "a script would end inside itself"
    return script


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


def _file(name: str) -> str:
    return (files("nuclr_cli") / "report_page" / name).read_text(encoding="utf-8")
