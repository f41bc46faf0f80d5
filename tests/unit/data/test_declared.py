from pathlib import Path, PurePosixPath

import pytest

from openddpm.data.declared import MAX_BYTES, declared_files
from openddpm.errors import UserError
from picture_files import open_path, png, tones, write, write_parquet

SPLITS = """
- config_name: default
  data_files:
  - {split: train, path: one/*}
  - split: test
    path: [two/*.png]
"""
CONFIGS = """
- {config_name: big, data_files: "big/*"}
- {config_name: small, data_files: {train: small/a.png, Val: "small/**/b.png"}}
- {config_name: folder, data_dir: folder}
"""
PATHS = ("one/a.png", "two/b.png", "three/c.png", "big/a.png", "small/a.png", "small/x/y/b.png", "folder/train/a.png")
PATHS = (*PATHS, "folder/test/b.png")


def write_set(folder: Path, configs: str) -> Path:
    """Write a folder of images, in tones counted from 0, beside a README.md that declares configurations."""
    for number, name in enumerate(PATHS):
        write(folder / name, png(number))
    write(folder / "README.md", f"---\nlicense: mit\nconfigs:{configs}\n---\n# Images\n".encode())
    return folder


@pytest.mark.parametrize(
    ("configs", "options", "taken"),
    [
        (SPLITS, {}, {0}),
        (SPLITS, {"dataset_split": "Testing"}, {1}),
        (SPLITS, {"dataset_config": "default"}, {0}),
        (CONFIGS, {"dataset_config": "big"}, {3}),
        (CONFIGS, {"dataset_config": "small"}, {4}),
        (CONFIGS, {"dataset_config": "small", "dataset_split": "validation"}, {5}),
        (CONFIGS, {"dataset_config": "folder"}, {6}),
        (CONFIGS, {"dataset_config": "folder", "dataset_split": "test"}, {7}),
        (CONFIGS.replace("data_dir: folder", "data_dir: folder, default: true"), {"dataset_split": "test"}, {7}),
        ("\n- data_files: ['one/*', 'two/[a-b].png']", {}, {0, 1}),
        ("\n- {config_name: a, data_dir: small, data_files: '**'}", {}, {4, 5}),
    ],
)
def test_declared_files_are_the_data_set(
    configs: str, options: dict[str, str], taken: set[int], tmp_path: Path
) -> None:
    """A README.md's configurations and splits are taken as `datasets` takes them, and the rest is counted."""
    source = open_path(write_set(tmp_path, configs), **options)
    assert set(tones(source).values()) == taken
    assert sum(one.count for one in source.left_out if not one.is_text) == len(PATHS) - len(taken)


def test_what_is_left_out_is_told_apart(tmp_path: Path) -> None:
    """Other splits and other configurations were not meant; what nothing declares may have been."""
    configs = SPLITS + "- {config_name: more, data_files: big/*}"
    assert {one.reason: (one.count, one.is_data) for one in open_path(write_set(tmp_path, configs)).left_out} == {
        "not among the files that README.md declares": (5, True),
        "split 'test': --dataset_split chooses one": (1, False),
        "configuration 'more': --dataset_config chooses one": (1, False),
        ".md files": (1, False),
    }


def test_tables_are_counted_by_their_rows(tmp_path: Path) -> None:
    """Of tables whose names tell no split, the declared one is taken, and the images of the other are counted."""
    write_parquet(tmp_path / "part_a.parquet", image=[png(1), png(2)])
    write_parquet(tmp_path / "part_b.parquet", image=[png(3), png(4), png(5)])
    configs = "configs:\n- {config_name: x, data_files: {train: part_a.parquet, test: part_b.parquet}}"
    write(tmp_path / "README.md", f"\ufeff---\r\n{configs}\r\n---\r\n".encode())
    source = open_path(tmp_path)
    assert set(tones(source).values()) == {1, 2}
    assert [(one.reason[:12], one.count) for one in source.left_out if not one.is_text] == [("split 'test'", 3)]


