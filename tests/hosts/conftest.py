"""One place for the tiny runs of these tests."""

import pytest

from fault_injection import Site, start


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A folder with images, already decoded, and a model; each test names its runs differently."""
    site = Site(tmp_path_factory.mktemp("hosts"))
    assert start(site, site.command("decoding", max_train_steps=1), "decoding").wait() == 0
    return site
