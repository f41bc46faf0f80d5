"""Makes the references that come with openddpm: `python benchmarks/make_references.py digits-8`, or all without a name.

Each seed is a run of `openddpm train --recipe NAME --seed N` in --output_dir, one after the other. One that is finished
is not trained again, and one that was cut off is resumed. Then src/openddpm/references/builtin/NAME is replaced by the
records of the runs, without weights.
"""

import argparse
import datetime
import os
import shutil
import subprocess
import sys
from pathlib import Path

from commands import int_of_at_least
from origin import origin
from PIL import Image

from openddpm.analysis.text import number_of
from openddpm.analysis.verdict import judge
from openddpm.config import TrainConfig, config_differences, recorded_config
from openddpm.data.sources import BUILT_IN as NAMES
from openddpm.record.files import write_json
from openddpm.record.public import published
from openddpm.record.reader import RunFolder, read_run_folder, read_run_record
from openddpm.record.writer import RUN_FILE, SCHEMAS
from openddpm.references import FILM_FILE, REFERENCE_FILE, ReferenceRecord, open_reference
from openddpm.references.sources import BUILT_IN
from openddpm.report.film_strip import film_strip

NUM_SEEDS = 8
THREADS = {"avatars-16": 2, "digits-8": 1}
"""CPU threads of each: with as many on the same kind of processor a run has the same bits."""
MAX_BYTES = 150_000  # of a seed, and of the film strip


def train(name: str, seed: int, folder: Path) -> None:
    """Train one seed to its end, unless that has been done.

    Raises:
        SystemExit: the run fails, or the folder holds one of another recipe.
    """
    options = ["--recipe", name, "--seed", str(seed), "--output_dir", str(folder), "--report_to", "none"]
    options.append("--no-follow")
    if (folder / RUN_FILE).exists():
        record = read_run_record(folder)
        if differences := config_differences(TrainConfig(recipe=name, seed=seed), recorded_config(record.config)):
            raise SystemExit(f"'{folder}' is a run of another recipe; remove it: {'; '.join(differences)}")
        if record.status == "finished":
            return
        options += ["--resume_from_checkpoint", "latest"]
    else:
        folder.mkdir(parents=True, exist_ok=True)
        _commit_file(folder).write_text(origin()["commit"])
    print(f"{name}, seed {seed}", flush=True)
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS[name])}
    if subprocess.run([sys.executable, "-m", "openddpm", "train", *options], env=environment).returncode:
        raise SystemExit(f"the run in '{folder}' failed; see above")


def publish(name: str, folders: list[Path], target: Path) -> None:
    """Replace `target` by the records of finished runs.

    Raises:
        SystemExit: they take too much room.
    """
    aside = target.with_name(f"{name}.new")
    shutil.rmtree(aside, ignore_errors=True)
    for folder in folders:
        copy_record(folder, aside / folder.name)
    first = read_run_folder(folders[0])
    film = film_strip(first).quantize(256, dither=Image.Dither.NONE)  # at most half the size
    film.save(aside / FILM_FILE, optimize=True)
    write_json(aside / REFERENCE_FILE, _about(name, folders, first).model_dump(mode="json"))
    for part in aside.iterdir():
        if num_bytes(part) > MAX_BYTES:
            raise SystemExit(f"'{part}' has {num_bytes(part):,} bytes, more than {MAX_BYTES:,}")
    shutil.rmtree(target, ignore_errors=True)
    aside.rename(target)


def copy_record(folder: Path, target: Path) -> None:
    """Copy a run's record and its last preview of the exported weights; absolute paths in run.json become names."""
    target.mkdir(parents=True)
    for file in SCHEMAS:
        if (folder / file).exists():
            shutil.copyfile(folder / file, target / file)
    run = read_run_folder(folder)
    write_json(target / RUN_FILE, published(run).run.model_dump())
    preview = run.previews[-1].shown
    (target / "samples").mkdir()
    shutil.copyfile(preview, target / "samples" / preview.name)


def num_bytes(path: Path) -> int:
    """Return the size of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())


def _about(name: str, folders: list[Path], first: RunFolder) -> ReferenceRecord:
    environment = first.run.session.environment
    commits = dict.fromkeys(_commit_file(folder).read_text() for folder in folders)
    return ReferenceRecord(
        name=name,
        text=f"The recipe {name} with {number_of(len(folders), 'seed')}; the runs differ in nothing else.",
        made=datetime.datetime.now(datetime.UTC).date(),
        device=environment.device,
        cpu_threads=environment.cpu_threads,
        version=environment.packages["openddpm"],
        commit=", ".join(commits),
    )


def _commit_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.commit")


def _table(name: str) -> str:
    reference = open_reference(name)
    lines = [f"{name}: {BUILT_IN / name}"]
    for run in reference.runs:
        verdict = judge(run.run, run.metrics, run.evaluations, run.baselines)
        skill = "none" if verdict.skill is None else f"{verdict.skill:+.3f}"
        seconds, size = run.metrics[-1].wall_seconds, num_bytes(run.folder)
        lines.append(f"  seed {run.run.seed}: skill {skill}, {seconds:.0f} s, {size / 1000:.0f} kB")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--seeds", type=int_of_at_least(1), default=NUM_SEEDS, help="how many, from 0 on")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/references"))
    parser.add_argument("--target", type=Path, default=BUILT_IN)
    given = parser.parse_args()
    if unknown := set(given.names) - set(NAMES):
        parser.error(f"no built-in data set: {', '.join(unknown)}; known: {', '.join(NAMES)}")
    for name in given.names or NAMES:
        folders = [given.output_dir / name / f"seed-{seed}" for seed in range(given.seeds)]
        for seed, folder in enumerate(folders):
            train(name, seed, folder)
        publish(name, folders, given.target / name)
        print(_table(name), flush=True)
