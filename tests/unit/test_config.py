import json
import pickle
from typing import Any

import pytest

from openddpm.config import NEUTRAL_OPTIONS, OPTION_GROUPS, TrainConfig, config_differences, resuming_config
from openddpm.errors import UserError
from openddpm.recipes import RECIPES

CONTRACT = {
    "dataset": "",
    "dataset_config": None,
    "dataset_split": "train",
    "dataset_revision": None,
    "image_column": None,
    "cache_dir": None,
    "output_dir": "ddpm-model",
    "overwrite_output_dir": False,
    "resolution": 64,
    "train_batch_size": 16,
    "eval_batch_size": 16,
    "num_epochs": 100,
    "max_train_steps": None,
    "gradient_accumulation_steps": 1,
    "learning_rate": 1e-4,
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 500,
    "adam_beta1": 0.95,
    "adam_beta2": 0.999,
    "adam_weight_decay": 1e-6,
    "adam_epsilon": 1e-8,
    "ema_inv_gamma": 1.0,
    "ema_power": 0.75,
    "ema_max_decay": 0.9999,
    "use_ema": True,
    "mixed_precision": "no",
    "gradient_checkpointing": False,
    "logging_dir": "logs",
    "report_to": "tensorboard",
    "follow": None,
    "push_to_hub": False,
    "hub_model_id": None,
    "hub_private_repo": False,
    "hub_token": None,
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "num_inference_steps": 50,
    "save_images_epochs": None,
    "checkpointing_steps": 500,
    "checkpoints_total_limit": 3,
    "resume_from_checkpoint": None,
    "seed": 0,
    "model": "default",
    "recipe": None,
    "heldout_images": None,
}
"""The options and defaults that people's commands rely on. Add to them freely; changing one breaks commands."""

OTHERS = {
    *("fit", "pixel_range", "image_mode", "background", "small_images", "max_refused_share", "random_flip"),
    "duplicates",
    *("max_grad_norm", "timestep_sampling", "logging_steps", "accept_changes", "max_rollbacks", "rank_timeout"),
    *("speed", "optimizer", "zero_init_residuals", "preview_solver", "init_from", "max_minutes"),
    *("evaluation_seed", "keep_every", "milestones"),
}


def test_options_and_defaults_are_those_promised() -> None:
    """Each promised option exists with its promised default, and every other is known to this test."""
    config = TrainConfig()
    assert {name: getattr(config, name) for name in CONTRACT} == CONTRACT
    assert set(TrainConfig.model_fields) - set(CONTRACT) == OTHERS


