"""Arguments that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro

RunFolder = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
OptionalText = Annotated[str | None, tyro.conf.arg(metavar="STR", help_behavior_hint="")]
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
"""An option that is given or not, without a --no_ form."""
OptionalPath = Annotated[Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="")]


def call(command: Callable[..., int], name: str, arguments: list[str]) -> int:
    """Parse `arguments` by the signature and docstring of `command`, call it, and return the exit status."""
    return tyro.cli(command, args=arguments, prog=f"openddpm {name}", use_underscores=True)
