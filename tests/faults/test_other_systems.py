"""The whole main job where an Apple GPU or Windows is stood in for: nothing is used that these forbid or lack."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from apple_stand_in import apple_gpu
from fault_injection import Site, fork
from main_job import do_main_job
from openddpm.record.reader import read_run_record
from same_run import differences, published_faults
from windows_stand_in import forbid, forget_modules

LOCKS = re.compile(r"(unlink|remove) \.[^ ]*lock while \['\.[^ ]*lock'\] in use")


def left_of(site: Site, name: str) -> list[str]:
    """Return what is wrong with what the main job has left."""
    run, whole = site.folder / name, site.folder / f"{name}-whole"
    assert (run / "report.html").stat().st_size and len(list(run.glob("generated/*/0000?.png"))) == 4
    return differences(run, whole, site.folder / "logs") + published_faults(run, keep=1)


@pytest.mark.slow
def test_a_device_without_float64(site: Site) -> None:
    """On a device that knows no float64 and mixes with no tensor of the host, all is done, and resumed to the bit."""

    def job() -> None:
        with apple_gpu():
            do_main_job(site, "apple")

    child = fork(job, site.folder / "apple.log")
    assert child.wait() == 0, child.text()
    assert left_of(site, "apple") == []
    assert read_run_record(site.folder / "apple").session.environment.device_type == "mps"


@pytest.mark.slow
def test_what_windows_forbids(site: Site) -> None:
    """Without fork, SIGHUP or a sync of what is open to be read, and no open file removed or replaced, all is done."""
    refused = site.folder / "windows-refused.txt"

    def job() -> None:
        met = forbid(site.folder)
        forget_modules()
        do_main_job(site, "windows")
        refused.write_text("\n".join(met), encoding="utf-8")

    child = fork(job, site.folder / "windows.log")
    assert child.wait() == 0, child.text()
    assert left_of(site, "windows") == []
    assert [line for line in refused.read_text("utf-8").splitlines() if not LOCKS.fullmatch(line)] == []
    assert "could not be" not in child.text()


JOB_OF_A_CODE_PAGE = """
import sys, warnings
warnings.filterwarnings("error", category=EncodingWarning, module=r"openddpm[.]")
from pathlib import Path
from fault_injection import Site
from main_job import do_main_job
do_main_job(Site(Path(sys.argv[1])), Path(sys.argv[1]).name)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "environment"),  # a locale of ASCII knows no other names for what a run is told to write
    [("b\u00fccher-\u732b", {"PYTHONIOENCODING": "cp1252"}), ("books", {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"})],
    ids=["a code page on the terminal", "a locale of ASCII"],
)
def test_text_is_utf8_whatever_the_system_takes_it_for(
    site: Site, tmp_path: Path, name: str, environment: dict[str, str]
) -> None:
    """No file is opened with the encoding of the system, and no name that its terminal cannot show ends a command."""
    folder = tmp_path / name
    (folder / "images" / "\u732b").mkdir(parents=True)
    for path in (site.folder / "images").iterdir():
        (folder / "images" / "\u732b" / f"\u00fc-\u732b-{path.name}").write_bytes(path.read_bytes())
    paths = os.pathsep.join([str(Path(__file__).parents[1] / "support"), *filter(None, sys.path)])
    variables = {**os.environ, "PYTHONPATH": paths, "PYTHONWARNDEFAULTENCODING": "1", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [sys.executable, "-c", JOB_OF_A_CODE_PAGE, str(folder)],
        env={**variables, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-3000:]
