"""Names of options in other training scripts, and the option that replaces each here.

From diffusers' train_unconditional.py and its text-to-image scripts, lucidrains' denoising-diffusion-pytorch,
guided-diffusion, pytorch-ddpm, kohya's sd-scripts and SimpleTuner.
"""

from collections.abc import Collection, Iterable

from openddpm.errors import closest

_EPOCHS_OR_STEPS = "--num_epochs, or --max_train_steps,"
_HALF = "--mixed_precision fp16 or --mixed_precision bf16"
_ARCHITECTURE = "the architecture is --model here: a named size, or a UNet2DModel's config.json"
_NO_WORKERS = "images are decoded once and kept, so no workers are needed"
_NO_LABELS = "openddpm trains without labels or captions"
_ATTENTION = "PyTorch's own fast attention is used where available"
_PICTURES_BY_EPOCH = "--save_images_epochs, in epochs,"
_RESUME = "--resume_from_checkpoint latest, or `openddpm resume RUN`,"
_SAMPLES = "samples are made by `openddpm sample RUN`"
_QUALITY = "the quality of samples is not measured while training"
_LOSS = "the loss is the mean squared error of the prediction, with equal weights for all timesteps"
_LAUNCHER = "the launcher sets the number of processes: accelerate launch or torchrun"

