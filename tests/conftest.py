"""Every test starts with one CPU thread and with nothing left over in the environment."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [key for key in os.environ if key.startswith(("OPENDDPM_", "HF_TOKEN", "ACCELERATE_"))]:
        monkeypatch.delenv(name)
    yield
