"""Weights to start from, `--init_from`: a run folder, a pipeline's or a UNet's folder, or the same on the Hub.

Only safetensors are loaded, never a pickle.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME as WEIGHTS

from openddpm.config import TrainConfig
from openddpm.diffusion.process import DiffusionProcess
from openddpm.diffusion.unet import check_runs, for_images, refuse_constant, unet_config
from openddpm.diffusion.unet_checks import check_config, check_resolution, remarks_on_config
from openddpm.errors import UserError
from openddpm.predictions import PREDICTIONS
from openddpm.record.files import file_sha256
from openddpm.record.schema import InitRecord

_FILES = tuple(f"{folder}{name}" for folder in ("", "unet/") for name in ("config.json", WEIGHTS))
_HUB_FILES = (*_FILES, "model_index.json", "scheduler_config.json", "scheduler/scheduler_config.json")
_ONE_MODEL = "Give the weights and the config.json of one model."
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+|[\w-]+")
_BETAS = ("beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr")
_MAX_ALPHA_DIFFERENCE = 1e-3  # assumed: noise schedules that differ by less are the same
_FIELDS_WITHOUT_WEIGHTS = ("sample_size", "dropout", "num_train_timesteps", "in_channels", "out_channels")


@dataclass(frozen=True)
class Pretrained:
    """A UNet's weights and what is known about their training."""

    source: str
    """The name that the user gave."""
    revision: str | None
    """The commit; None for a local folder."""
    folder: Path
    """Where the UNet's config.json and weights lie."""
    config: dict[str, Any]
    """The UNet's config.json, unchanged."""
    scheduler: dict[str, Any] | None
    """The scheduler's config; None without one."""

    def record(self) -> InitRecord:
        """Return what run.json says of these weights; reads the whole file."""
        sha256 = file_sha256(self.folder / WEIGHTS)
        size = self.config.get("sample_size")
        resolution = size if isinstance(size, int) else None
        return InitRecord(source=self.source, revision=self.revision, sha256=sha256, resolution=resolution)

    def load(self, image_shape: tuple[int, int, int]) -> UNet2DModel:
        """Return the UNet with its weights, float32 on the CPU, for images of `image_shape`, (C, H, W).

        Raises:
            UserError: it has another number of channels, or its weights are damaged or of another shape.
        """
        channels, config = image_shape[0], for_images(self.config, image_shape)
        found = tuple(self.config.get(name, 3) for name in ("in_channels", "out_channels"))
        if found != (channels, channels):
            raise UserError(
                f"'{self.source}' has (in_channels, out_channels) {found}, the images need {(channels, channels)}",
                "Train on images of as many channels (--image_mode rgb or gray), or start from other weights.",
            )
        check_runs(config, "Start from other weights.")
        try:
            unet, loading = UNet2DModel.from_pretrained(
                self.folder,
                sample_size=config["sample_size"],
                use_safetensors=True,
                local_files_only=True,
                low_cpu_mem_usage=False,
                torch_dtype=torch.float32,
                output_loading_info=True,
            )
        except RuntimeError as error:
            first = " ".join(str(error).split("\n\t")[:2])
            raise UserError(f"the weights of '{self.source}' do not match its config: {first}", _ONE_MODEL) from error
        except Exception as error:  # safetensors has its own class for a damaged file
            found_text = f"the weights of '{self.source}' cannot be loaded: {_first_words(error)}"
            raise UserError(found_text, "Download or copy them again (after git clone: git lfs pull).") from error
        wrong = [f"{name} missing" for name in loading["missing_keys"]] + list(loading["unexpected_keys"])
        if wrong:
            listed = ", ".join(wrong[:3]) + (", ..." if len(wrong) > 3 else "")
            raise UserError(f"the weights of '{self.source}' do not match its config: {listed}", _ONE_MODEL)
        return unet

    def remarks(self, config: TrainConfig) -> list[str]:
        """Return the differences between this run and the training of the weights, a sentence each."""
        size = self.config.get("sample_size")
        remarks = remarks_on_config(self.config, f"'{self.source}'")
        if size not in (None, config.resolution):
            remarks.append(f"'{self.source}' was made for images of {size} pixels; trained here on {config.resolution}")
        if self.scheduler is None:
            hint = f"assuming that it predicts {PREDICTIONS[config.prediction_type].description}"
            return [*remarks, f"'{self.source}' has no scheduler_config.json to tell what it predicts; {hint}"]
        steps = self.scheduler.get("num_train_timesteps", 1000)
        if steps != config.num_train_timesteps:
            was = f"'{self.source}' was trained with {steps} timesteps, this run has {config.num_train_timesteps}"
            return [*remarks, f"{was}; to keep them: --num_train_timesteps {steps}"]
        if not _same_noise(self.scheduler, config):
            betas = ", ".join(f"{name} {self.scheduler[name]}" for name in _BETAS[:3] if name in self.scheduler)
            schedule = self.scheduler.get("beta_schedule")
            to_keep = f"; to keep them: --beta_schedule {schedule}" if schedule != config.beta_schedule else ""
            remarks.append(f"'{self.source}' was trained with other noise levels ({betas}){to_keep}")
        return remarks


