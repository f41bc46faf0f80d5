"""The command line of `TrainConfig`: its groups of options as tyro shows them, its docstrings as their help."""

import dataclasses
import typing
from collections.abc import Collection
from typing import Annotated, Any

import tyro

from openddpm.config import OPTION_GROUPS, TrainConfig
from openddpm.errors import UserError
from openddpm.other_names import answers
from openddpm.recipes import RECIPES

_DESCRIPTION = """Train a diffusion model and record the whole run.

Try it:  openddpm train --recipe avatars-16

Your own images:  openddpm train --dataset FOLDER --resolution 64 --output_dir runs/mine
"""


def parse_train_config(
    arguments: list[str],
    program: str = "openddpm train",
    description: str = _DESCRIPTION,
    defaults: TrainConfig | None = None,
) -> TrainConfig:
    """Return the config that `arguments` of `program` spell, with underscores or hyphens alike.

    Options that are not given are those of `defaults`, or else of the recipe.

    tyro only parses; the config itself validates, so that the command line and Python say the same of a wrong value.

    Raises:
        UserError: unknown recipe, values out of range, or options by the names that other scripts have for them.
        SystemExit: status 2 for an unknown option, with the nearest known; status 0 after --help.
    """
    refuse_other_names(arguments, TrainConfig.model_fields)
    recipe = _last_value(arguments, "recipe")
    defaults = defaults or (TrainConfig() if recipe is None else TrainConfig(recipe=recipe))
    groups = [
        (title, tyro.conf.OmitArgPrefixes[parsable(group, defaults)], dataclasses.field())  # type: ignore[misc]
        for title, group in OPTION_GROUPS.items()
    ]
    options = dataclasses.make_dataclass("Options", groups)
    options.__doc__ = description
    parsed: Any = tyro.cli(options, args=arguments, prog=program, use_underscores=True)
    chosen = defaults.model_fields_set  # what is neither given nor there stays unset: TrainConfig knows its defaults
    values = {
        name: value
        for group in dataclasses.asdict(parsed).values()
        for name, value in group.items()
        if name in chosen or _is_given(arguments, name) or _is_given(arguments, f"no_{name}")
    }
    asks_for_length = _is_given(arguments, "num_epochs") or _is_given(arguments, "max_minutes")
    if asks_for_length and not _is_given(arguments, "max_train_steps"):
        values["max_train_steps"] = None  # a recipe's steps would silently win over the epochs or minutes asked for
    return TrainConfig(**values)


def refuse_other_names(arguments: list[str], known: Collection[str], see: str = "openddpm train --help") -> None:
    """Answer options by the names that other scripts have for them, all at once.

    Raises:
        UserError: with what stands here for each.
    """
    options = [
        argument.partition("=")[0] for argument in arguments if argument.startswith("--") and argument != "--help"
    ]
    negations = {f"no_{name}" for name in known}
    lines = answers(dict.fromkeys(options), {*known, *negations})
    if lines:
        raise UserError("\n".join(lines), f"See `{see}` for every option.")


def parsable(group: Any, defaults: TrainConfig, without: Collection[str] = ()) -> Any:
    """Return a dataclass with a group's fields, but for those named, for tyro to parse without validating."""
    fields = []
    for name, field in group.model_fields.items():
        if name in without:
            continue
        kind, default, help_options = field.annotation, getattr(defaults, name), {"help": field.description}
        if type(None) in typing.get_args(kind):  # shown as what may be given, without tyro's {None}|
            given = next(entry for entry in typing.get_args(kind) if entry is not type(None))
            kind_name = " ".join(part.__name__ for part in typing.get_args(given) or [given])
            help_options["metavar"] = "{" + ",".join(RECIPES) + "}" if name == "recipe" else kind_name.upper()
        if default in (None, ""):  # the help text says what happens then
            help_options["help_behavior_hint"] = ""
        option = Annotated[kind, tyro.conf.arg(**help_options)]  # type: ignore[valid-type]
        fields.append((name, option, dataclasses.field(default=default)))
    parsable = dataclasses.make_dataclass(group.__name__, fields)
    parsable.__doc__ = group.__doc__
    return parsable


def _is_given(arguments: list[str], option: str) -> bool:
    return any(_option_name(argument) == option for argument in arguments)


def _last_value(arguments: list[str], option: str) -> str | None:
    """Return the value that tyro will find for `option`: where it is given twice, the last."""
    value = None
    for index, argument in enumerate(arguments):
        if _option_name(argument) == option:
            _, is_joined, joined = argument.partition("=")
            value = joined if is_joined else next(iter(arguments[index + 1 :]), None)
    return value


def _option_name(argument: str) -> str:
    """--max-train-steps=7 -> max_train_steps"""
    name, _, _ = argument.partition("=")
    return name.removeprefix("--").replace("-", "_") if name.startswith("--") else ""
