"""Weights to start from: what is taken, what is said, and what is refused."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel

from openddpm.config import TrainConfig
from openddpm.diffusion.pretrained import find_pretrained
from openddpm.errors import UserError
from tiny import TINY_UNET

WEIGHTS = "diffusion_pytorch_model.safetensors"
DDPM = {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000, "beta_schedule": "linear"}


def write_pipeline(folder: Path, scheduler: dict[str, Any] | None = DDPM, **options: Any) -> UNet2DModel:
    """Write unet/ and scheduler/ as diffusers does; return the UNet."""
    unet = UNet2DModel(**{**TINY_UNET, "sample_size": 16, **options})
    unet.save_pretrained(folder / "unet")
    if scheduler is not None:
        (folder / "scheduler").mkdir()
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return unet


def config_for(folder: Path, **options: Any) -> TrainConfig:
    """Return a config that starts from `folder`."""
    return TrainConfig(**{"init_from": str(folder), "resolution": 8, **options})


def test_weights_are_those_of_the_folder(tmp_path: Path) -> None:
    """A pipeline's weights come back to the bit, for the resolution of the run; half precision becomes float32."""
    unet = write_pipeline(tmp_path)
    for folder in (tmp_path, tmp_path / "unet"):
        loaded = find_pretrained(config_for(folder)).load((3, 8, 8))
        assert loaded.config["sample_size"] == 8
        assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in unet.state_dict().items())
    unet.half().save_pretrained(tmp_path / "half")
    halves = find_pretrained(config_for(tmp_path / "half")).load((3, 8, 8))
    assert {parameter.dtype for parameter in halves.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("scheduler", "options", "words"),
    [
        (DDPM, {"resolution": 16}, []),
        (DDPM, {}, ["16 pixels; trained here on 8"]),
        (None, {"resolution": 16}, ["no scheduler_config.json", "epsilon"]),
        (DDPM | {"beta_schedule": "squaredcos_cap_v2"}, {"resolution": 16}, ["--beta_schedule squaredcos_cap_v2"]),
        (DDPM | {"beta_end": 0.012}, {"resolution": 16}, ["other noise levels", "beta_end 0.012"]),
        (DDPM | {"num_train_timesteps": 4000}, {"resolution": 16}, ["--num_train_timesteps 4000"]),
        (DDPM | {"beta_end": "much"}, {"resolution": 16}, ["other noise levels"]),
    ],
)
def test_what_differs_is_said(
    scheduler: dict[str, Any] | None, options: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    """Another resolution, other noise levels and a prediction that is assumed are said, with the option to give."""
    write_pipeline(tmp_path, scheduler)
    config = config_for(tmp_path, **options)
    said = " ".join(find_pretrained(config).remarks(config))
    assert bool(said) == bool(words)
    assert [word for word in words if word not in said] == []


@pytest.mark.parametrize(
    ("scheduler", "options", "words"),
    [
        (DDPM | {"prediction_type": "v_prediction"}, {}, "Give --prediction_type v_prediction"),
        (DDPM, {"prediction_type": "sample"}, "Give --prediction_type epsilon"),
        (DDPM | {"prediction_type": "flow_prediction"}, {}, "openddpm trains epsilon"),
        ({"_class_name": "ScoreSdeVeScheduler"}, {}, "ScoreSdeVeScheduler"),
        (DDPM, {"model": "unet-16"}, "Leave out --model"),
        (DDPM, {"resolution": 9}, "--resolution 8 or 10"),
    ],
)
def test_options_that_do_not_go_with_the_weights(
    scheduler: dict[str, Any], options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    """A model that predicts one thing is never trained as if it predicted another; other misfits are reported too."""
    write_pipeline(tmp_path, scheduler)
    with pytest.raises(UserError, match=words):
        find_pretrained(config_for(tmp_path, **options))


def test_a_model_that_is_the_same_may_be_named(tmp_path: Path) -> None:
    """--model beside --init_from is accepted where it has the architecture of the weights, whatever its sample size."""
    write_pipeline(tmp_path)
    (tmp_path / "same.json").write_text(json.dumps(TINY_UNET))
    find_pretrained(config_for(tmp_path, model=str(tmp_path / "same.json")))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"in_channels": 1, "out_channels": 1}, r"\(1, 1\), the images need \(3, 3\)"),
        ({"out_channels": 6}, r"\(3, 6\)"),
        ({"num_class_embeds": 4}, "without class labels"),
    ],
)
def test_unets_that_do_not_suit_the_images(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    """Weights for other channels, a learned variance or class labels are refused."""
    write_pipeline(tmp_path, **options)
    with pytest.raises(UserError, match=words):
        find_pretrained(config_for(tmp_path)).load((3, 8, 8))


class Bomb:
    """Would leave a file behind if it were unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("only a pickle", "pickle"),
        ("a pickle by another name", "cannot be loaded"),
        ("cut short", "cannot be loaded"),
        ("a Git LFS pointer", "git lfs pull"),
        ("of another config", "do not match its config"),
        ("with a tensor missing", "do not match its config"),
        ("in shards", "several files"),
        ("a latent pipeline", "vqvae"),
        ("another class", "UNet2DConditionModel"),
        ("no config", "no config.json"),
        ("nothing", "no weights"),
    ],
)
def test_folders_that_cannot_be_started_from(change: str, words: str, tmp_path: Path) -> None:
    """A folder without whole safetensors of a UNet on pixels is one clear message, and no pickle in it is loaded."""
    unet = write_pipeline(tmp_path)
    folder, bomb = tmp_path / "unet", pickle.dumps(Bomb(tmp_path / "exploded"))
    weights, content = folder / WEIGHTS, (folder / WEIGHTS).read_bytes()
    match change:
        case "only a pickle":
            weights.unlink()
            (folder / "diffusion_pytorch_model.bin").write_bytes(bomb)
        case "a pickle by another name":
            weights.write_bytes(bomb)
        case "cut short":
            weights.write_bytes(content[:2000])
        case "a Git LFS pointer":
            weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n")
        case "of another config":
            UNet2DModel(**{**TINY_UNET, "layers_per_block": 2}).save_pretrained(tmp_path / "other")
            (tmp_path / "other" / WEIGHTS).replace(weights)
        case "with a tensor missing":
            from safetensors.torch import save_file

            save_file({name: value for name, value in unet.state_dict().items() if name != "conv_in.bias"}, weights)
        case "in shards":
            (folder / f"{WEIGHTS}.index.json").write_text('{"weight_map": {"conv_in.bias": "../../bomb.bin"}}')
        case "a latent pipeline":
            (tmp_path / "model_index.json").write_text('{"unet": [], "scheduler": [], "vqvae": []}')
        case "another class":
            (folder / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}')
        case "no config":
            (folder / "config.json").unlink()
        case "nothing":
            weights.unlink()
    with pytest.raises(UserError) as refusal:
        find_pretrained(config_for(tmp_path)).load((3, 8, 8))
    assert words in str(refusal.value)
    assert not (tmp_path / "exploded").exists()


def test_names_that_are_neither_folder_nor_hub_id(tmp_path: Path) -> None:
    """A path that leads nowhere, and a file, are answered without asking the Hub."""
    (tmp_path / "file.safetensors").touch()
    for name in (tmp_path / "nowhere", "./nowhere", "a/b/c", tmp_path / "file.safetensors"):
        with pytest.raises(UserError, match=r"no such folder|is a file"):
            find_pretrained(config_for(Path(name)) if name != "./nowhere" else TrainConfig(init_from="./nowhere"))


def test_zeroing_goes_not_with_weights(tmp_path: Path) -> None:
    """zero_init_residuals, which would undo the weights, is refused beside them."""
    with pytest.raises(UserError, match="zero_init_residuals"):
        config_for(tmp_path, zero_init_residuals=True)