def find_pretrained(config: TrainConfig) -> Pretrained:
    """Return the weights that `config.init_from` names, checked against the other options; download them if needed.

    Raises:
        UserError: nothing there, no safetensors, no UNet2DModel, or options that do not fit these weights.
    """
    source = config.init_from or ""
    path, revision = Path(source).expanduser(), None
    if path.is_file():
        raise UserError(f"--init_from '{source}' is a file", "Give the folder with this file and its config.json.")
    if not path.is_dir():
        if not _HUB_ID.fullmatch(source) or source.startswith("."):
            hint = "Give a run folder, a pipeline's or a UNet's folder, or a Hub id such as google/ddpm-cat-256."
            raise UserError(f"--init_from '{source}': no such folder", hint)
        path, revision = _download(source, config.cache_dir)
    folder = path / "unet" if (path / "unet" / "config.json").is_file() else path
    _check_pipeline(source, path)
    _check_weights(source, folder, {file.name for file in folder.iterdir()})
    unet = _read_json(source, folder / "config.json")
    if unet.get("_class_name", "UNet2DModel") != "UNet2DModel":
        hint = "Start from an unconditional pipeline on pixels, whose unet is a UNet2DModel."
        raise UserError(f"'{source}' holds a {unet['_class_name']}, not a UNet2DModel", hint)
    places = [path / "scheduler" / "scheduler_config.json", path / "scheduler_config.json"]
    if path.name == "unet":  # inside a pipeline's folder
        places.append(path.resolve().parent / "scheduler" / "scheduler_config.json")
    scheduler = next((_read_json(source, place) for place in places if place.is_file()), None)
    pretrained = Pretrained(source, revision, folder, unet, scheduler)
    _check_options(pretrained, config)
    return pretrained


def _check_options(pretrained: Pretrained, config: TrainConfig) -> None:
    """Refuse options that do not fit the weights."""
    source, what = pretrained.source, f"--init_from {pretrained.source}"
    check_config(pretrained.config, config.num_train_timesteps, what, "Start from weights without class labels.")
    check_resolution(config.resolution, pretrained.config, what)
    if config.model != "default":
        asked = unet_config(config.model, config.resolution, config.num_train_timesteps)
        if _architecture(asked) != _architecture(pretrained.config):
            hint = "Leave out --model: the architecture comes with the weights."
            raise UserError(f"--model {config.model} is not the architecture of {what}", hint)
    scheduler = pretrained.scheduler
    if scheduler is None:
        return
    if "beta_schedule" not in scheduler:
        name = scheduler.get("_class_name", "another scheduler")
        found = f"'{source}' was trained with {name}, which adds noise differently from DDPM"
        raise UserError(found, "Start from weights that were trained with a DDPM or DDIM scheduler.")
    predicts = scheduler.get("prediction_type", "epsilon")
    if predicts != config.prediction_type:
        known, wanted = PREDICTIONS.get(str(predicts)), PREDICTIONS[config.prediction_type]
        raise UserError(
            f"'{source}' predicts {known.description if known else predicts}, and this run trains it to predict "
            f"{wanted.description}",
            f"Give --prediction_type {predicts}." if known else f"openddpm trains {', '.join(PREDICTIONS)}.",
        )


