"""Declarations in a data set's README.md, as on the Hub: configurations, and the files of each split."""

import fnmatch
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from openddpm.data.decode import RefusedImage
from openddpm.data.image_source import read_encoded
from openddpm.data.splits import DEFAULT_SPLIT, split_of
from openddpm.errors import UserError, closest
from openddpm.names import as_text

README = "README.md"
MAX_BYTES = 4 * 2**20  # assumed: thousands of configurations
_WILD = re.compile(r"[*?[]")
_FRONT_MATTER = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)


class OddReadmeError(Exception):
    """Error of a README.md whose YAML is damaged, or declares files in an unknown way."""


@dataclass(frozen=True)
class _Config:
    name: str
    is_default: bool
    folder: PurePosixPath
    """data_dir: the folder of its files."""
    patterns: dict[str, list[PurePosixPath]] | None
    """Patterns of files by split; None if the names of files tell the splits."""


@dataclass(frozen=True)
class Declared:
    """The files of one configuration."""

    split: str | None
    """The requested split, as it is spelled there; None if the names of files tell the splits."""
    places: Mapping[PurePosixPath, str] = field(default_factory=dict)
    """The split of each file that is in one."""
    outside: Mapping[PurePosixPath, str] = field(default_factory=dict)
    """The configuration of each file that is in another one."""
    unmatched: tuple[str, ...] = ()
    """Patterns of the split that no file in the folder matches."""


def declared_files(
    folder: Path, paths: Collection[PurePosixPath], unlisted: Iterable[PurePosixPath], config: str | None, split: str
) -> Declared | None:
    """Return what the README.md in a folder declares about `paths`; None without one, or if it declares no files.

    A pattern matches as in the `datasets` library, but nothing outside the folder.

    Args:
        paths: all files in the folder.
        unlisted: folders in it that cannot be listed; they belong to the split if its patterns may match in them.
        config: the value of --dataset_config.
        split: the value of --dataset_split.

    Raises:
        OddReadmeError: its YAML is damaged.
        UserError: there is no such configuration or split, a choice is needed, or none of the files are there.
    """
    configs = _configs(folder / README) if PurePosixPath(README) in paths else []
    if all(one.patterns is None and not one.folder.parts for one in configs):
        return None
    where = as_text(folder / README)
    chosen = _choose(configs, config, where)
    files = {one.name: _of_config(one, paths) for one in configs}
    outside = {path: name for name, found in files.items() if name != chosen.name for path in found}
    own = files[chosen.name]
    if chosen.patterns is None:
        near = (one for one in unlisted if one.is_relative_to(chosen.folder) or chosen.folder.is_relative_to(one))
        return Declared(None, own | dict.fromkeys(near, ""), outside)
    wanted = next((one for one in chosen.patterns if one == split), None)
    wanted = wanted or next((one for one in chosen.patterns if split_of(one) == split_of(split)), None)
    if wanted is None:
        found = f"'{where}' declares no split '{as_text(split)}'"
        found += f"; its splits are {', '.join(map(as_text, chosen.patterns))}"
        raise UserError(found, f"Choose one: --dataset_split {as_text(next(iter(chosen.patterns)))}.")
    patterns = chosen.patterns[wanted]
    taken = _matching(paths, patterns) + [path for path in unlisted if _may_hold(path, patterns)]
    if not taken:
        shown = ", ".join(as_text(str(one)) for one in patterns[:3])
        found = f"'{where}' declares {shown} for the split '{as_text(wanted)}', but no file in the folder matches that"
        raise UserError(found, "Download the whole data set, or give the folder of the images as --dataset.")
    present = set(paths)
    unmatched = [str(one) for one in patterns if not (_matching(paths, [one]) if _is_glob(one) else one in present)]
    return Declared(wanted, own | dict.fromkeys(taken, wanted), outside, tuple(unmatched))