@pytest.mark.parametrize(
    ("configs", "options", "message"),
    [
        (SPLITS, {"dataset_split": "val"}, "declares no split 'val'; its splits are train, test"),
        (SPLITS, {"dataset_config": "x"}, r"no configuration 'x'\n.*known: default"),
        (CONFIGS, {}, "several configurations: big, small, folder"),
        ("\n- data_files: ../*", {}, r"\.\./\* for the split 'train', but no file"),
        ("\n- data_files: /etc/*", {}, r"/etc/\* for the split 'train', but no file"),
        ("\n- data_files: https://example.org/a.png", {}, "no file in the folder matches"),
        ("\n- data_files: README.md", {}, r"8  not among the files that README.md declares[\s\S]*remove 'configs'"),
        (" 3", {"dataset_config": "x"}, "--dataset_config 'x' is for data sets of the Hub, but .* is local"),
    ],
)
def test_what_is_not_declared_or_not_there_is_the_users_error(
    configs: str, options: dict[str, str], message: str, tmp_path: Path
) -> None:
    """A split, a configuration or files that are not there are an error that lists what is; nothing outside is read."""
    write(tmp_path / "c.png", png(9))
    with pytest.raises(UserError, match=message):
        open_path(write_set(tmp_path / "set", configs), **options)


@pytest.mark.parametrize(
    "configs",
    [" 3", " [3]", "\n- {config_name: 3}", " [", "\n- data_files: 3", "\n- data_files: [[a]]", " [" * 5000]
    + ["\n- data_dir: 3", "\n- data_files: {train: 3}", " !!python/object/apply:os.getcwd []", " 2020-99-99"],
)
def test_a_damaged_readme_is_told_and_not_used(configs: str, tmp_path: Path) -> None:
    """What cannot be understood is no declaration: names decide, and that is said."""
    source = open_path(write_set(tmp_path, configs))
    assert set(tones(source).values()) == {6}, "train beside test"
    assert any(one.reason.startswith("declarations in README.md, which cannot") for one in source.left_out)


@pytest.mark.parametrize("text", ["", "# Images", "---\nlicense: mit\n---", "---\nconfigs: []\n---", "---\n[1]\n---"])
def test_a_readme_that_declares_nothing_changes_nothing(text: str, tmp_path: Path) -> None:
    """Most folders have such a README.md, and nothing is said of it."""
    write(write_set(tmp_path, "") / "README.md", text.encode() + b" " * MAX_BYTES)
    source = open_path(tmp_path)
    assert set(tones(source).values()) == {6}, "train beside test"
    assert not any("README" in one.reason for one in source.left_out)


def test_declared_files_that_are_missing_are_told(tmp_path: Path) -> None:
    """Of several patterns of a split, those that match nothing are named."""
    source = open_path(write_set(tmp_path, "\n- data_files: [one/*, gone/*, gone.png]"))
    (told,) = [one for one in source.left_out if one.reason == "named by README.md, but missing"]
    assert (told.count, told.examples, told.is_data) == (2, ["gone/*", "gone.png"], True)


@pytest.mark.parametrize(
    ("pattern", "locked", "is_needed"),
    [("one/*", "one", True), ("**", "a/b", True), ("*/x/*.png", "b/x", True), ("*", "one", False)]
    + [("one/*", "one/deeper", False), ("**/*.png", "a", True), ("one/*", "two", False)],
)
def test_a_locked_folder_belongs_to_a_split_if_its_files_could(
    pattern: str, locked: str, is_needed: bool, tmp_path: Path
) -> None:
    """A folder that cannot be listed is of the split if its patterns could match in it."""
    write(tmp_path / "README.md", f"---\nconfigs: [data_files: ['{pattern}', c.png]]\n---".encode())
    paths = [PurePosixPath("README.md"), PurePosixPath("c.png")]
    declared = declared_files(tmp_path, paths, [PurePosixPath(locked)], None, "train")
    assert declared is not None and (PurePosixPath(locked) in declared.places) == is_needed


def test_tables_of_several_folders_are_told(tmp_path: Path) -> None:
    """Tables in folders, which may be configurations of their own, are taken together, and that is said."""
    write_parquet(tmp_path / "full" / "a.parquet", image=[png(1), png(2)])
    write_parquet(tmp_path / "mini" / "a.parquet", image=[png(1)])
    (told,) = open_path(tmp_path).left_out
    assert told.reason.startswith("images from 2 folders, taken together: full (2), mini (1)")
    assert not open_path(tmp_path / "full").left_out
