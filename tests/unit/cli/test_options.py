"""The command line of training, as people type it."""

from typing import Any

import pytest

from openddpm.cli.options import parse_train_config
from openddpm.config import TrainConfig
from openddpm.errors import UserError
from openddpm.recipes import RECIPES

SEED_COMMAND = (
    "--dataset huggan/pokemon --output_dir pokemon-ddpm-fixed --resolution 64 --train_batch_size 16 --num_epochs 400 "
    "--learning_rate 1e-4 --gradient_accumulation_steps 1 --lr_warmup_steps 500 --mixed_precision no"
)
CONTRACT_DEFAULTS: dict[str, Any] = {
    **{"dataset_config": None, "dataset_split": "train", "dataset_revision": None, "image_column": None},
    **{"cache_dir": None, "overwrite_output_dir": False, "eval_batch_size": 16, "max_train_steps": None},
    **{"lr_scheduler": "cosine", "adam_beta1": 0.95, "adam_beta2": 0.999, "adam_weight_decay": 1e-6},
    **{"adam_epsilon": 1e-8, "ema_inv_gamma": 1.0, "ema_power": 0.75, "ema_max_decay": 0.9999, "use_ema": True},
    **{"gradient_checkpointing": False, "logging_dir": "logs", "push_to_hub": False, "hub_model_id": None},
    **{"hub_private_repo": False, "hub_token": None, "num_train_timesteps": 1000, "beta_schedule": "linear"},
    **{"prediction_type": "epsilon", "num_inference_steps": 50, "save_images_epochs": None, "checkpointing_steps": 500},
    **{"checkpoints_total_limit": 3, "resume_from_checkpoint": None, "seed": 0, "model": "default", "recipe": None},
    **{"heldout_images": None},
}


def test_the_seed_command_means_what_it_says() -> None:
    """The command line that people copy gives exactly its values, and the contract's defaults for all the rest."""
    config = parse_train_config(SEED_COMMAND.split())
    asked = {
        **{"dataset": "huggan/pokemon", "output_dir": "pokemon-ddpm-fixed", "resolution": 64, "train_batch_size": 16},
        **{"num_epochs": 400, "learning_rate": 1e-4, "gradient_accumulation_steps": 1, "lr_warmup_steps": 500},
        **{"mixed_precision": "no"},
    }
    assert {name: getattr(config, name) for name in asked | CONTRACT_DEFAULTS} == asked | CONTRACT_DEFAULTS
    assert config == TrainConfig(**asked)


def test_the_contract_lists_the_defaults_of_what_the_seed_command_gives() -> None:
    """Without options, the seed command's own have the contract's defaults too."""
    config = parse_train_config([])
    assert (config.output_dir, config.resolution, config.train_batch_size) == ("ddpm-model", 64, 16)
    assert (config.num_epochs, config.learning_rate, config.lr_warmup_steps) == (100, 1e-4, 500)
    assert (config.gradient_accumulation_steps, config.mixed_precision) == (1, "no")


@pytest.mark.parametrize("name", [name for name in TrainConfig.model_fields if name != "pixel_range"])
def test_hyphens_and_underscores_are_alike(name: str) -> None:
    """Every option is spelled with underscores or hyphens, with a space or an equals sign before its value."""
    values = {"recipe": "avatars-16", "lr_scheduler": "linear", "beta_schedule": "scaled_linear", "image_mode": "gray"}
    values |= {
        "num_train_timesteps": "70",
        "prediction_type": "sample",
        "timestep_sampling": "stratified",
        "small_images": "drop",
        "fit": "pad",
        "duplicates": "drop",
        "mixed_precision": "bf16",
        "speed": "max",
        "optimizer": "muon",
        "preview_solver": "unipc",
        "max_minutes": "7.5",
    }
    annotation = TrainConfig.model_fields[name].annotation
    if annotation is bool:
        spellings = [[f"--{name}"], [f"--{name.replace('_', '-')}"]]
    else:
        value = values.get(name, "0.5" if annotation is float else "7")
        dashed = name.replace("_", "-")
        spellings = [[f"--{name}", value], [f"--{dashed}", value], [f"--{name}={value}"], [f"--{dashed}={value}"]]
    configs = [parse_train_config(spelling) for spelling in spellings]
    assert all(config == configs[0] for config in configs)
    if annotation is not bool:
        assert str(getattr(configs[0], name)) == values.get(name, "0.5" if annotation is float else "7")