def _architecture(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that determine which weights a UNet has, defaults filled in."""
    with torch.device("meta"):
        full = UNet2DModel(**{name: value for name, value in config.items() if not name.startswith("_")}).config
    plain = json.loads(json.dumps({name: value for name, value in full.items() if not name.startswith("_")}))
    return {name: value for name, value in plain.items() if name not in _FIELDS_WITHOUT_WEIGHTS}


def _same_noise(scheduler: Mapping[str, Any], config: TrainConfig) -> bool:
    """Tell whether a scheduler with as many timesteps has the run's noise levels; False if it cannot be built."""
    ours = DiffusionProcess(config, torch.device("cpu")).scheduler.alphas_cumprod
    try:
        options = {name: scheduler[name] for name in _BETAS if name in scheduler}
        theirs = DDPMScheduler(num_train_timesteps=config.num_train_timesteps, **options).alphas_cumprod
        return float((ours - theirs).abs().max()) < _MAX_ALPHA_DIFFERENCE
    except Exception:  # the file's values are untrusted
        return False


def _check_pipeline(source: str, folder: Path) -> None:
    """Refuse a pipeline whose UNet works on something other than pixels."""
    if not (folder / "model_index.json").is_file():
        return
    parts = {name for name in _read_json(source, folder / "model_index.json") if not name.startswith("_")}
    others = sorted(parts - {"unet", "scheduler"})
    if others:
        raise UserError(
            f"the pipeline '{source}' has more than unet and scheduler: {', '.join(others)}",
            "Start from an unconditional pipeline on pixels: a DDPMPipeline or DDIMPipeline.",
        )


def _check_weights(source: str, folder: Path, names: set[str]) -> None:
    """Refuse a folder without a config and its weights in one safetensors file.

    Args:
        names: of the files in the folder.
    """
    hint = "Give a run folder, a pipeline's or a UNet's folder, or a Hub id such as google/ddpm-cat-256."
    if "config.json" not in names:
        raise UserError(f"--init_from '{source}' has no UNet: no config.json, nor unet/config.json", hint)
    if f"{WEIGHTS}.index.json" in names:
        hint = 'Save them as one file with diffusers: unet.save_pretrained(FOLDER, max_shard_size="1000GB").'
        raise UserError(f"the weights of '{source}' are in several files", hint)
    if WEIGHTS in names:
        return
    unloaded = sorted(name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl")))
    if unloaded:
        subfolder = ', subfolder="unet"' if folder.name == "unet" and Path(source).name != "unet" else ""
        raise UserError(
            f"'{source}' has its weights only as a pickle ({', '.join(unloaded)}), which may run any code: not loaded",
            "If you trust it, first save it as safetensors with diffusers: "
            f'UNet2DModel.from_pretrained("{source}"{subfolder}).save_pretrained("FOLDER"); then --init_from FOLDER.',
        )
    raise UserError(f"--init_from '{source}' has no weights: no {WEIGHTS} beside '{folder / 'config.json'}'", hint)


def _download(source: str, cache_dir: str | None) -> tuple[Path, str]:
    """Return the folder of a downloaded model of the Hub and its commit; the cached one if the Hub is unreachable."""
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import HFValidationError

    not_here, offline_reason = f"'{source}' is not a local folder, and the Hub ({constants.ENDPOINT})", ""
    try:
        names = {entry.rfilename for entry in HfApi().model_info(source).siblings or []}
        inside = "unet/" if "unet/config.json" in names else ""
        below = {name.removeprefix(inside) for name in names if name.startswith(inside)}
        _check_weights(source, Path(inside), {name for name in below if "/" not in name})
    except UserError:
        raise
    except Exception as error:  # no connection, offline mode, or an error of the Hub
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403, 404) or isinstance(error, HFValidationError):
            hint = "Check the name; for a private or gated model log in first: hf auth login."
            raise UserError(f"{not_here} has no model of that name that you may read", hint) from error
        offline_reason = _first_words(error)
    try:
        folder = snapshot_download(
            source, allow_patterns=list(_HUB_FILES), cache_dir=cache_dir, local_files_only=bool(offline_reason)
        )
    except Exception as error:  # the same, or a full disk
        found = f"{not_here} could not be read: {offline_reason or _first_words(error)}"
        hint = "Give the path of an existing folder, or check the connection, HF_ENDPOINT and HF_HUB_OFFLINE."
        raise UserError(found, hint) from error
    return Path(folder), Path(folder).name  # the cache names its folders by the commit


def _first_words(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _read_json(source: str, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse_constant)
    except (ValueError, OSError) as error:
        raise UserError(f"'{path}' of '{source}' cannot be read: {error}", "Download or copy it again.") from error
    if not isinstance(content, dict):
        raise UserError(f"'{path}' of '{source}' holds no JSON object", "Download or copy it again.")
    return content
