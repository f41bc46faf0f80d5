"""The UNet that a run starts with: built anew, from weights that are there already, or the caller's own."""

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
    """Return the weights to start from, where the run starts from some and has no checkpoint of its own yet.

    Raises:
        UserError: they cannot be used, or are not those that the run began with.
    """
    config = earlier.config if earlier is not None else config
    if config.init_from is None or (earlier is not None and earlier.checkpoint is not None):
        return None
    if user_unet is not None:
        hint = "Give one of the two; weights loaded into the UNet beforehand are started from as they are."
        raise UserError("both init_from and a UNet are given", hint)
    pretrained = find_pretrained(config)
    began_from = earlier and earlier.record.model.init_from
    if began_from and began_from.sha256 != (found := pretrained.record().sha256):
        raise UserError(
            f"the run has no checkpoint yet, and '{config.init_from}' does not hold the weights that it started from: "
            f"sha256 {found[:12]}, {began_from.sha256[:12]} in the run",
            "Bring them back, or start anew: openddpm train with --overwrite_output_dir.",
        )
    return pretrained


def remarks_on_start(
    config: TrainConfig,
    structure: dict[str, Any],
    user_unet: UNet2DModel | None,
    pretrained: Pretrained | None,
    image_shape: tuple[int, int, int],
) -> list[str]:
    """Return what there is to say of a UNet that begins, a sentence each.

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
    """Return the UNet that a run starts with, on the CPU but for a caller's own.

    Args:
        structure: its config, where it is built anew.
        image_shape: channels, height and width of the images.

    Raises:
        UserError: it does not suit the images or the options.
    """
    if user_unet is not None:
        check_user_unet(user_unet, image_shape, config.num_train_timesteps)
        if config.zero_init_residuals:
            hint = "Leave the option out; openddpm.diffusion.unet.zero_residuals(unet) does so beforehand."
            raise UserError("zero_init_residuals is for UNets that openddpm builds, and this one is given", hint)
        user_unet.__dict__.pop("_is_accelerate_prepared", None)  # by an earlier run, maybe in another precision
        user_unet._compiled_call_impl = None
        return user_unet
    if pretrained is not None:
        return pretrained.load(image_shape)
    seed_global_generators(config.seed, Purpose.INITIAL_WEIGHTS)
    unet = build_unet(structure, image_shape)
    if config.zero_init_residuals:
        zero_residuals(unet)
    return unet
