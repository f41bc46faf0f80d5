"""The content of run.json at the start of a run or a session."""

import json
import platform
import secrets
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import UNet2DModel

from openddpm import __version__
from openddpm.config import TrainConfig
from openddpm.data.near_duplicates import NearDuplicates
from openddpm.record.schema import (
    DatasetRecord,
    EnvironmentRecord,
    InitialWeightsRecord,
    ModelRecord,
    PaceRecord,
    Progress,
    Resumption,
    RunRecord,
    Session,
    SpeedRecord,
)
from openddpm.training.earlier_run import Earlier
from openddpm.training.plan import Plan
from openddpm.training.timetable import Timetable

ROLLBACK_FACTOR = 0.5  # assumed: of the learning rate, at each rollback


def new_record(
    plan: Plan,
    config: TrainConfig,
    accelerator: Accelerator,
    unet: UNet2DModel,
    gflops: float,
    signal_left: float,
    timetable: Timetable,
    near: NearDuplicates | None,
    environment: EnvironmentRecord,
    initial_weights: InitialWeightsRecord,
) -> RunRecord:
    """Return the record of a run at step 0.

    Args:
        config: with the length of the run.
        unet: may lie on the meta device.
        gflops: per image, forward and backward.
        near: None in processes other than the main one, whose record is not written.
        initial_weights: of the run at step 0.
    """
    source, store, split = plan.source, plan.store, plan.split
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return RunRecord(
        run_id=secrets.token_hex(8),
        name=Path(config.output_dir).resolve().name,
        status="running",
        created=created,
        seed=config.seed,
        evaluation_seed=config.evaluation_seed,
        total_steps=timetable.total_steps,
        config=config.model_dump(),
        dataset=DatasetRecord(
            source=source.name,
            revision=source.revision,
            split=source.split,
            num_images=len(store.images),
            num_train=len(split.train),
            num_heldout=len(split.heldout),
            image_shape=store.image_shape,
            label_names=list(store.label_names),
            sha256=store.sha256,
            num_near_duplicates=len(near.pairs) if near else 0,
            num_compared=near.num_compared if near else 0,
        ),
        model=ModelRecord(
            num_parameters=unet.num_parameters(),
            gflops_per_image=round(gflops, 3),
            config=json.loads(json.dumps({name: unet.config[name] for name in unet.config if name[0] != "_"})),
            signal_left=signal_left,
            initial_weights=initial_weights,
            init_from=plan.pretrained.record() if plan.pretrained else None,
        ),
        progress=Progress(step=0, images_seen=0, epoch=0.0),
        sessions=[
            Session(
                time=created,
                environment=environment,
                num_processes=accelerator.num_processes,
                first_step=0,
                last_step=0,
            )
        ],
        chosen_options=sorted(config.model_fields_set),
        user_supplied=plan.objects.names,
        evaluation=timetable.plan(),
        previews=timetable.plan_of_previews(),
    )


def resumed_record(
    earlier: Earlier, planned: RunRecord, step: int, images_seen: int, rolled_back_from: int | None
) -> RunRecord:
    """Return the record of a run resumed at `step`.

    Args:
        planned: the record of a new run with this config.
    """
    record, dataset = earlier.record, planned.dataset
    if dataset.sha256 == record.dataset.sha256:  # the same images keep the source of the first session
        origin = {name: getattr(record.dataset, name) for name in ("source", "revision")}
        dataset = dataset.model_copy(update=origin)
    before = record.session  # it may have been killed before it recorded its last checkpoint
    before = before.model_copy(update={"last_step": max(before.last_step, step)})
    session = planned.session.model_copy(update={"first_step": step, "last_step": step})
    resumption = Resumption(
        step=step,
        time=session.time,
        skipped_checkpoints=earlier.checkpoint.skipped if earlier.checkpoint else [],
        changes=earlier.changes,
        rolled_back_from=rolled_back_from,
        learning_rate_factor=1.0 if rolled_back_from is None else ROLLBACK_FACTOR,
    )
    return record.model_copy(
        update={
            "status": "running",
            "failure": None,
            "failure_text": None,
            "config": {**planned.config, "recipe": record.config.get("recipe")},
            "seed": planned.seed,
            "evaluation_seed": planned.evaluation_seed,
            "model": record.model.model_copy(update={"signal_left": planned.model.signal_left}),
            "dataset": dataset,
            "total_steps": planned.total_steps,
            "evaluation": planned.evaluation,
            "previews": planned.previews,
            "progress": Progress(step=step, images_seen=images_seen, epoch=images_seen / dataset.num_train),
            "sessions": [*record.sessions[:-1], before, session],
            "resumptions": [*record.resumptions, resumption],
        }
    )


def environment(device: torch.device, speed: SpeedRecord, pace: PaceRecord | None) -> EnvironmentRecord:
    """Return the machine and the software of a session."""
    return EnvironmentRecord(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
        device_type=device.type,
        cpu_threads=torch.get_num_threads(),
        python=platform.python_version(),
        platform=platform.platform(),
        packages=package_versions(),
        speed=speed,
        pace=pace,
    )


def package_versions() -> dict[str, str]:
    """Return the versions of openddpm and of the libraries that the numbers depend on."""
    packages = ("torch", "diffusers", "accelerate", "pytorch_optimizer", "datasets", "numpy", "pillow", "safetensors")
    return {"openddpm": __version__, **{name: version(name) for name in packages}}


def processor_name() -> str:
    """Return the model of the CPU if the system reports it, else its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
