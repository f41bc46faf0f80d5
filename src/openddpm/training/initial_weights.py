"""The UNet that a run starts with: randomly initialized, with existing weights, or user-supplied."""

from typing import Any

from diffusers import UNet2DModel

from openddpm.config import TrainConfig
from openddpm.diffusion.pretrained import Pretrained, find_pretrained
from openddpm.diffusion.unet import build_unet, remarks_on_model, zero_residuals
from openddpm.diffusion.unet_checks import check_user_unet, remarks_on_config
from openddpm.errors import UserError
from openddpm.seeding import Purpose, seed_global_generators
from openddpm.training.earlier_run import Earlier


def weights_to_start_from(
    config: TrainConfig, earlier: Earlier | None, user_unet: UNet2DModel | None
) -> Pretrained | None:
    """Return the weights of --init_from; None without the option, or if the run has a checkpoint already.

    Raises:
        UserError: they cannot be used, or are not those that the run started from.
    """
    config = earlier.config if earlier is not None else config
    if config.init_from is None or (earlier is not None and earlier.checkpoint is not None):
        return None
    if user_unet is not None:
        hint = "Give only one of them; a given UNet is trained from the weights it has."
        raise UserError("both init_from and a UNet are given", hint)
    pretrained = find_pretrained(config)
    started_from = earlier and earlier.record.model.init_from
    if started_from and started_from.sha256 != (found := pretrained.record().sha256):
        raise UserError(
            f"the run has no checkpoint yet, and '{config.init_from}' does not hold the weights that it started from: "
            f"sha256 {found[:12]}, {started_from.sha256[:12]} in the run",
            "Restore them, or start a new run with --overwrite_output_dir.",
        )
    return pretrained


def remarks_on_start(
    config: TrainConfig,
    structure: dict[str, Any],
    user_unet: UNet2DModel | None,
    pretrained: Pretrained | None,
    image_shape: tuple[int, int, int],
) -> list[str]:
    """Return remarks on the UNet of a new run, a sentence each.

    Args:
        image_shape: channels, height and width of the images.
    """
    if user_unet is not None:
        return remarks_on_config(user_unet.config, "the UNet")
    return pretrained.remarks(config) if pretrained else remarks_on_model(config.model, structure, image_shape[0])


def initial_unet(
    config: TrainConfig,
    structure: dict[str, Any],
    user_unet: UNet2DModel | None,
    pretrained: Pretrained | None,
    image_shape: tuple[int, int, int],
) -> UNet2DModel:
    """Return the UNet that a run starts with, on the CPU unless user-supplied.

    Args:
        structure: its config, if it is randomly initialized.
        image_shape: channels, height and width of the images.

    Raises:
        UserError: it does not fit the images or the options.
    """
    if user_unet is not None:
        check_user_unet(user_unet, image_shape, config.num_train_timesteps)
        if config.zero_init_residuals:
            hint = "Leave out the option, and call openddpm.diffusion.unet.zero_residuals(unet) before training."
            raise UserError("zero_init_residuals does not apply to a UNet given from Python", hint)
        user_unet.__dict__.pop("_is_accelerate_prepared", None)  # set by an earlier run, perhaps with another precision
        user_unet._compiled_call_impl = None
        return user_unet
    if pretrained is not None:
        return pretrained.load(image_shape)
    seed_global_generators(config.seed, Purpose.INITIAL_WEIGHTS)
    unet = build_unet(structure, image_shape)
    if config.zero_init_residuals:
        zero_residuals(unet)
    return unet
