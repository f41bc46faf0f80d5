"""Puts bugs back, one at a time, into a copy of the source, and asks of a test that it fails.

The first seven are those of widely copied training scripts.
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLAIN_LOOP = "tests/equivalence/test_plain_loop.py::"
PROCESS = "tests/equivalence/test_process.py::"
EVALUATION = "tests/unit/evaluation/test_evaluation.py::"
BASELINES = "tests/unit/diffusion/test_baselines.py::"
POWER_CUT = "tests/faults/test_damage.py::test_a_power_cut_finds_a_whole_checkpoint"
RESUME = "tests/resume/test_exact_resume.py::"
UPDATE = "tests/unit/training/test_update.py::"


@dataclass(frozen=True)
class Bug:
    """A line of the source, what a careless hand would make of it, and the test that stands against it."""

    name: str
    path: str
    line: str
    faulty: str
    test: str


BUGS = [
    Bug(
        "ema left in the live model",
        "training/evaluate.py",
        "    try:\n        rows = ",
        '    state.averages["ema"].copy_to(state.unet.parameters())\n    try:\n        rows = ',
        PLAIN_LOOP + "test_previews_and_evaluation_leave_training_unchanged",
    ),
    Bug(
        "noise from the global generator, which previews reset",
        "diffusion/objective.py",
        "noise = standard_normal(tuple(images.shape), self.device, self.seed, Purpose.NOISE, step, micro_index)",
        "noise = torch.randn(images.shape)",
        PLAIN_LOOP + "test_no_two_steps_share_their_noise",
    ),
    Bug(
        "adam epsilon 1e-3",
        "training/optimizer.py",
        "eps=options.adam_epsilon",
        "eps=1e-3",
        PLAIN_LOOP + "test_training_is_the_plain_loop[epsilon-1]",
    ),
    Bug(
        "clipping scaled gradients",
        "training/update.py",
        "training.accelerator.clip_grad_norm_(",
        "torch.nn.utils.clip_grad_norm_(",
        PLAIN_LOOP + "test_loss_scaling_changes_nothing",
    ),
    Bug(
        "logging a loss divided by the accumulation",
        "training/loop.py",
        "state.loss_sum += loss\n",
        "state.loss_sum += loss / config.gradient_accumulation_steps\n",
        PLAIN_LOOP + "test_training_is_the_plain_loop[epsilon-3]",
    ),
    Bug(
        "stepping on the first micro-batch alone",
        "training/loop.py",
        "            losses.append(loss.detach())\n",
        "            losses.append(loss.detach())\n            if accumulation_index:\n                "
        "state.optimizer.zero_grad()\n",
        PLAIN_LOOP + "test_training_is_the_plain_loop[epsilon-3]",
    ),
    Bug(
        "a schedule that forgets accumulation",
        "config.py",
        "return self.train_batch_size * self.gradient_accumulation_steps * num_processes",
        "return self.train_batch_size",
        PLAIN_LOOP + "test_an_epoch_count_becomes_optimizer_steps",
    ),
    Bug(
        "noising in half precision",
        "diffusion/process.py",
        "self.scheduler.add_noise(images.float(), noise.float(), timesteps)",
        "self.scheduler.add_noise(images, noise, timesteps)",
        PROCESS + "test_noising_half_precision_images_adds_noise_at_every_timestep",
    ),
    Bug(
        "an ema without warm-up",
        "training/ema.py",
        "use_ema_warmup=True",
        "use_ema_warmup=False",
        PLAIN_LOOP + "test_training_is_the_plain_loop[epsilon-1]",
    ),
    Bug(
        "an ema that a resume forgets",
        "training/state.py",
        "shadow.data.copy_(tensors[name][tensor_name])",
        "pass",
        RESUME + "test_resume_after_sigterm_is_exact[3-1]",
    ),
    Bug(
        "an ema warm-up that starts again",
        "training/state.py",
        'average.optimization_step = scalars["step"]',
        "pass",
        RESUME + "test_resume_after_sigterm_is_exact[3-1]",
    ),
    Bug(
        "the same order in every epoch",
        "data/stream.py",
        "numpy_generator(self._seed, Purpose.ORDER, epoch)",
        "numpy_generator(self._seed, Purpose.ORDER)",
        "tests/unit/data/test_stream.py",
    ),
    Bug(
        "a loss sum that a resume forgets",
        "training/state.py",
        "self.loss_sum.fill_(loss_sums[process_index])",
        "self.loss_sum.zero_()",
        RESUME + "test_resume_after_a_crash_is_exact[3]",
    ),
    Bug(
        "a number that is none, and is trained on",
        "training/update.py",
        "if not status.is_finite:",
        "if False:",
        "tests/faults/test_not_finite.py::test_nan_stops_all_before_a_weight_is_touched[gradient with accumulation]",
    ),
    Bug(
        "a checkpoint that does not wait for how the last step went",
        "training/loop.py",
        "may_save(state.step)):\n            update.settle()\n",
        "may_save(state.step)):\n",
        UPDATE + "test_a_bad_step_reaches_nothing[a checkpoint]",
    ),
    Bug(
        "a line that does not wait for how the last step went",
        "training/loop.py",
        "            update.settle()\n            _log(",
        "            _log(",
        UPDATE + "test_a_bad_step_reaches_nothing[a line]",
    ),
    Bug(
        "a bad step that is named by where the loop has got to",
        "training/update.py",
        "self._training.state.images_seen, self._training.state.step = step.images_seen, step.step",
        "pass",
        UPDATE + "test_a_bad_step_reaches_nothing[nothing, for a while]",
    ),
    Bug(
        "an average that follows a step not known to be good",
        "training/update.py",
        "        if self._was_skipped.item():\n",
        "        self._average()\n        if self._was_skipped.item():\n",
        UPDATE + "test_a_bad_step_reaches_nothing[nothing, for a while]",
    ),
    Bug(
        "a step that waits for the device",
        "training/update.py",
        "        self.settle()  # the device is busy with all of the above\n",
        "        self.settle()\n        assert grad_norm.tolist() is not None\n",
        UPDATE + "test_a_step_waits_for_nothing",
    ),
    Bug(
        "a preview that was broken off, and is forgotten",
        "training/state.py",
        'self.evaluation_due = scalars["evaluation_due"]',
        "self.evaluation_due = False",
        "tests/faults/test_signals.py::test_sigterm_in_a_preview",
    ),
    Bug(
        "weights that are not synced",
        "training/checkpoint.py",
        "        sync_file(path)\n",
        "",
        POWER_CUT,
    ),
    Bug(
        "a rename that is not synced before older checkpoints go",
        "training/checkpoint.py",
        "    fsync_folder(parent)\n",
        "",
        POWER_CUT,
    ),
    Bug(
        "older checkpoints that go before the new one is verified",
        "training/checkpoint.py",
        "    fsync_folder(parent)\n",
        "    fsync_folder(parent)\n    prune_checkpoints(run_folder, 2)\n",
        POWER_CUT,
    ),
    Bug(
        "rows that are not synced before the checkpoint they lead to",
        "training/checkpointer.py",
        "            recorder.sync_rows()\n",
        "",
        POWER_CUT,
    ),
    Bug(
        "baselines that know the held-out images",
        "evaluation/baselines.py",
        "permutation(self.split.train)",
        "permutation(len(self.store.images))",
        EVALUATION + "test_baselines_never_see_heldout_images",
    ),
    Bug(
        "bands that count alike whatever their share",
        "evaluation/fixed_samples.py",
        ", weights=self.shares[inside]",
        "",
        EVALUATION + "test_levels_weigh_bands_by_their_share_of_timesteps",
    ),
    Bug(
        "training tuples with a noise of their own",
        "evaluation/fixed_samples.py",
        "Purpose.EVALUATION_NOISE, n)",
        "Purpose.EVALUATION_NOISE, n + len(self._images) * int(self.indices[0]))",
        EVALUATION + "test_training_and_heldout_tuples_differ_by_their_images_alone",
    ),
    Bug(
        "a mirrored mean",
        "diffusion/baselines.py",
        "mean = torch.where(odd, 0.0, mean)",
        "pass",
        BASELINES + "test_gaussian_baseline_is_the_best_linear_denoiser[True]",
    ),
    Bug(
        "a covariance that is never shrunk",
        "diffusion/baselines.py",
        "shrunk = (1 - shrinkage) * covariance",
        "shrunk = 1.0 * covariance",
        BASELINES + "test_few_images_are_shrunk",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name.replace(" ", "-"))
def test_bug_is_caught(bug: Bug, tmp_path: Path) -> None:
    """With the bug injected, the test that stands against it fails."""
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    path = tmp_path / "src" / "openddpm" / bug.path
    source = path.read_text()
    assert source.count(bug.line) == 1, "the line is no longer there: bring this bug up to date"
    path.write_text(source.replace(bug.line, bug.faulty))
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "src")}
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", bug.test]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stdout[-2000:]
    assert "SyntaxError" not in done.stdout and "ImportError" not in done.stdout
