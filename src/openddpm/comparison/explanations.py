"""What could explain that runs differ: options, software, hardware, and what the curves' shape suggests."""

import math
from dataclasses import dataclass, replace
from typing import Any

from openddpm.analysis.text import plain
from openddpm.analysis.verdict import judge
from openddpm.config import NEUTRAL_OPTIONS, TrainConfig
from openddpm.record.public import last_part, published
from openddpm.record.reader import RunFolder

LAB_LOG, WHAT_SLOWS = "docs/lab-log.md", "docs/what-slows-ddpm-training.md"


@dataclass(frozen=True)
class Explanation:
    """Something in which the candidate differs from the reference."""

    name: str
    candidate: str
    reference: str
    reason: str
    """What it is known to do, with the source."""
    effect: float
    """Its measured effect on the held-out loss, relative: explanations are ranked by it."""


@dataclass(frozen=True)
class Effect:
    """What changing an option did to the held-out loss in our own runs."""

    change: float
    """Relative; for a ratio of numbers, of twice or half the value."""
    text: str
    source: str
    is_ratio: bool = False
    better: Any = None
    """The value that was better, or LOWER; None if that is not known."""

    def side(self, ours: Any, theirs: Any) -> int:
        """Return +1 if a run with `ours` should be behind one with `theirs`, -1 if ahead, 0 if that is not known."""
        if self.better == LOWER:
            return (ours > theirs) - (ours < theirs)
        return (theirs == self.better) - (ours == self.better)


LOWER = "lower"
NO_WARM_UP = "without the average's warm-up its weights were 6 times worse after 1,400 steps"

EFFECTS: dict[str, Effect] = {
    "ema_max_decay": Effect(0.002, "made no difference on the digits, with the warm-up of the average", LAB_LOG),
    "ema_inv_gamma": Effect(0.5, NO_WARM_UP, WHAT_SLOWS, is_ratio=True),
    "ema_power": Effect(0.5, NO_WARM_UP, WHAT_SLOWS, is_ratio=True),
    "use_ema": Effect(
        0.05, "raw weights are worse than their average until the learning rate has fallen", WHAT_SLOWS, better=True
    ),
    "adam_epsilon": Effect(0.1, "1e-3 in place of 1e-8 cost 10 % on the digits", WHAT_SLOWS, better=LOWER),
    "learning_rate": Effect(0.02, "twice or half the rate changed it by up to 2 %", LAB_LOG, is_ratio=True),
    "optimizer": Effect(0.08, "Muon was 5 to 10 % better than AdamW on equal images", LAB_LOG, better="muon"),
    "timestep_sampling": Effect(
        0.1, "importance was 5 to 13 % better than stratified on equal images", LAB_LOG, better="importance"
    ),
    "zero_init_residuals": Effect(
        0.03, "up to 7 % better with Muon on the avatars, nothing with AdamW", LAB_LOG, better=True
    ),
    "global_batch_size": Effect(
        0.08, "twice the batch was 2 to 15 % worse on equal images", LAB_LOG, is_ratio=True, better=LOWER
    ),
    "model": Effect(0.02, "wider and deeper UNets were within 2 % on the digits, 5 % on the avatars", LAB_LOG),
    "prediction_type": Effect(0.03, "predicting the velocity was within 5 % on the digits and avatars", LAB_LOG),
    "lr_scheduler": Effect(0.03, "a rate that hardly falls costs a quarter more images, little at the end", WHAT_SLOWS),
    "lr_warmup_steps": Effect(0.01, "a warm-up too long costs images early on", WHAT_SLOWS),
}
"""Options and the batch by name, with what our own runs say; others have not been measured."""

SPLIT_OF_THE_BATCH = {"train_batch_size", "gradient_accumulation_steps"}
"""Options that change no more than random numbers as long as the global batch is the same."""

WRITTEN_AND_DRAWN = {"logging_steps", "save_images_epochs", "eval_batch_size", "num_inference_steps", "preview_solver"}
"""Options that change when numbers are recorded and how previews are made, but no number of training."""

