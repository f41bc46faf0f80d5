"""Everything that a GPU has to tell about openddpm, part by part, each in a process with a time limit of its own.

    bash benchmarks/gpu/check.sh [STEP ...]     # sets up what this needs, and holds the plan

Results are merged and written after each part, so that what fails, or is not reached in the time, loses nothing else.
A later call goes on where an earlier one stood, on the same device with the same sources. Imports no torch itself.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from commands import Job, run_plain
from merge import Device, merged, table
from parts import STEPS, Part, chosen, plan
from provenance import REPOSITORY, commit, sources
from real_run import run_of_minutes

HERE = Path(__file__).parent
SPARE_SECONDS = 5  # to pack the results
TO_END = 12  # seconds from SIGTERM to SIGKILL
START_AND_TABLE = 45  # seconds that a case has before and after its steps are timed: imports, and the table of kernels


def main() -> int:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"of {', '.join(STEPS)}; all of them without any")
    parser.add_argument("--work", type=Path, default=Path("runs/gpu-check/work"), help="folder for runs and logs")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu-check"), help="folder for gpu.json and archives")
    parser.add_argument("--data", type=Path, help="images of the run of minutes (default: generated photos)")
    parser.add_argument("--deadline", type=float, default=540.0, help="seconds that all may take")
    parser.add_argument("--seconds_gone", type=float, default=0.0, help="seconds of them that are gone")
    parser.add_argument("--run_seconds", type=float, default=150.0, help="of training, in the run of minutes")
    parser.add_argument("--dry_run", action="store_true", help="tiny UNets, on whatever device there is")
    parser.add_argument("--plan", action="store_true", help="show the plan, and do nothing")
    given = parser.parse_args()
    if unknown := [step for step in given.steps if step not in STEPS]:
        parser.error(f"no such step: {', '.join(unknown)}; there are {', '.join(STEPS)}")
    if given.plan:
        print(plan())
        return 0
    device = device_name()
    if device is None and not given.dry_run:
        print("no GPU: `nvidia-smi` finds none. DRY=1 tries the check without one.", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return Check(given, device or "no GPU").run()


class Check:
    """One call."""

    def __init__(self, given: argparse.Namespace, device: str) -> None:
        self.begun = time.monotonic() - given.seconds_gone
        self.given = given
        self.dry: list[str] = ["--dry_run"] if given.dry_run else []
        self.work, self.out = given.work.resolve(), given.out.resolve()
        self.logs, self.inputs = self.work / "results", self.work / "inputs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self.out.mkdir(parents=True, exist_ok=True)
        self.device = Device(device, sources(), commit(), given.dry_run)
        self.states = self._earlier_states()
        self._input_writer: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Measure part by part; the exit status tells whether one has failed."""
        parts = chosen(self.given.steps)
        if any(part.step != "tests" for part in parts):
            self._write_inputs()
        for part in parts:
            if self.states.get(part.name, {}).get("status") == "done":
                self.say(f"{part.name}: measured before")
                continue
            most = self.left() if self.given.dry_run else min(part.most, self.left())
            if most < part.least:
                self.states[part.name] = {"status": "not reached in the time"}
                self.say(f"{part.name}: not reached, {max(0, self.left()):.0f} s are left")
            else:
                self._measure(part, most)
            self._pack()
        self._pack()
        self.say("done")
        print(table(self.results()))
        return int(any(state["status"] not in ("done", "not reached in the time") for state in self.states.values()))

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.given.deadline - SPARE_SECONDS - (time.monotonic() - self.begun)

    def say(self, text: str) -> None:
        """Tell, and note, what has happened and when."""
        line = f"{time.monotonic() - self.begun:4.0f} s  {text}"
        print(line, flush=True)
        with (self.logs / "summary.txt").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def results(self) -> dict[str, Any]:
        """Return all that has been measured so far."""
        return merged(self.logs, self.device, self.states)

    # One part.

    def _measure(self, part: Part, most: float) -> None:
        begun = time.monotonic()
        for name in (part.name, *self._cases(part)):
            (self.logs / f"{name}.json").unlink(missing_ok=True)
        try:
            status = self._call(part, most)
        except Exception as error:
            status = f"failed: {type(error).__name__}: {str(error).strip()[-600:]}"
        took = time.monotonic() - begun
        self.states[part.name] = {"status": status, "seconds": round(took, 1)}
        self.say(f"{part.name}: {status.splitlines()[-1][-200:]}, {took:.0f} s of {most:.0f}")

    def _call(self, part: Part, most: float) -> str:
        """Run a part; return "done", or what became of it."""
        if part.name == "tests":
            return self._test(part, most, [path for path in gpu_tests() if path.name != "test_near_exact.py"])
        if part.name == "near":
            return self._test(part, most, [REPOSITORY / "tests" / "gpu" / "test_near_exact.py"])
        begun = time.monotonic()
        if self._input_writer is not None and self._input_writer.wait(most):
            return "failed: the images were not written; see inputs.log"
        most -= time.monotonic() - begun
        if part.name == "run":
            return run_of_minutes(self, most)
        if part.step == "ladder" or part.name in ("plain", "workers"):
            return self._plain(part, most)
        cases = self._cases(part)
        cache = self.work / "inductor" / part.name
        shutil.rmtree(cache, ignore_errors=True)  # the seconds of compiling are those of the first time
        command = [str(HERE / "case.py"), *cases, "--inputs", str(self.inputs), "--work", str(self.work / "cases")]
        command += ["--results", str(self.logs), "--until", str(most - START_AND_TABLE), *self.dry]
        command += [] if (self.logs / "ceilings.json").exists() else ["--ceilings"]
        status = self.spawn(part.name, command, most, TORCHINDUCTOR_CACHE_DIR=str(cache))
        told = [json.loads(path.read_text("utf-8")) for name in cases if (path := self.logs / f"{name}.json").exists()]
        faults = [row["error"] for row in told if "error" in row]
        return f"failed: {faults[0]}" if faults else status

    def _cases(self, part: Part) -> list[str]:
        return ["exact-16", "exact-128"] if part.name == "exact" else [part.name]

    def _plain(self, part: Part, most: float) -> str:
        """Run the plain loop with some of its measures."""
        if self.given.dry_run and "compile" in part.measures:
            return "done"  # minutes, without a GPU
        steps, warmup, resolution = (7, 1, 16) if self.given.dry_run else (45, 20, 64)
        job = Job(
            *(self.inputs / "images", self.inputs / "unet.json", resolution, steps, os.cpu_count() or 1),
            warmup_steps=warmup,
            save_images_epochs=10,  # of a tenth of the images; one at the end
            previews=not self.given.dry_run or part.name == "plain",  # many seconds each, without a GPU
        )
        row = run_plain(job, part.measures, most)
        told = {"row": part.what, "batch_size": job.train_batch_size, **row}
        (self.logs / f"{part.name}.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        return "done"

    def _test(self, part: Part, most: float, files: Sequence[Path]) -> str:
        """Run tests that are marked gpu."""
        command = ["-m", "pytest", "-m", "gpu", "-W", "ignore", "-p", "no:cacheprovider", "-p", "pytest_results", "-v"]
        names = [str(path.relative_to(REPOSITORY)) for path in files]
        hidden = {"HIDE_PACKAGES": "transformers peft"} if "HIDE_PACKAGES" in os.environ else {}  # they may need scipy
        results = str(self.logs / f"{part.name}.json")
        return self.spawn(part.name, [*command, *names], most, GPU_TEST_RESULTS=results, **hidden)

    def spawn(self, name: str, command: Sequence[str], most: float, **environment: str) -> str:
        """Run Python within `most` seconds, its output into a log; return "done", or what became of it."""
        changed = {**os.environ, "OPENDDPM_CACHE": str(self.work / "cache"), **environment}
        with (self.logs / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *command], cwd=REPOSITORY, env=changed, stdout=log, stderr=log, start_new_session=True
            )
            try:
                status = process.wait(most)
            except subprocess.TimeoutExpired:
                return f"ended after its {most:.0f} s"
            finally:
                end(process)
        return "done" if status == 0 else f"failed: exit status {status}; see {name}.log"

    # Around the parts.

    def _write_inputs(self) -> None:
        """Write images in the background, while nothing is timed."""
        command = [sys.executable, str(HERE / "inputs.py"), str(self.inputs), *self.dry]
        with (self.logs / "inputs.log").open("ab") as log:
            self._input_writer = subprocess.Popen(command, stdout=log, stderr=log)

    def _earlier_states(self) -> dict[str, dict[str, Any]]:
        """Return what an earlier call has measured, if it was of the same sources on the same device."""
        path = self.logs / "states.json"
        earlier = json.loads(path.read_text("utf-8")) if path.exists() else {}
        if earlier.get("key") == self.device.key():
            return {name: state for name, state in earlier["parts"].items() if state["status"] == "done"}
        shutil.rmtree(self.logs)
        self.logs.mkdir()
        return {}

    def _pack(self) -> None:
        """Write what there is, each file whole or not at all."""
        (self.logs / "states.json").write_text(json.dumps({"key": self.device.key(), "parts": self.states}, indent=1))
        write_whole(self.out / "gpu.json", json.dumps(self.results(), indent=1) + "\n")
        write_whole(self.out / "summary.txt", (self.logs / "summary.txt").read_text("utf-8"))
        beside = self.out / ".logs.tar.gz"
        with tarfile.open(beside, "w:gz") as archive:
            archive.add(self.logs, "logs")
        beside.replace(self.out / "logs.tar.gz")


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started, if it still runs: by SIGTERM, and by SIGKILL a while later."""
    for number, patience in ((signal.SIGTERM, TO_END), (signal.SIGKILL, None)):
        if process.poll() is not None:
            return
        os.killpg(process.pid, number)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue


def write_whole(path: Path, text: str) -> None:
    """Replace a file by another at once."""
    beside = path.with_name(f".{path.name}")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def gpu_tests() -> list[Path]:
    """Return the files that have tests for a GPU: to collect all of them takes long, and some want more packages."""
    files = sorted((REPOSITORY / "tests").rglob("test_*.py"))
    return [path for path in files if "mark.gpu" in path.read_text("utf-8")]


def device_name() -> str | None:
    """Return the name of the GPU; None without one."""
    if shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True)
    return found.stdout.splitlines()[0].strip() if found.returncode == 0 and found.stdout.strip() else None


if __name__ == "__main__":
    sys.exit(main())
