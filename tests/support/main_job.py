"""The whole main job: train, evaluate, preview, save, be asked to stop, resume, replace, sample, report."""

import importlib
import signal
from typing import Any
from unittest import mock

from fault_injection import Site

OPTIONS: dict[str, Any] = {
    "timestep_sampling": "importance",
    "optimizer": "muon",
    "max_train_steps": 6,
    "checkpointing_steps": 2,
    "checkpoints_total_limit": 1,
    "save_images_epochs": 1,
}
STOPPED_AT = 3


def do_main_job(site: Site, name: str) -> None:
    """Leave the runs NAME-whole, undisturbed, and NAME, stopped and resumed, in a process that may lack many things.

    Raises:
        AssertionError: a command ended otherwise than it should.
    """
    main = importlib.import_module("openddpm.cli.main").main
    importlib.import_module("openddpm.training.checkpointer").PATIENCE_SECONDS = 1.0
    recorder = importlib.import_module("openddpm.training.recorder").Recorder
    logged, run = recorder.logged, str(site.folder / name)

    def stopping(self: Any, row: Any) -> None:
        logged(self, row)
        if row.step == STOPPED_AT:
            signal.raise_signal(signal.SIGTERM)

    whole = [*site.command(f"{name}-whole", **OPTIONS), "--random_flip"]
    assert main(whole) == 0
    assert main([*whole, "--overwrite_output_dir"]) == 0
    with mock.patch.object(recorder, "logged", stopping):
        assert main([*site.command(name, **OPTIONS), "--random_flip"]) == 143
    assert main(["resume", run]) == 0
    for num_images in ("3", "4"):
        assert main(["sample", run, "--num_images", num_images, "--num_inference_steps", "2", "--npz"]) == 0
    assert main(["report", run]) == 0
    page = str(site.folder / f"{name}.html")
    assert main(["inspect", str(site.folder / "images"), "--resolution", "8", "--page", page]) in (0, 1)