SCHEDULING = {"learning_rate", "lr_scheduler", "lr_warmup_steps"}
"""Options that the learning rate is a function of, with the length of the run."""

DECISIVE = 1.0  # a problem of the run itself comes before its options; assumed
UNMEASURED = 0.005  # rank of an option among those measured; assumed
UNLIKELY = 1e-3  # the same of one whose measured effect is opposite to what is found
SAME_NUMBERS = 1e-4  # the same of software and hardware, which change numbers by rounding


def explain(candidate: RunFolder, base: RunFolder, side: int = 0) -> list[Explanation]:
    """Return what differs between a run and one of a reference, the likeliest explanation first.

    Problems that the candidate's own curves show, and the reference's do not, come before everything else. Absolute
    paths are reduced to their last parts, since a run that follows a reference publishes what differs.

    Args:
        side: +1 if the candidate is behind, -1 if it is ahead; what works to the other side is no likely reason.
    """
    problems = _problems(candidate)
    for name in _problems(base):
        problems.pop(name, None)
    options = [
        replace(one, effect=DECISIVE) if problems.pop(one.name, None) else one
        for one in _options(candidate, base, side)
    ]
    shown = "a problem that the curves themselves show"
    symptoms = [Explanation(name, text, "not found", shown, DECISIVE) for name, text in problems.items()]
    found = [*options, *symptoms, *_schedule(candidate, base)]
    found += [*_data(candidate, base), *_circumstances(candidate, base, side)]
    return sorted(found, key=lambda one: -one.effect)


def option_differences(candidate: RunFolder, base: RunFolder) -> dict[str, tuple[Any, Any]]:
    """Return the options that change numbers and differ, with both values; the seed is not one of them."""
    ours, theirs = candidate.run.config, base.run.config
    defaults = {name: field.default for name, field in TrainConfig.model_fields.items()}
    names = [name for name in defaults if name not in NEUTRAL_OPTIONS | WRITTEN_AND_DRAWN | {"seed"}]
    pairs = {name: (ours.get(name, defaults[name]), theirs.get(name, defaults[name])) for name in names}
    return {name: (our, their) for name, (our, their) in pairs.items() if _plain(our) != _plain(their)}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _options(candidate: RunFolder, base: RunFolder, side: int) -> list[Explanation]:
    has_same_batch = candidate.run.global_batch_size == base.run.global_batch_size
    found = []
    for name, (ours, theirs) in option_differences(candidate, base).items():
        reason, effect = _measured(name, ours, theirs, side)
        if name in SPLIT_OF_THE_BATCH:
            if not has_same_batch:
                continue  # global_batch_size tells it
            reason, effect = "the same images in each step, with other random numbers", SAME_NUMBERS
        found.append(Explanation(name, last_part(plain(ours)), last_part(plain(theirs)), reason, effect))
    return found


def _measured(name: str, ours: Any, theirs: Any, side: int) -> tuple[str, float]:
    """Return what is known of a change, and how large its effect is; small if it works to the other side."""
    effect = EFFECTS.get(name)
    if effect is None:
        return "its effect has not been measured", UNMEASURED
    reason = f"{effect.text} ({effect.source})"
    if side and effect.side(ours, theirs) == -side:
        other = "behind" if side < 0 else "ahead"
        return f"{reason}; so this alone would put the candidate {other}", UNLIKELY
    if effect.is_ratio and ours and theirs:
        return reason, effect.change * abs(math.log2(ours) - math.log2(theirs))
    return reason, effect.change