@pytest.mark.parametrize("name", ["--pixel_range", "--pixel-range"])
def test_a_range_is_two_numbers(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A range of pixels is two numbers, of which the first may be negative, and is said so in the help."""
    assert parse_train_config([name, "-1000", "3000.5", "--seed", "1"]).pixel_range == (-1000, 3000.5)
    assert parse_train_config([]).pixel_range is None
    with pytest.raises(UserError, match="pixel_range: found 3 2"):
        parse_train_config([name, "3", "2"])
    with pytest.raises(SystemExit):
        parse_train_config(["--help"])
    assert "--pixel_range FLOAT FLOAT" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["--no-use_ema", "--no-use-ema", "--no_use_ema"])
def test_use_ema_can_be_put_off(flag: str) -> None:
    """The EMA is on, by default and by --use_ema, and off by each spelling of its negation."""
    assert parse_train_config([]).use_ema
    assert parse_train_config(["--use_ema"]).use_ema
    assert not parse_train_config([flag]).use_ema


@pytest.mark.parametrize(
    ("arguments", "chosen"),
    [
        (["--dataset", "x"], {"dataset"}),
        (["--no-random-flip", "--learning_rate=1e-4"], {"random_flip", "learning_rate"}),
        (["--random_flip"], {"random_flip"}),
        (["--recipe", "avatars-16", "--seed", "0"], {"recipe", "seed", *RECIPES["avatars-16"]}),
    ],
)
def test_the_config_knows_which_options_were_chosen(arguments: list[str], chosen: set[str]) -> None:
    """Options that were given, be it with their default, and those of the recipe count as chosen; no others do."""
    assert parse_train_config(arguments).model_fields_set == chosen


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("--learning_rat", "--learning_rate"), ("--train-batchsize", "--train_batch_size"), ("--epoch", "--num_epochs")],
)
def test_an_unknown_option_is_answered_with_the_nearest(
    wrong: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unknown option ends with status 2, and the message names the option that was meant."""
    with pytest.raises(SystemExit) as ended:
        parse_train_config([wrong, "7"])
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert wrong in message
    assert meant in message


def test_options_win_over_the_recipe() -> None:
    """A recipe gives its values, options beside it win wherever they stand, and all else has its default."""
    config = parse_train_config(["--seed", "3", "--recipe", "avatars-16", "--resolution", "32"])
    assert (config.seed, config.resolution) == (3, 32)
    rest = {name: value for name, value in RECIPES["avatars-16"].items() if name != "resolution"}
    assert {name: getattr(config, name) for name in rest} == rest
    assert config.eval_batch_size == TrainConfig().eval_batch_size
    assert config == TrainConfig(recipe="avatars-16", seed=3, resolution=32)


def test_an_option_that_repeats_a_default_wins_over_the_recipe() -> None:
    """An option given with the value of the general default is not mistaken for one that was not given."""
    default = TrainConfig().learning_rate
    assert RECIPES["avatars-16"]["learning_rate"] != default
    assert parse_train_config(["--recipe", "avatars-16", "--learning_rate", str(default)]).learning_rate == default


@pytest.mark.parametrize("epochs", ["2", "100"])
def test_epochs_win_over_the_steps_of_a_recipe(epochs: str) -> None:
    """--num_epochs beside a recipe that counts steps decides, unless --max_train_steps is given too."""
    assert RECIPES["avatars-16"]["max_train_steps"]
    config = parse_train_config(["--recipe", "avatars-16", "--num_epochs", epochs])
    assert (config.num_epochs, config.max_train_steps) == (int(epochs), None)
    both = parse_train_config(["--recipe=avatars-16", f"--num-epochs={epochs}", "--max-train-steps=7"])
    assert both.max_train_steps == 7


def test_the_last_recipe_wins() -> None:
    """Of two recipes the last is taken, whole."""
    config = parse_train_config(["--recipe", "avatars-16", "--recipe=pokemon-64"])
    assert config == TrainConfig(recipe="pokemon-64")


def test_wrong_values_are_told_at_once() -> None:
    """All values out of range are told in one error."""
    with pytest.raises(UserError) as error:
        parse_train_config(["--train_batch_size", "-4", "--ema_max_decay", "2", "--resolution", "0"])
    for name in ("train_batch_size", "ema_max_decay", "resolution"):
        assert name in error.value.found
