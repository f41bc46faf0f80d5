"""What a user installs is whole."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_data_file_ships() -> None:
    """Each file of the package that is no Python source is named by a pattern of package-data."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["openddpm"]
    package = ROOT / "src" / "openddpm"
    files = [path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()]
    data = {name for name in files if not name.endswith((".py", ".pyc"))}
    assert {"data/builtin/avatars-16.parquet", "references/builtin/digits-8/seed-0/run.json"} <= data
    shipped = {path.relative_to(package).as_posix() for pattern in patterns for path in package.glob(pattern)}
    assert data - shipped == set()