def _schedule(candidate: RunFolder, base: RunFolder) -> list[Explanation]:
    """Return the first logged learning rate that differs, though all that it is a function of is the same."""
    lengths = {run.run.total_steps for run in (candidate, base)}
    is_lowered = any(entry.learning_rate_factor != 1 for run in (candidate, base) for entry in run.run.resumptions)
    if SCHEDULING & option_differences(candidate, base).keys() or len(lengths) > 1 or is_lowered:
        return []
    rates = {row.step: row.learning_rate for row in base.metrics}
    for row in candidate.metrics:
        rate = rates.get(row.step, row.learning_rate)
        if not math.isclose(row.learning_rate, rate, rel_tol=1e-9):
            ours, theirs = (f"{one:.4g} at step {row.step:,}" for one in (row.learning_rate, rate))
            reason = "the options are the same and give one schedule: one of the two programs applies another"
            return [Explanation("logged_learning_rate", ours, theirs, reason, DECISIVE)]
    return []


def _data(candidate: RunFolder, base: RunFolder) -> list[Explanation]:
    ours, theirs = candidate.run.dataset, base.run.dataset
    found = []
    if ours.sha256 != theirs.sha256:
        reason = "other images: losses on them cannot be compared"
        found.append(Explanation("dataset", _dataset(candidate), _dataset(base), reason, math.inf))
    elif ours.num_train != theirs.num_train:
        reason = "fewer training images are memorized sooner"
        found.append(Explanation("num_train", f"{ours.num_train:,}", f"{theirs.num_train:,}", reason, UNMEASURED))
    return found


def _dataset(run: RunFolder) -> str:
    dataset = run.run.dataset
    return f"{last_part(dataset.source)}, {dataset.num_images:,} images of {dataset.size}, sha256 {dataset.sha256[:12]}"


def _circumstances(candidate: RunFolder, base: RunFolder, side: int) -> list[Explanation]:
    """Return differences of processes, software, hardware, and user-supplied objects."""
    ours, theirs = candidate.run.session, base.run.session
    batches = candidate.run.global_batch_size, base.run.global_batch_size
    batch = _measured("global_batch_size", *batches, side)
    rounding = "changes numbers by rounding alone"
    device = "changes numbers by rounding; another kind of device may draw other random numbers"
    tf32 = ours.environment.speed.tf32, theirs.environment.speed.tf32
    packages = [session.environment.packages for session in (ours, theirs)]
    supplied = candidate.run.user_supplied, base.run.user_supplied
    resumptions = [published(run).run.resumptions for run in (candidate, base)]
    changes = [[change for one in run for change in one.changes] for run in resumptions]
    rollbacks = [sum(one.rolled_back_from is not None for one in run) for run in resumptions]
    found: list[tuple[str, object, object, str, float]] = [
        ("global_batch_size", *batches, *batch),
        ("user_supplied", *supplied, "objects given from Python are not in the record", 2 * UNMEASURED),
        ("changes", changes[0], changes[1], "it was resumed with other options or images", 2 * UNMEASURED),
        (
            "rollbacks",
            rollbacks[0],
            rollbacks[1],
            "each went back to a checkpoint, with half the learning rate",
            2 * UNMEASURED,
        ),
        ("tf32", *tf32, "TF32 rounds products to 10 bits", 2 * SAME_NUMBERS),
        ("num_processes", ours.num_processes, theirs.num_processes, rounding, SAME_NUMBERS),
        ("device", ours.environment.device, theirs.environment.device, device, SAME_NUMBERS),
        ("cpu_threads", ours.environment.cpu_threads, theirs.environment.cpu_threads, rounding, SAME_NUMBERS),
    ]
    for name in sorted({*packages[0], *packages[1]}):
        versions = [one.get(name, "none") for one in packages]
        found.append((name, versions[0], versions[1], "may round in another way", SAME_NUMBERS))
    return [
        Explanation(name, plain(our), plain(their), reason, effect)
        for name, our, their, reason, effect in found
        if our != their
    ]


def _problems(run: RunFolder) -> dict[str, str]:
    """Return the problems that the verdict on a run finds: name -> sentence."""
    verdict = judge(run.run, run.metrics, run.evaluations, run.baselines, run.samples)
    return {evidence.name: evidence.text for evidence in verdict.evidence if evidence.kind == "warning"}