OTHER_NAMES: dict[str, str] = {
    # data
    **dict.fromkeys(("dataset_name", "train_data_dir", "data_dir", "data_path", "data_root"), "--dataset"),
    **dict.fromkeys(("instance_data_dir", "image_dir", "image_folder", "folder", "data", "train_dir"), "--dataset"),
    "dataset_config_name": "--dataset_config",
    "split": "--dataset_split",
    **dict.fromkeys(("image_size", "img_size", "im_size", "size"), "--resolution"),
    "image_key": "--image_column",
    "convert_image_to": "--image_mode rgb or --image_mode gray",
    **dict.fromkeys(("augment_horizontal_flip", "horizontal_flip", "hflip", "flip", "flip_aug"), "--random_flip"),
    "center_crop": "images are always resized by their shorter side and cropped to the centre",
    "random_crop": "images are cropped to the centre, once",
    **dict.fromkeys(("num_workers", "dataloader_num_workers", "max_data_loader_n_workers", "n_workers"), _NO_WORKERS),
    "pin_memory": _NO_WORKERS,
    "max_train_samples": "all images are trained on; give a folder with fewer",
    **dict.fromkeys(("caption_column", "class_cond", "num_classes", "instance_prompt", "class_prompt"), _NO_LABELS),
    **dict.fromkeys(("validation_prompt", "validation_prompts", "caption_extension", "cond_drop_prob"), _NO_LABELS),
    # length and batches
    **dict.fromkeys(("batch_size", "bs", "per_device_train_batch_size"), "--train_batch_size"),
    "microbatch": "--train_batch_size, with --gradient_accumulation_steps,",
    **dict.fromkeys(("gradient_accumulate_every", "grad_accum", "accumulation_steps"), "--gradient_accumulation_steps"),
    **dict.fromkeys(("epochs", "num_train_epochs", "max_train_epochs", "n_epochs", "max_epochs"), "--num_epochs"),
    **dict.fromkeys(("train_num_steps", "total_steps", "max_steps", "num_steps", "n_iters"), "--max_train_steps"),
    **dict.fromkeys(("iterations", "num_iterations", "total_iters", "train_steps"), "--max_train_steps"),
    "lr_anneal_steps": f"{_EPOCHS_OR_STEPS} with --lr_scheduler linear",
    # optimization
    **dict.fromkeys(("lr", "train_lr", "unet_lr"), "--learning_rate"),
    **dict.fromkeys(("lr_warmup", "warmup", "warmup_steps", "num_warmup_steps"), "--lr_warmup_steps"),
    **dict.fromkeys(("scheduler", "lr_schedule"), "--lr_scheduler"),
    **dict.fromkeys(("weight_decay", "wd"), "--adam_weight_decay"),
    "adam_betas": "--adam_beta1 with --adam_beta2",
    "optimizer_type": "--optimizer",
    **dict.fromkeys(("grad_clip", "gradient_clipping", "clip_grad_norm", "grad_norm"), "--max_grad_norm"),
    **dict.fromkeys(("ema_decay", "ema_rate", "ema_max", "ema_beta"), "--ema_max_decay"),
    "ema": "--use_ema",
    "ema_update_every": "the average is updated at every step; --ema_max_decay sets over how many it averages",
    **dict.fromkeys(("amp", "fp16", "use_fp16", "bf16", "precision", "mixed_precision_type"), _HALF),
    **dict.fromkeys(("use_amp", "half"), _HALF),
    "fp16_scale_growth": "the loss is scaled by PyTorch's GradScaler with its defaults",
    "preserve_input_precision": "images are kept in 8 bits per channel, to which deeper ones are scaled",
    **dict.fromkeys(("allow_tf32", "enable_tf32", "tf32"), "a GPU always computes in TF32, unless in half precision"),
    **dict.fromkeys(("compile", "use_compile", "torch_compile", "dynamo_backend"), "--speed max"),
    **dict.fromkeys(("deterministic", "use_deterministic"), "--speed exact"),
    **dict.fromkeys(("enable_xformers_memory_efficient_attention", "xformers", "flash_attn", "sdpa"), _ATTENTION),
    "use_checkpoint": "--gradient_checkpointing",
    "use_8bit_adam": "there is no 8-bit optimizer; --gradient_checkpointing saves memory",
    "scale_lr": "the learning rate is used as given; scale it yourself",
    **dict.fromkeys(("snr_gamma", "min_snr_gamma", "min_snr_loss_weight", "loss_weight", "loss_type"), _LOSS),
    **dict.fromkeys(("noise_offset", "input_perturbation", "offset_noise_strength"), _LOSS),
    "schedule_sampler": "--timestep_sampling",
    # model and diffusion
    **dict.fromkeys(("model_config_name_or_path", "unet_config", "model_config"), "--model"),
    **dict.fromkeys(("pretrained_model_name_or_path", "pretrained", "pretrained_model", "init_weights"), "--init_from"),
    "finetune_from": "--init_from",
    **dict.fromkeys(("dim", "dim_mults", "ch", "ch_mult", "channel_mult", "attn", "num_channels"), _ARCHITECTURE),
    **dict.fromkeys(("num_res_blocks", "num_heads", "num_head_channels", "attention_resolutions"), _ARCHITECTURE),
    **dict.fromkeys(("dropout", "use_scale_shift_norm", "resblock_updown", "use_new_attention_order"), _ARCHITECTURE),
    "channels": "--image_mode rgb or --image_mode gray",
    **dict.fromkeys(("ddpm_num_steps", "timesteps", "diffusion_steps", "T", "n_timesteps"), "--num_train_timesteps"),
    "num_timesteps": "--num_train_timesteps",
    **dict.fromkeys(("ddpm_num_inference_steps", "sampling_timesteps", "sample_steps"), "--num_inference_steps"),
    **dict.fromkeys(("timestep_respacing", "inference_steps", "ddim_steps"), "--num_inference_steps"),
    **dict.fromkeys(("ddpm_beta_schedule", "noise_schedule"), "--beta_schedule"),
    **dict.fromkeys(("beta_1", "beta_T", "beta_start", "beta_end"), "the range of betas is fixed; see --beta_schedule"),
    **dict.fromkeys(("objective", "mean_type", "pred_type", "parameterization"), "--prediction_type"),
    "predict_xstart": "--prediction_type sample",
    "v_parameterization": "--prediction_type v_prediction",
    **dict.fromkeys(("learn_sigma", "var_type", "use_kl"), "the variance is fixed, not learned"),
    "rescale_timesteps": "the UNet gets the timesteps 0 to num_train_timesteps - 1 unscaled",
    # the run folder and what is written
    **dict.fromkeys(("results_folder", "out_dir", "outdir", "save_dir", "output", "run_dir"), "--output_dir"),
    **dict.fromkeys(("output_path", "checkpoint_dir", "ckpt_dir", "work_dir"), "--output_dir"),
    **dict.fromkeys(("logdir", "log_dir", "tensorboard_dir"), "--logging_dir"),
    **dict.fromkeys(("logger", "log_with"), "--report_to"),
    **dict.fromkeys(("use_wandb", "wandb"), "--report_to wandb"),
    **dict.fromkeys(
        ("tracker_project_name", "wandb_project", "project_name"), "trackers have all runs in the project openddpm"
    ),
    **dict.fromkeys(("log_interval", "log_every", "log_steps"), "--logging_steps"),
    **dict.fromkeys(("save_interval", "save_step", "save_every", "save_steps", "ckpt_every"), "--checkpointing_steps"),
    "save_model_epochs": "--checkpointing_steps, in steps,",
    "save_every_n_epochs": "--checkpointing_steps, in steps,",
    "save_every_n_steps": "--checkpointing_steps",
    "save_total_limit": "--checkpoints_total_limit",
    "save_and_sample_every": f"--checkpointing_steps, with {_PICTURES_BY_EPOCH[:-1]}",
    **dict.fromkeys(("sample_step", "sample_every", "sample_interval", "validation_epochs"), _PICTURES_BY_EPOCH),
    **dict.fromkeys(("validation_steps", "sample_every_n_steps", "sample_every_n_epochs"), _PICTURES_BY_EPOCH),
    **dict.fromkeys(("sample_size", "num_validation_images"), "--eval_batch_size"),
    **dict.fromkeys(("num_samples", "num_images"), _SAMPLES),
    **dict.fromkeys(("resume", "resume_checkpoint", "resume_from", "load_checkpoint"), _RESUME),
    "resume_step": _RESUME,
    **dict.fromkeys(
        ("calculate_fid", "num_fid_samples", "fid_cache", "fid_use_torch", "inception_block_idx"), _QUALITY
    ),
    "eval_step": "the held-out loss is measured as often as costs little; --save_images_epochs sets the previews",
    "save_best_and_latest_only": "--checkpoints_total_limit",
    **dict.fromkeys(("manual_seed", "random_seed", "global_seed"), "--seed"),
    "revision": "--dataset_revision",
    # machine and Hub
    **dict.fromkeys(("local_rank", "num_processes", "world_size", "parallel", "multi_gpu", "split_batches"), _LAUNCHER),
    **dict.fromkeys(("num_gpus", "n_gpu"), _LAUNCHER),
    **dict.fromkeys(
        ("gpu", "gpus", "gpu_id", "gpu_ids"), "choose GPUs by an environment variable: CUDA_VISIBLE_DEVICES=0"
    ),
    **dict.fromkeys(("device", "use_cuda", "cuda"), "a GPU is used if there is one; CUDA_VISIBLE_DEVICES= hides it"),
    "token": "--hub_token",
    "hub_private": "--hub_private_repo",
    **dict.fromkeys(
        ("config", "config_file", "flagfile"), "named sets of options are --recipe here; a resumed run keeps its own"
    ),
}
"""For each name the options that replace it here, or why there is none."""

