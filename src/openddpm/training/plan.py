"""The plan of a run, before it is built: its options, its images, and the run that it resumes."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers import UNet2DModel

from openddpm.config import TrainConfig
from openddpm.data.image_source import ImageSource
from openddpm.data.store import ImageStore, open_images
from openddpm.data.stream import Split, Transform, split_heldout
from openddpm.diffusion.pretrained import Pretrained
from openddpm.diffusion.unet import unet_config
from openddpm.diffusion.unet_checks import unwrapped_unet
from openddpm.errors import UserError
from openddpm.references import Reference, open_reference
from openddpm.training.distributed import say
from openddpm.training.earlier_run import Earlier, check_images, check_user_supplied, find_earlier_run
from openddpm.training.initial_weights import remarks_on_start, weights_to_start_from
from openddpm.training.pace import keep_threads
from openddpm.training.performance import remarks_on_speed
from openddpm.training.run_folder import check_output_folder
from openddpm.training.same_start import check_same_images, check_same_start, processes_without_folder


@dataclass(frozen=True)
class UserObjects:
    """User-supplied objects that replace options."""

    dataset: Any = None
    transform: Transform | None = None
    unet: UNet2DModel | None = None

    @property
    def names(self) -> list[str]:
        """Names of the objects that are given."""
        return [field.name for field in fields(self) if getattr(self, field.name) is not None]


@dataclass(frozen=True)
class Plan:
    """A run that can start or resume: all that the user can get wrong has been checked."""

    config: TrainConfig
    """The config, adapted to the run that is resumed if there is one."""
    earlier: Earlier | None
    objects: UserObjects
    source: ImageSource
    store: ImageStore
    split: Split
    structure: dict[str, Any]
    """The UNet's config, if it is randomly initialized."""
    pretrained: Pretrained | None
    """The weights of --init_from to start from, or None."""
    reference: Reference | None
    """The runs that --follow names, or None."""


def make_plan(config: TrainConfig, accelerator: Accelerator, objects: UserObjects) -> Plan:
    """Return the plan of a run, cheap checks first. A collective call.

    Raises:
        UserError: for whatever in the config, the data or the output folder has to be fixed first.
    """
    without_folder = processes_without_folder(accelerator, Path(config.output_dir))
    check_output_folder(config)
    earlier = find_earlier_run(config, accelerator.num_processes)
    remarks = check_same_start(accelerator, config, earlier, without_folder)  # nothing is written before this
    if accelerator.is_main_process:
        say(remarks)

    reference = _reference(config if earlier is None else earlier.config, is_new=earlier is None)
    unet = None if objects.unet is None else unwrapped_unet(objects.unet)
    objects = replace(objects, unet=unet)
    pretrained = weights_to_start_from(config, earlier, unet)
    if earlier is None:
        structure = {}
        if unet is None and pretrained is None:
            structure = unet_config(config.model, config.resolution, config.num_train_timesteps)
    else:  # the config file may have changed since
        check_user_supplied(objects.names, earlier.record.user_supplied)
        if config.max_minutes is not None and accelerator.is_main_process:
            say(["--max_minutes only applies to a new run: this one keeps its length"])
        config, structure = earlier.config, earlier.record.model.config

    data_options = config if earlier is None else earlier.data_options
    source, store = open_images(data_options, objects.dataset, quiet=not accelerator.is_local_main_process)
    if earlier is not None:
        earlier = check_images(earlier, store)
        keep_threads(earlier.record.session, accelerator)
    if reference is not None and reference.folder is not None:  # found again from wherever the run is resumed
        config = config.model_copy(update={"follow": str(reference.folder)})
    check_same_images(accelerator, store.sha256, structure)
    split = split_heldout(store.digests, config.heldout_images, config.evaluation_seed)
    plan = Plan(config, earlier, objects, source, store, split, structure, pretrained, reference)
    if accelerator.is_main_process:
        say(_remarks(plan, accelerator.device))
    return plan


def _reference(config: TrainConfig, is_new: bool) -> Reference | None:
    """Return the reference to follow; a resumed run goes on without one that cannot be opened.

    Raises:
        UserError: a new run's cannot be opened.
    """
    if config.follow in (None, "none"):
        return None
    try:
        return open_reference(config.follow)
    except UserError as error:
        if is_new:
            raise
        say([f"the run goes on without following {config.follow}: {error.found}"])
        return None


def _remarks(plan: Plan, device: torch.device) -> list[str]:
    """Return remarks on a plan, a sentence each."""
    remarks = []
    if plan.earlier is None:
        remarks = remarks_on_start(
            plan.config, plan.structure, plan.objects.unet, plan.pretrained, plan.store.image_shape
        )
    wanted, num_heldout = plan.config.heldout_images, len(plan.split.heldout)
    if wanted is not None and num_heldout < wanted:
        remarks.append(f"{num_heldout} instead of {wanted} images are held out: exact duplicates stay together")
    notes = plan.reference.notes if plan.reference else []
    return [*remarks, *notes, *remarks_on_speed(plan.config, device)]
