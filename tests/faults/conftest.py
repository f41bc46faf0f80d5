"""One place for all tiny runs, and the runs left alone that the others are compared with."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import openddpm.training.update as update
from fault_injection import Site, moments_file, recorded_moments, start, start_ranks, watch


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A folder with images, already decoded, and a model; each test names its runs differently."""
    site = Site(tmp_path_factory.mktemp("faults"))
    assert start(site, site.command("decoding", max_train_steps=1), "decoding").wait() == 0
    return site


@pytest.fixture(scope="session")
def whole(site: Site) -> Callable[..., Path]:
    """The folder of an undisturbed run with given options, by one process or several; made once, its moments noted."""
    made: dict[str, Path] = {}

    def undisturbed(ranks: int = 1, **options: Any) -> Path:
        key = str((ranks, update.LATE_DEVICES, sorted(options.items())))
        if key not in made:
            name = f"whole-{len(made)}"
            command, run = site.command(name, **options), site.folder / name
            paths = [moments_file(run, rank) for rank in range(ranks)]
            faults = {n: lambda p=path: watch(site.folder, recorded_moments(p)) for n, path in enumerate(paths)}
            children = (
                [start(site, command, name, faults[0])] if ranks == 1 else start_ranks(site, command, name, faults)
            )
            assert [child.wait() for child in children] == [0] * ranks, children[0].text()
            made[key] = run
        return made[key]

    return undisturbed