def _configs(readme: Path) -> list[_Config]:
    """Return the configurations that a README.md declares."""
    import yaml

    content = read_encoded(readme)
    if isinstance(content, RefusedImage):
        raise OddReadmeError(str(content))
    match = _FRONT_MATTER.match(content[:MAX_BYTES].decode("utf-8", "replace"))
    try:
        loaded = yaml.safe_load(match[1]) if match else None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise OddReadmeError(str(error).splitlines()[0]) from error
    declared = loaded.get("configs") if isinstance(loaded, dict) else None
    if declared is None:
        return []
    if not isinstance(declared, list):
        raise OddReadmeError("configs is no list")
    return [_config(one) for one in declared]


def _config(declared: object) -> _Config:
    if not isinstance(declared, dict) or not isinstance(name := declared.get("config_name", "default"), str):
        raise OddReadmeError("a configuration without a name")
    folder, files = declared.get("data_dir") or "", declared.get("data_files")
    if not isinstance(folder, str):
        raise OddReadmeError(f"the data_dir of {name} is no text")
    patterns: dict[str, list[PurePosixPath]] = {}
    parts = [files] if isinstance(files, str | dict) else files
    if not isinstance(parts, list | None):
        raise OddReadmeError(f"the data_files of {name} are no list")
    for part in parts or []:
        by_split = {DEFAULT_SPLIT: part} if isinstance(part, str) else part
        if isinstance(part, dict) and part.keys() == {"split", "path"}:
            by_split = {part["split"]: part["path"]}
        if not isinstance(by_split, dict):
            raise OddReadmeError(f"the data_files of {name} are no texts")
        for split, path in by_split.items():
            texts = path if isinstance(path, list) else [path]
            if not isinstance(split, str) or not all(isinstance(text, str) for text in texts):
                raise OddReadmeError(f"the data_files of {name} are no texts")
            patterns.setdefault(split, []).extend(PurePosixPath(folder, text) for text in texts)
    return _Config(name, declared.get("default") is True, PurePosixPath(folder), patterns or None)


def _choose(configs: list[_Config], asked: str | None, where: str) -> _Config:
    """Return the requested configuration, the default one, or the only one."""
    names = [as_text(one.name) for one in configs]
    if asked is not None:
        for one in configs:
            if one.name == asked:
                return one
        found = f"'{where}' declares no configuration '{as_text(asked)}'"
        raise UserError(found, f"Choose one with --dataset_config; {closest(asked, names)}")
    defaults = [one for one in configs if one.is_default] or [one for one in configs if one.name == "default"]
    if len(configs) > 1 and not defaults:
        found = f"'{where}' declares several configurations: {', '.join(names)}"
        raise UserError(found, f"Choose one: --dataset_config {names[0]}.")
    return (defaults or configs)[0]


def _of_config(config: _Config, paths: Collection[PurePosixPath]) -> dict[PurePosixPath, str]:
    """Return the split of each file of a configuration; "" if that is not declared."""
    if config.patterns is None:
        return {path: "" for path in paths if path.is_relative_to(config.folder)}
    return {path: split for split, patterns in config.patterns.items() for path in _matching(paths, patterns)}


def _is_glob(pattern: PurePosixPath) -> bool:
    return _WILD.search(str(pattern)) is not None


def _matching(paths: Collection[PurePosixPath], patterns: Collection[PurePosixPath]) -> list[PurePosixPath]:
    plain = {pattern for pattern in patterns if not _is_glob(pattern)}
    globs = [(_WILD.split(str(pattern))[0], pattern.parts) for pattern in patterns if pattern not in plain]
    return [
        path
        for path in paths
        if path in plain or any(str(path).startswith(start) and _matches(path.parts, glob) for start, glob in globs)
    ]


def _matches(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Return whether a path matches a pattern, in which ** stands for any number of folders."""
    reached = {0}  # numbers of parts of the path that the pattern so far can match
    for one in pattern:
        if one == "**":
            reached = set(range(min(reached), len(parts) + 1)) if reached else reached
        else:
            reached = {at + 1 for at in reached if at < len(parts) and fnmatch.fnmatchcase(parts[at], one)}
    return len(parts) in reached


def _may_hold(folder: PurePosixPath, patterns: Iterable[PurePosixPath]) -> bool:
    """Return whether files in a folder could match."""
    above = [one.parts if one.name == "**" else one.parts[:-1] for one in patterns]
    return any(_matches(folder.parts, parts[:end]) for parts in above for end in range(1, len(parts) + 1))
