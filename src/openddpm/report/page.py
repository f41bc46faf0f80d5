"""Pages that need nothing else: their style, scripts and data are in them, and they can fetch nothing."""

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def render_page(template: str, *, scripts: Sequence[str], data: Any, **context: Any) -> str:
    """Return a page made from a template that extends page.html.j2.

    Args:
        scripts: run in this order; nothing else can run.
        data: JSON for the scripts; NaN and infinities are refused.
        context: of the template. Everything in it is escaped.
    """
    return (
        _environment()
        .get_template(template)
        .render(
            policy=content_security_policy(scripts),
            style=Markup(asset("report.css")),
            scripts=[Markup(script) for script in scripts],
            data=Markup(json_for_html(data)),
            **context,
        )
    )


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def asset(name: str) -> str:
    """Return a file that comes with this package."""
    return (files(__package__) / name).read_text(encoding="utf-8")


def content_security_policy(scripts: Sequence[str]) -> str:
    """Return the policy under which a page can fetch nothing and run exactly `scripts`.

    Plots write style attributes, hence 'unsafe-inline' for styles.
    """
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    return (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {hashes}; "
        "base-uri 'none'; form-action 'none'"
    )


def json_for_html(value: Any) -> str:
    """Return `value` as JSON that cannot end the script element it stands in."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