def test_every_option_is_explained_and_grouped_once() -> None:
    """Each option has a help text and stands in exactly one group."""
    grouped = [name for group in OPTION_GROUPS.values() for name in group.model_fields]
    assert sorted(grouped) == sorted(TrainConfig.model_fields)
    assert [name for name, field in TrainConfig.model_fields.items() if not field.description] == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resolution": 3}, "resolution: found 3; input should be greater than or equal to 4"),
        ({"learning_rate": 0}, "learning_rate: found 0; input should be greater than 0"),
        ({"learning_rate": float("nan")}, "learning_rate: found nan; input should be"),
        ({"max_grad_norm": float("inf")}, "max_grad_norm: found inf; input should be a finite number"),
        ({"max_minutes": 1e300}, "max_minutes: found 1e+300; input should be less than or equal to 10000000"),
        ({"num_epochs": 10**20}, "num_epochs: found 100000000000000000000; input should be less than or equal to"),
        ({"adam_beta1": 1}, "adam_beta1: found 1; input should be less than 1"),
        ({"seed": -1}, "seed: found -1; input should be"),
        ({"report_to": ""}, "report_to: found ''; give names of trackers"),
        ({"report_to": "none,wandb"}, "report_to: found 'none,wandb'; give names of trackers"),
        ({"train_batch_size": "many"}, "train_batch_size: found 'many'; input should be a valid integer"),
        ({"mixed_precision": "fp8"}, "mixed_precision: found 'fp8'; input should be 'no', 'fp16' or 'bf16'"),
        ({"learning_rat": 1}, "learning_rat: no such option; did you mean 'learning_rate'? known: dataset, "),
        ({"recipe": "avatar-16"}, "unknown recipe 'avatar-16'; did you mean 'avatars-16'? known: avatars-16, "),
        ({"recipe": ["avatars-16"]}, "recipe: found ['avatars-16']; input should be a valid string"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    """A wrong option is a UserError with what was found and what would have been accepted."""
    with pytest.raises(UserError) as error:
        TrainConfig(**options)
    assert message in error.value.found
    assert "--help" in error.value.hint


def test_all_errors_come_at_once() -> None:
    """Whatever is wrong is said in one go, a line for each option, also beside an unknown recipe."""
    with pytest.raises(UserError) as error:
        TrainConfig(recipe="none", resolution=1, seed="x", optimizer="adam", beta_schedule="cosine")
    wrong = [line.split(": ")[0].split(" '")[0] for line in error.value.found.splitlines()]
    assert sorted(wrong) == ["beta_schedule", "optimizer", "resolution", "seed", "unknown recipe"]


def test_options_beside_a_recipe_win() -> None:
    """A recipe gives its options, what is given beside it wins even if it is a default, and the rest is default."""
    config = TrainConfig(recipe="avatars-16", resolution=64, train_batch_size=8)
    assert (config.resolution, config.train_batch_size) == (64, 8)
    assert config.learning_rate == RECIPES["avatars-16"]["learning_rate"]
    assert config.adam_epsilon == TrainConfig().adam_epsilon


def test_a_recorded_config_comes_back() -> None:
    """What a run records of its config makes the same config again, whatever its recipe."""
    config = TrainConfig(recipe="avatars-16", resolution=64, learning_rate=3e-4)
    assert TrainConfig(**json.loads(json.dumps(config.model_dump()))) == config


def test_the_token_is_shown_nowhere() -> None:
    """An access token reaches the code that uploads, and no dump, text, JSON or error message."""
    secret = "hf_secret"
    config = TrainConfig(hub_token=secret)
    assert config.hub_token == secret
    with pytest.raises(UserError) as error:
        TrainConfig(hub_token=[secret], resolution=0)
    shown = [config.model_dump(), repr(config), str(config), config.model_dump_json()]
    shown += [config_differences(config, TrainConfig()), error.value, error.value.__cause__]
    assert not any(secret in str(text) for text in shown)
    assert "hub_token: found a value; input should be a valid string" in error.value.found


def test_configs_are_frozen() -> None:
    """A config cannot be changed once it is made."""
    with pytest.raises(ValueError, match="frozen"):
        TrainConfig().resolution = 32


def test_configs_reach_other_processes() -> None:
    """A config survives pickling, as torch's multiprocessing needs."""
    config = TrainConfig(resolution=32)
    assert pickle.loads(pickle.dumps(config)) == config


def test_differences_name_what_changes_numbers() -> None:
    """Two configs differ in the options that change a run's numbers, each with both values, and in no neutral one."""
    ours = TrainConfig(learning_rate=1e-3, output_dir="there", checkpointing_steps=7, hub_token="x")
    assert config_differences(ours, TrainConfig()) == ["learning_rate: 0.001, but 0.0001 in the run"]
    ours = TrainConfig(num_epochs=3, random_flip=False, model="a/b.json", heldout_images=0)
    assert config_differences(ours, TrainConfig(num_epochs=3, heldout_images=None)) == [
        "random_flip: no, but yes in the run",
        "heldout_images: 0, but none in the run",
        "model: 'a/b.json', but 'default' in the run",
    ]
    assert set(TrainConfig.model_fields) >= NEUTRAL_OPTIONS


@pytest.mark.parametrize("given", [{"num_epochs": 3}, {"max_minutes": 2}])
def test_epochs_or_minutes_beat_the_steps_of_recipe_and_run(given: dict[str, Any]) -> None:
    """Epochs or minutes that are given decide over the steps of a recipe or of the run that goes on, but for steps."""
    run = TrainConfig(max_train_steps=7).model_dump()
    configs = [TrainConfig(recipe="avatars-16", **given), resuming_config(run, "run", **given)]
    assert [config.max_train_steps for config in configs] == [None, None]
    assert not any("max_train_steps" in config.model_fields_set for config in configs)
    both = {"num_epochs": 3, "max_train_steps": 9}
    configs = [TrainConfig(recipe="avatars-16", **both), resuming_config(run, "run", **both)]
    assert [config.max_train_steps for config in configs] == [9, 9]
    assert resuming_config(run, "run").max_train_steps == 7