_FLAGS = ("--random_flip", "--use_ema", "--gradient_checkpointing")
"""Replacements that --no- switches off."""


def answer(name: str) -> str | None:
    """Return what replaces the option `name` of other scripts, as the end of a sentence; None if it is not known."""
    meant = OTHER_NAMES.get(name) or OTHER_NAMES.get(name.removeprefix("no_"))
    if meant is None:
        return None
    if name not in OTHER_NAMES and meant in _FLAGS:
        meant = f"--no-{meant.removeprefix('--')}"
    return f"is {meant.rstrip(',')} here" if meant.startswith("--") else f"is no option here: {meant}"


def answers(given: Iterable[str], known: Collection[str]) -> list[str]:
    """Return a line for each unknown option if at least one of them is another script's; else no lines.

    Args:
        given: names as they were typed, with their hyphens.
        known: names of options, with underscores.
    """
    unknown = {name: name.lstrip("-").replace("-", "_") for name in given}
    unknown = {spelled: name for spelled, name in unknown.items() if name not in known}
    answered = {spelled: answer(name) for spelled, name in unknown.items()}
    if not any(answered.values()):
        return []
    return [
        f"{spelled} {_for_command(text, known) if text else f'is no option; {_nearest(unknown[spelled], known)}'}"
        for spelled, text in answered.items()
    ]


def _for_command(text: str, known: Collection[str]) -> str:
    """Return an answer for a command with the options `known`: other options are said to be those of training."""
    first = text.removeprefix("is --").split()[0].rstrip(",").replace("-", "_")
    return text if first in known or not text.startswith("is --") else f"{text.removesuffix(' here')} of openddpm train"


def _nearest(name: str, known: Collection[str]) -> str:
    """Return the closest known name as a question, or how to list all."""
    near, is_near, _ = closest(name, list(known)).partition("? ")
    return f"{near}?" if is_near else "openddpm train --help lists all"
