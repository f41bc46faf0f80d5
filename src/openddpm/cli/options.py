"""The command line of `TrainConfig`: its groups of options as tyro shows them, its docstrings as their help."""

import dataclasses
import typing
from typing import Annotated, Any

import tyro

from openddpm.config import OPTION_GROUPS, TrainConfig

_DESCRIPTION = """Train a diffusion model and record the whole run.

Try it:      openddpm train --recipe avatars-16
Your images: openddpm train --dataset FOLDER --resolution 64 --output_dir runs/mine
"""


def parse_train_config(arguments: list[str]) -> TrainConfig:
    """Return the config that `arguments` spell, with underscores or hyphens alike.

    tyro only parses; the config itself validates, so that the command line and Python say the same of a wrong value.

    Raises:
        UserError: unknown recipe, or values out of range.
        SystemExit: status 2 for an unknown option, with the nearest known; status 0 after --help.
    """
    recipe = _recipe_in(arguments)
    defaults = TrainConfig(recipe=recipe) if recipe is not None else TrainConfig()
    groups = [
        (title, tyro.conf.OmitArgPrefixes[_parsable(group, defaults)], dataclasses.field())  # type: ignore[misc]
        for title, group in OPTION_GROUPS.items()
    ]
    options = dataclasses.make_dataclass("Options", groups)
    options.__doc__ = _DESCRIPTION
    parsed = tyro.cli(options, args=arguments, prog="openddpm train", use_underscores=True)
    values = {name: value for group in dataclasses.asdict(parsed).values() for name, value in group.items()}
    return TrainConfig(**values)


def _parsable(group: Any, defaults: TrainConfig) -> Any:
    """Return a dataclass with a group's fields, for tyro to parse without validating."""
    fields = []
    for name, field in group.model_fields.items():
        kind, help_options = field.annotation, {"help": field.description}
        if type(None) in typing.get_args(kind):  # shown as what may be given, without tyro's {None}|
            kind_name = next(entry.__name__ for entry in typing.get_args(kind) if entry is not type(None))
            help_options |= {"metavar": kind_name.upper(), "help_behavior_hint": ""}
        option = Annotated[kind, tyro.conf.arg(**help_options)]
        fields.append((name, option, dataclasses.field(default=getattr(defaults, name))))
    parsable = dataclasses.make_dataclass(group.__name__, fields)
    parsable.__doc__ = group.__doc__
    return parsable


def _recipe_in(arguments: list[str]) -> str | None:
    for index, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == "--recipe":
            return value or (arguments[index + 1] if index + 1 < len(arguments) else None)
    return None
