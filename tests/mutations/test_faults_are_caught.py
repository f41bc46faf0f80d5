"""Puts faults back, one at a time, into a copy of the source, and asks of a test that it fails.

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
HELDOUT = "tests/unit/training/test_heldout.py::"
RULERS = "tests/unit/diffusion/test_rulers.py::"
POWER_CUT = "tests/faults/test_damage.py::test_a_power_cut_finds_a_whole_checkpoint"
RESUME = "tests/resume/test_exact_resume.py::"


@dataclass(frozen=True)
class Fault:
    """A line of the source, what a careless hand would make of it, and the test that stands against it."""

    name: str
    path: str
    line: str
    faulty: str
    test: str


FAULTS = [
    Fault(
        "ema left in the live model",
        "training/look.py",
        "    if recorder.is_main:\n        kinds",
        "    if recorder.is_main:\n        state.ema.copy_to(state.unet.parameters())\n        kinds",
        PLAIN_LOOP + "test_previews_and_evaluation_leave_training_unchanged",
    ),
    Fault(
        "noise from the global generator, which previews reset",
        "training/loop.py",
        'noise = standard_normal(tuple(images.shape), device, seed, "noise", step, micro_index)',
        "noise = torch.randn(images.shape)",
        PLAIN_LOOP + "test_no_two_steps_share_their_noise",
    ),
    Fault(
        "adam epsilon 1e-3",
        "training/optimization.py",
        "eps=options.adam_epsilon",
        "eps=1e-3",
        PLAIN_LOOP + "test_training_is_the_plain_loop[epsilon-1]",
    ),
    Fault(
        "clipping scaled gradients",
        "training/loop.py",
        "accelerator.clip_grad_norm_(",
        "torch.nn.utils.clip_grad_norm_(",
        PLAIN_LOOP + "test_loss_scaling_changes_nothing",
    ),
    Fault(
        "logging a loss divided by the accumulation",
        "training/loop.py",
        "state.loss_sum += loss\n",
        "state.loss_sum += loss / config.gradient_accumulation_steps\n",
        PLAIN_LOOP + "test_training_is_the_plain_loop[epsilon-3]",
    ),
    Fault(
        "stepping on the first micro-batch alone",
        "training/loop.py",
        "            losses.append(loss.detach())\n",
        "            losses.append(loss.detach())\n            if accumulation_index:\n                "
        "state.optimizer.zero_grad()\n",
        PLAIN_LOOP + "test_training_is_the_plain_loop[epsilon-3]",
    ),
    Fault(
        "a schedule that forgets accumulation",
        "training/setup.py",
        "per_step = config.train_batch_size * config.gradient_accumulation_steps * num_processes",
        "per_step = config.train_batch_size",
        PLAIN_LOOP + "test_an_epoch_count_becomes_optimizer_steps",
    ),
    Fault(
        "noising in half precision",
        "diffusion/process.py",
        "self.scheduler.add_noise(images.float(), noise.float(), timesteps)",
        "self.scheduler.add_noise(images, noise, timesteps)",
        PROCESS + "test_noising_half_precision_images_adds_noise_at_every_timestep",
    ),
    Fault(
        "an ema without warm-up",
        "training/setup.py",
        "use_ema_warmup=True",
        "use_ema_warmup=False",
        PLAIN_LOOP + "test_training_is_the_plain_loop[epsilon-1]",
    ),
    Fault(
        "an ema that a resume forgets",
        "training/state.py",
        'shadow.data.copy_(tensors["ema"][name])',
        "pass",
        RESUME + "test_resume_after_sigterm_is_exact[3-1]",
    ),
    Fault(
        "an ema warm-up that starts again",
        "training/state.py",
        'self.ema.optimization_step = scalars["step"]',
        "pass",
        RESUME + "test_resume_after_sigterm_is_exact[3-1]",
    ),
    Fault(
        "the same order in every epoch",
        "data/stream.py",
        'self.num_images, self._seed, "order", epoch)',
        'self.num_images, self._seed, "order")',
        "tests/unit/data/test_stream.py",
    ),
    Fault(
        "a loss sum that a resume forgets",
        "training/state.py",
        "self.loss_sum.fill_(loss_sums[process_index])",
        "self.loss_sum.zero_()",
        RESUME + "test_resume_after_a_crash_is_exact[3]",
    ),
    Fault(
        "a number that is none, and is trained on",
        "training/loop.py",
        "if not word.is_finite:",
        "if False:",
        "tests/faults/test_not_finite.py::test_nan_stops_all_before_a_weight_is_touched[gradient with accumulation]",
    ),
    Fault(
        "a preview that was broken off, and is forgotten",
        "training/state.py",
        'self.look_due = scalars.get("look_due", False)',
        "self.look_due = False",
        "tests/faults/test_signals.py::test_sigterm_in_a_preview",
    ),
    Fault(
        "weights that are not synced",
        "training/checkpoint.py",
        "        sync_file(path)\n",
        "",
        POWER_CUT,
    ),
    Fault(
        "a rename that is not synced before older checkpoints go",
        "training/checkpoint.py",
        "    fsync_folder(parent)\n",
        "",
        POWER_CUT,
    ),
    Fault(
        "older checkpoints that go before the new one is verified",
        "training/checkpoint.py",
        "    fsync_folder(parent)\n",
        "    fsync_folder(parent)\n    prune_checkpoints(run_folder, 2)\n",
        POWER_CUT,
    ),
    Fault(
        "rows that are not synced before the checkpoint they lead to",
        "training/saver.py",
        "            self._before()\n",
        "",
        POWER_CUT,
    ),
    Fault(
        "rulers that know the held-out images",
        "training/rulers.py",
        "permutation(self.split.train)",
        "permutation(len(self.store.images))",
        HELDOUT + "test_rulers_never_see_heldout_images",
    ),
    Fault(
        "bands that count alike whatever their share",
        "training/heldout.py",
        ", weights=self.shares[inside]",
        "",
        HELDOUT + "test_levels_weigh_bands_by_their_share_of_timesteps",
    ),
    Fault(
        "training tuples with a noise of their own",
        "training/heldout.py",
        '"evaluation noise", n)',
        '"evaluation noise", n + len(self._images) * int(self.indices[0]))',
        HELDOUT + "test_training_and_heldout_tuples_differ_by_their_images_alone",
    ),
    Fault(
        "a mirrored mean",
        "diffusion/rulers.py",
        "mean = torch.where(odd, 0.0, mean)",
        "pass",
        RULERS + "test_gaussian_ruler_is_the_best_linear_denoiser[True]",
    ),
    Fault(
        "a covariance that is never shrunk",
        "diffusion/rulers.py",
        "shrunk = (1 - shrinkage) * covariance",
        "shrunk = 1.0 * covariance",
        RULERS + "test_few_images_are_shrunk",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_fault_is_caught(fault: Fault, tmp_path: Path) -> None:
    """With the fault put back, the test that stands against it fails."""
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    path = tmp_path / "src" / "openddpm" / fault.path
    source = path.read_text()
    assert source.count(fault.line) == 1, "the line is no longer there: bring this fault up to date"
    path.write_text(source.replace(fault.line, fault.faulty))
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "src")}
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", fault.test]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stdout[-2000:]
    assert "SyntaxError" not in done.stdout and "ImportError" not in done.stdout
