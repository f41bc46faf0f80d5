"""Command-line options of `TrainConfig`, parsed by tyro, with its docstrings as their help."""

import dataclasses
import shlex
import typing
from collections.abc import Collection
from contextlib import suppress
from typing import Annotated, Any, TypedDict

import tyro

from openddpm.cli.arguments import Flag
from openddpm.config import OPTION_GROUPS, TrainConfig
from openddpm.errors import UserError
from openddpm.other_names import answers
from openddpm.recipes import RECIPES

_DESCRIPTION = """Train a diffusion model and record the whole run.

Try it:  openddpm train --recipe avatars-16

Your own images:  openddpm train --dataset FOLDER --resolution 64 --output_dir runs/mine
"""


class _Recipe(TypedDict, total=False):
    recipe: str


@dataclasses.dataclass
class NoOptions:
    """The additional options of a command that has none."""


@dataclasses.dataclass
class _TrainOptions:
    """Options of `openddpm train` alone."""

    no_follow: Flag = False
    """The same as --follow none: compare with no reference, not even the recipe's."""


def parse_train_config(arguments: list[str]) -> TrainConfig:
    """Return the config that `arguments` of `openddpm train` give, with underscores or hyphens in their names.

    tyro only parses; the config itself validates, so that errors are the same on the command line and in Python.

    Raises:
        UserError: unknown recipe, values out of range, or names of options from other scripts.
        SystemExit: status 2 for an unknown option, with the closest known one; status 0 after --help.
    """
    own, given = parse_options(arguments, "openddpm train", _DESCRIPTION, own=_TrainOptions)
    return TrainConfig(**given | ({"follow": "none"} if own.no_follow else {}))


def parse_options(
    arguments: list[str],
    program: str,
    description: str,
    defaults: TrainConfig | None = None,
    own: type[Any] = NoOptions,
    groups: dict[str, Any] = OPTION_GROUPS,
    without: Collection[str] = (),
) -> tuple[Any, dict[str, Any]]:
    """Return an instance of `own`, and the options of `TrainConfig` that `arguments` give explicitly.

    Args:
        defaults: values that the help text shows as defaults; None shows those of the recipe.
        own: dataclass of the command's additional options.
        groups: title -> group of options.
        without: options of these groups that the command does not take.

    Raises:
        UserError: unknown recipe, or names of options from other scripts.
        SystemExit: as `parse_train_config`.
    """
    names = [name for group in groups.values() for name in group.model_fields if name not in without]
    _refuse_other_names(arguments, [*names, *(field.name for field in dataclasses.fields(own))], f"{program} --help")
    if defaults is None:
        defaults = TrainConfig(**_recipe_among(arguments))
    fields = [
        (title, tyro.conf.OmitArgPrefixes[_parsable(group, defaults, without)], dataclasses.field())  # type: ignore[misc]
        for title, group in groups.items()
    ]
    options = dataclasses.make_dataclass("Options", fields, bases=(own,), kw_only=True)
    options.__doc__ = description
    parsed: Any = tyro.cli(options, args=arguments, prog=program, use_underscores=True)
    return parsed, {name: value for title in groups for name, value in getattr(parsed, title).items()}


def _recipe_among(arguments: list[str]) -> _Recipe:
    """Return the recipe that `arguments` name, if any; errors are left to the parser of all options."""
    with suppress(SystemExit):
        return tyro.cli(_Recipe, args=arguments, return_unknown_args=True, add_help=False, console_outputs=False)[0]
    return {}


def _refuse_other_names(arguments: list[str], known: Collection[str], see: str) -> None:
    """Refuse names of options from other scripts, all at once.

    Raises:
        UserError: naming what replaces each.
    """
    options = [
        argument.partition("=")[0] for argument in arguments if argument.startswith("--") and argument != "--help"
    ]
    negations = {f"no_{name}" for name in known}
    lines = answers(dict.fromkeys(options), {*known, *negations})
    if lines:
        raise UserError("\n".join(lines), f"See `{see}` for every option.")


def _parsable(group: Any, defaults: TrainConfig, without: Collection[str]) -> Any:
    """Return a TypedDict of a group's options, none of them required, which tyro parses without validating."""
    options = {name: _option(name, field, getattr(defaults, name)) for name, field in group.model_fields.items()}
    parsable: Any = TypedDict(  # type: ignore[misc]
        group.__name__, {name: option for name, option in options.items() if name not in without}, total=False
    )
    parsable.__doc__ = group.__doc__
    return parsable


def _option(name: str, field: Any, default: Any) -> Any:
    """Return the type of an option, annotated with its help."""
    kind, shown = field.annotation, {"help": field.description}
    if type(None) in typing.get_args(kind):  # shown without tyro's {None}|
        given = next(entry for entry in typing.get_args(kind) if entry is not type(None))
        kind_name = " ".join(part.__name__ for part in typing.get_args(given) or [given])
        shown["metavar"] = "{" + ",".join(RECIPES) + "}" if name == "recipe" else kind_name.upper()
    values = default if isinstance(default, tuple) else (default,)
    label = " ".join(shlex.quote(str(value)) for value in values)
    shown["help_behavior_hint"] = "" if default in (None, "") else f"(default: {label})"  # the help explains None
    return Annotated[kind, tyro.conf.arg(**shown)]
