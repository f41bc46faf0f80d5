"""Pages that need nothing else: their style, scripts and data are in them, and they can fetch nothing."""

import base64
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from openddpm.errors import UserError
from openddpm.record.files import write_atomically

MARK = b'<meta name="generator" content="openddpm">'
"""What tells a page of openddpm, in its head."""
HEAD_BYTES = 4096


def write_page(path: Path, html: str) -> None:
    """Write a page where a user wants it, replacing none but an earlier page of openddpm or an empty file.

    Raises:
        UserError: something else is at `path`, or it cannot be written.
    """
    check_page(path)
    try:
        write_atomically(path, html)
    except OSError as error:
        raise UserError(f"'{path}' cannot be written: {error.strerror}", "Name another file for the page.") from error


def check_page(path: Path) -> None:
    """Check, before long work, that a page may be written to `path`.

    Raises:
        UserError: something else than an earlier page of openddpm or an empty file is there.
    """
    try:
        if path.is_file():
            with path.open("rb") as file:
                head = file.read(HEAD_BYTES)
            is_ours = not head or MARK in head
        else:
            if path.is_dir():
                raise UserError(f"'{path}' cannot be written: it is a folder", "Name an HTML file for the page.")
            is_ours = not path.exists()
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror}", "Name another file for the page.") from error
    if not is_ours:
        raise UserError(f"'{path}' is there already, and is no page of openddpm", "Name another file for the page.")


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
