"""Recipes: named sets of options, by their differences from the defaults of `TrainConfig`."""

from typing import Any

RECIPES: dict[str, dict[str, Any]] = {
    "avatars-16": {
        "dataset": "avatars-16",
        "resolution": 16,
        "model": "unet-16",
        "random_flip": False,
        "zero_init_residuals": True,
        "max_train_steps": 1500,
        "train_batch_size": 32,
        "optimizer": "muon",
        "learning_rate": 8e-3,
        "lr_scheduler": "cosine",
        "lr_warmup_steps": 100,
        "adam_beta1": 0.9,
        "adam_beta2": 0.99,
        "ema_max_decay": 0.999,
        "timestep_sampling": "importance",
        "preview_solver": "dpmsolver++",
        "num_inference_steps": 15,
        "output_dir": "runs/avatars-16",
    },
    "pokemon-64": {
        "dataset": "huggan/pokemon",
        "resolution": 64,
        "num_epochs": 400,
        "mixed_precision": "bf16",
        "timestep_sampling": "importance",
        "preview_solver": "dpmsolver++",
        "num_inference_steps": 20,
        "output_dir": "runs/pokemon-64",
    },
}
