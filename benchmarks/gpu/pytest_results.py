"""A pytest plugin: writes what each test told, as soon as it is over, into the JSON file GPU_TEST_RESULTS."""

import json
import os
from pathlib import Path
from typing import Any

import pytest


class Told:
    """Collects reports of tests."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tests: dict[str, Any] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note the outcome of a test, with the numbers that it recorded by `record_property`."""
        if report.when == "call" or report.outcome != "passed":
            name = report.nodeid.rpartition("::")[2]
            told = {"outcome": report.outcome, "seconds": round(report.duration, 1), **dict(report.user_properties)}
            if report.outcome == "failed":
                told["error"] = str(report.longrepr)[-1500:]
            self._tests[name] = told
            self._path.write_text(json.dumps({"tests": self._tests}, indent=1, default=str) + "\n", encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    """Begin to collect."""
    config.pluginmanager.register(Told(Path(os.environ["GPU_TEST_RESULTS"])))
